"""Every way to send."""
import ctypes, errno, os, select, socket, struct, tempfile, threading, time

from harness import *


@case
def until_full():
    c, s = connection()
    c.setblocking(False)
    big = message(4 << 20) * 16
    sent = 0
    while True:
        code = outcome(c.send, big[sent:])
        if not isinstance(code, int):
            break
        sent += code
    time.sleep(0.3)
    while isinstance(code := outcome(c.send, big[sent:]), int):
        sent += code
        time.sleep(0.1)
    say(code, poll_mask(c), 0 < sent < len(big))
    e = select.epoll()
    e.register(c, select.EPOLLOUT | select.EPOLLET)
    say(e.poll(0.05))
    reader = threading.Thread(target=lambda: say('received', len(received(s, len(big)))))
    reader.start()
    while sent < len(big):
        ready = e.poll(10)
        if not ready:
            say('no edge after', sent)
            break
        while sent < len(big):
            code = outcome(c.send, big[sent:sent + (1 << 20)])
            if not isinstance(code, int):
                break
            sent += code
    reader.join(30)
    say(until(lambda: unsent(c) == 0), poll_mask(c))


@case
def blocking():
    c, s = connection()
    big = message(3 << 20) * 10
    reader = threading.Thread(target=lambda: say('received', len(received(s, len(big)))))
    reader.start()
    say(c.send(big))
    reader.join()
    say(outcome(c.send, b'', 0), c.sendto(message(1), ('1.2.3.4', 5)), received(s, 5))


@case
def timeout():
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 300000))
    big = message(4 << 20) * 25
    begin = time.time()
    first = libc.send(c.fileno(), big, len(big), 0)
    say(0 < first < len(big), 0.25 < time.time() - begin < 5)
    while (sent := libc.send(c.fileno(), big, 1 << 20, 0)) > 0:
        pass
    say(sent, errno.errorcode[ctypes.get_errno()])


@case
def part_of_a_message():
    """A receiver sees the beginning before the end is sent."""
    c, s = connection()
    for size, sent in ((10, 6), (100000, 50000)):
        c.sendall(message(size)[:sent])
        say(size, until(lambda: waiting(s) == sent, 1))
        c.sendall(message(size)[sent:])
        say(received(s, size + 4) == message(size))


@case
def file():
    c, s = connection()
    with tempfile.TemporaryFile() as f:
        f.write(b'0123456789' * 100000)
        f.flush()
        c.send(struct.pack('>I', 1000000), socket.MSG_MORE)
        got = []
        reader = threading.Thread(target=lambda: got.append(received(s, 1000004)))
        reader.start()
        offset = 0
        while offset < 1000000:
            offset += os.sendfile(c.fileno(), f.fileno(), offset, 1000000 - offset)
        reader.join()
        say(got[0][4:] == b'0123456789' * 100000, os.lseek(f.fileno(), 0, 1), os.sendfile(c.fileno(), f.fileno(), 1000000, 10))
        os.lseek(f.fileno(), 999990, 0)
        c.send(struct.pack('>I', 10), socket.MSG_MORE)
        say(os.sendfile(c.fileno(), f.fileno(), None, 100), os.lseek(f.fileno(), 0, 1), received(s, 14)[4:])
        say(outcome(os.sendfile, f.fileno(), c.fileno(), 0, 10))
