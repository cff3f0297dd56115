"""Descriptors that are copied, replaced and closed."""
import fcntl, os, signal, socket, struct

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


# ---------------------------------------------------------------- copies and ends of numbers

def dup2_low(fd):
    return os.dup2(fd, 77)


def dup2_high(fd):
    return os.dup2(fd, 1500)


def dup3(fd):
    return libc.dup3(fd, 78, os.O_CLOEXEC)


def f_dupfd(fd):
    return fcntl.fcntl(fd, fcntl.F_DUPFD, 1200)


COPIES = {'dup': os.dup, 'dup2-low': dup2_low, 'dup2-high': dup2_high, 'dup3': dup3, 'f-dupfd': f_dupfd,
          'f-dupfd-cloexec': lambda fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1030)}
CLOSERS = {'close': os.close, 'close-range': lambda fd: called(libc.close_range, fd, fd, 0),
           'closerange': lambda fd: os.closerange(fd, fd + 1), 'dup2-over': lambda fd: os.dup2(os.open('/dev/null', os.O_RDONLY), fd),
           'close-range-cloexec': lambda fd: (called(libc.close_range, fd, fd, 4), os.close(fd))}


@each(copy=COPIES, closer=CLOSERS)
def copies(copy, closer):
    """A copy is the same connection; it lasts until the last number is closed."""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    c, s = connection()
    number = copy(s.fileno())
    c.sendall(message(10))
    say(os.read(number, 4), received(s, 6), os.get_inheritable(number), poll_mask(number), waiting(s))
    os.write(number, message(3))
    say(received(c, 7), struct.unpack('H', socket.socket(fileno=os.dup(number)).getsockopt(1, 39, 2)))
    closer(s.fileno())
    s.detach()
    say(poll_mask(c), outcome(os.read, number, 4))
    closer(number)
    say(c.recv(1), poll_mask(c))


@case
def no_numbers_left():
    import resource
    l = listener()
    c = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, 4096))
    say(outcome(l.accept), outcome(c.dup), outcome(socket.socket))
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    s, _ = l.accept()
    c.sendall(message(1))
    say(received(s, 5))


@each(flags={'none': 0, 'cloexec': os.O_CLOEXEC, 'nonblock': os.O_NONBLOCK, 'both': os.O_CLOEXEC | os.O_NONBLOCK})
def flags_of_accept4(flags):
    l = listener()
    c = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    fd = called(libc.accept4, l.fileno(), None, None, flags)
    say(os.get_inheritable(fd), os.get_blocking(fd), fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


@each(end=('accepted', 'connected'))
def status_flags(end):
    c, s = connection()
    one = c if end == 'connected' else s
    for flags in (0, os.O_NONBLOCK, os.O_ASYNC, os.O_NONBLOCK | os.O_APPEND, 0):
        say(flags, outcome(fcntl.fcntl, one, fcntl.F_SETFL, flags), fcntl.fcntl(one, fcntl.F_GETFL))
    for flags in (0, 1):
        say(fcntl.fcntl(one, fcntl.F_SETFD, flags), fcntl.fcntl(one, fcntl.F_GETFD))
    say(fcntl.fcntl(one, fcntl.F_SETOWN, os.getpid()), fcntl.fcntl(one, fcntl.F_GETOWN) == os.getpid())
    say(outcome(os.lseek, one.fileno(), 0, 0), outcome(os.fsync, one.fileno()), outcome(os.ftruncate, one.fileno(), 0))
    mode = os.fstat(one.fileno()).st_mode
    say(oct(mode & 0o170000), os.isatty(one.fileno()), outcome(os.pread, one.fileno(), 1, 0), outcome(os.pwrite, one.fileno(), b'x', 0))


@case
def threads_with_one_number():
    """Writers send whole messages at once; readers take what they get. Nothing is lost."""
    c, s = connection()
    got = []
    readers = [in_thread(lambda: [got.append(len(d)) for d in iter(lambda: s.recv(3000), b'')]) for _ in range(2)]
    writers = [in_thread(lambda: [libc.send(c.fileno(), message(2000), 2004, 0) for _ in range(100)]) for _ in range(3)]
    [w.join() for w in writers]
    c.shutdown(socket.SHUT_WR)
    [r.join() for r in readers]
    say(sum(got))


@case
def closed_under_a_reader():
    """Another thread closes the number: the reader is not disturbed, and the next call says EBADF."""
    c, s = connection()
    value = []
    reader = in_thread(lambda: value.append(outcome(s.recv, 6)))
    until(lambda: sleeps(reader))
    os.close(s.fileno())
    c.sendall(message(2))
    reader.join(5)
    say(value, outcome(s.recv, 1))
    s.detach()
