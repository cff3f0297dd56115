"""Every way to receive."""
import ctypes, errno, os, select, signal, socket, struct, threading, time

from harness import *


@case
def flags():
    c, s = connection()
    say(outcome(s.recv, 10, socket.MSG_DONTWAIT))
    c.sendall(message(10, b'abcdefghij'[0:1]))
    say(poll_mask(s, select.POLLIN, 5000))
    say(s.recv(2, socket.MSG_PEEK), s.recv(4, socket.MSG_PEEK), poll_mask(s))
    say(s.recv(4), poll_mask(s), s.recv(3, socket.MSG_PEEK), s.recv(3), poll_mask(s))
    say(s.recv(7), poll_mask(s), outcome(s.recv, 1, socket.MSG_DONTWAIT))
    c.sendall(message(100))
    until(lambda: waiting(s) == 104)
    say(waiting(s), s.recv(50, socket.MSG_TRUNC)[:0], waiting(s), len(received(s, 54)))
    say(outcome(s.recv, 10, socket.MSG_OOB), outcome(c.recv, 10, socket.MSG_ERRQUEUE))
    say(outcome(s.recv, 0, socket.MSG_DONTWAIT))
    c.sendall(message(1))
    poll_mask(s, select.POLLIN, 5000)
    say(s.recv(0), received(s, 5), os.read(s.fileno(), 0))


@case
def waitall():
    c, s = connection()
    def later():
        for _ in range(4):
            time.sleep(0.05)
            c.sendall(message(1000))
    t = threading.Thread(target=later)
    t.start()
    say(len(s.recv(4016, socket.MSG_WAITALL)))
    t.join()
    c.sendall(message(96))
    t = threading.Timer(0.2, c.close)
    t.start()
    say(len(s.recv(1000, socket.MSG_WAITALL)), s.recv(10), s.recv(10))
    t.join()


@case
def vectors():
    c, s = connection()
    c.sendall(message(60))
    until(lambda: waiting(s) == 64)
    buffers = [bytearray(1) for _ in range(40)] + [bytearray(), bytearray(100)]
    size, control, flags, address = s.recvmsg_into(buffers, 100)
    say(size, control, flags, address)
    c.sendmsg([message(8)[:4], b'', b'12', b'', b'345678'])
    say(os.readv(s.fileno(), [bytearray(5)]), len(received(s, 7)))
    os.writev(c.fileno(), [message(8)[:4], b'12345678'])
    say(outcome(os.preadv, s.fileno(), [bytearray(4)], 0))
    say(outcome(os.pread, s.fileno(), 4, 0), len(received(s, 12)))
    many = [b'a'] * 996
    say(c.sendmsg([struct.pack('>I', 996)] + many), len(received(s, 1000)))
    buffer = bytearray(8)
    c.sendall(message(4))
    say(s.recvfrom(8, socket.MSG_WAITALL)[1])


@case
def timeout():
    c, s = connection()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 200000))
    begin = time.time()
    buffer = ctypes.create_string_buffer(10)
    result = libc.recv(s.fileno(), buffer, 10, 0)
    say(result, errno.errorcode[ctypes.get_errno()], 0.15 < time.time() - begin < 1)
    say(struct.unpack('ll', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[1] // 10000)


@case
def interrupted():
    c, s = connection()
    for restart in (False, True):
        hits = []
        signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
        signal.siginterrupt(signal.SIGALRM, not restart)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        timer = threading.Timer(0.4, c.sendall, [message(2)])
        timer.start()
        buffer = ctypes.create_string_buffer(10)
        result = libc.recv(s.fileno(), buffer, 6, 0x100)
        say(restart, result, errno.errorcode[ctypes.get_errno()] if result < 0 else '')
        timer.join()
        if result < 0:
            received(s, 6)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@case
def from_two_threads():
    c, s = connection()
    got = []
    def reader():
        while True:
            data = s.recv(1 << 16)
            if not data:
                return
            got.append(len(data))
    threads = [threading.Thread(target=reader) for _ in range(3)]
    [t.start() for t in threads]
    for _ in range(200):
        c.sendall(message(5000))
    c.close()
    [t.join(10) for t in threads]
    say(sum(got), any(t.is_alive() for t in threads))
