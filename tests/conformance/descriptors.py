"""Descriptors that are copied, replaced and closed."""
import fcntl, os, socket

from harness import *


@case
def duplicates():
    c, s = connection()
    d = s.dup()
    e = os.dup2(s.fileno(), 200)
    f = fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 100)
    c.sendall(message(20))
    say(received(s, 4), d.recv(4, socket.MSG_WAITALL), os.read(e, 4), os.read(f, 4))
    s.close(), d.close(), os.close(e)
    say(len(os.read(f, 100)), poll_mask(c))
    os.close(f)
    say(c.recv(1))
    # Numbers that were ours become files and pipes.
    r, w = os.pipe()
    os.dup2(r, c.fileno())
    os.write(w, b'pipe')
    say(os.read(c.fileno(), 10))


@case
def numbers_are_used_again():
    for _ in range(20):
        c, s = connection()
        number = s.fileno()
        s.close()
        with open('/proc/self/cmdline', 'rb') as f:
            if f.fileno() != number:
                os.dup2(f.fileno(), number)
            say(len(os.read(number, 4)))
            if f.fileno() != number:
                os.close(number)
        c.close()


@case
def position_is_shared():
    c, s = connection()
    c.sendall(message(8, b'z'))
    until(lambda: waiting(s) == 12)
    pid = os.fork()
    if pid == 0:
        received(s, 6)
        os._exit(0)
    os.waitpid(pid, 0)
    say(waiting(s), received(s, 6))
