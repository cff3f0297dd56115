#!/usr/bin/python3
"""One script, run over TCP and over SMBDIRECT under the library: what it prints must be the same.

    conformance.py PORT [SCENARIO...]     everything sent is framed as SMB frames it: 4 bytes of length, then so many bytes
"""
import array, ctypes, errno, fcntl, os, select, signal, socket, struct, subprocess, sys, tempfile, termios, threading, time

port = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
scenarios = []


def scenario(function):
    scenarios.append(function)
    return function


def say(*words):
    print('   ', *words, flush=True)


def message(size, byte=b'x'):
    return struct.pack('>I', size) + byte * size


def outcome(function, *arguments, **named):
    """What a call gave: its value, or the name of its errno."""
    try:
        value = function(*arguments, **named)
        return value if value is not None else 'ok'
    except BlockingIOError as error:
        return errno.errorcode[error.errno]
    except socket.timeout:
        return 'timeout'
    except OSError as error:
        return errno.errorcode.get(error.errno, error)


def short(value):
    return f'{len(value)} bytes' if isinstance(value, bytes) and len(value) > 16 else value


def listener(family=socket.AF_INET, address=None, backlog=16):
    l = socket.socket(family, socket.SOCK_STREAM)
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind((address or ('::1' if family == socket.AF_INET6 else '127.0.0.1'), port))
    l.listen(backlog)
    return l


def connection(**named):
    """A listener, both ends of a connection to it."""
    l = listener(**named)
    c = socket.create_connection(l.getsockname()[:2])
    s, _ = l.accept()
    l.close()
    return c, s


def received(s, size):
    data = b''
    while len(data) < size:
        more = s.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def poll_mask(s, events=select.POLLIN | select.POLLOUT | select.POLLRDHUP, wait=0):
    p = select.poll()
    p.register(s, events)
    ready = p.poll(wait)
    return mask_names(ready[0][1]) if ready else '-'


def mask_names(mask):
    names = [('IN', 1), ('OUT', 4), ('ERR', 8), ('HUP', 16), ('RDHUP', 0x2000)]
    return '|'.join(name for name, bit in names if mask & bit) or '-'


def until(condition, seconds=5):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            return False
        time.sleep(0.005)
    return True


# ---------------------------------------------------------------- connecting

@scenario
def connect_blocking():
    for family in (socket.AF_INET, socket.AF_INET6):
        c, s = connection(family=family)
        say(c.getpeername() == s.getsockname(), s.getpeername() == c.getsockname(), c.getpeername())
        say(c.family, s.family, s.type, len(s.getpeername()))
        for sock in (c, s):
            for option in ('SO_DOMAIN', 'SO_PROTOCOL', 'SO_TYPE', 'SO_ACCEPTCONN', 'SO_ERROR'):
                number = {'SO_DOMAIN': 39, 'SO_PROTOCOL': 38}.get(option) or getattr(socket, option)
                say(option, sock.getsockopt(socket.SOL_SOCKET, number))
            say('ucred', struct.unpack('iii', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        say(poll_mask(c), poll_mask(s))
        say(outcome(c.connect, c.getpeername()), outcome(s.connect, c.getpeername()))
        say(outcome(c.listen, 1), outcome(c.accept), outcome(c.bind, ('127.0.0.1' if family == socket.AF_INET else '::1', 0)))
        c.close(), s.close()


@scenario
def connect_mapped():
    l = socket.socket(socket.AF_INET6)
    l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(('::', port))
    l.listen(5)
    c = socket.socket(socket.AF_INET6)
    c.connect(('::ffff:127.0.0.1', port))
    s, peer = l.accept()
    say(c.getpeername(), peer[0], s.getsockname()[0], s.family)
    c4 = socket.create_connection(('127.0.0.1', port))
    s4, peer = l.accept()
    say(c4.getpeername(), peer[0], s4.getpeername()[0], len(peer))


@scenario
def connect_nonblocking():
    l = listener()
    for how in ('select', 'poll', 'epoll', 'epoll-et', 'epoll-before'):
        c = socket.socket()
        c.setblocking(False)
        e = select.epoll()
        if how == 'epoll-before':
            e.register(c, select.EPOLLIN | select.EPOLLOUT)
        code = c.connect_ex(('127.0.0.1', port))
        say(how, code in (0, errno.EINPROGRESS))
        if how == 'select':
            say([bool(x) for x in select.select([c], [c], [c], 5)])
        elif how == 'poll':
            say(poll_mask(c, wait=5000))
        else:
            if how != 'epoll-before':
                e.register(c, select.EPOLLIN | select.EPOLLOUT | (select.EPOLLET if how == 'epoll-et' else 0))
            ready = e.poll(5)
            say([(fd == c.fileno(), mask_names(m)) for fd, m in ready])
            say(len(e.poll(0)))
            say(outcome(e.modify, c, select.EPOLLIN), len(e.poll(0)), outcome(e.unregister, c))
        s, _ = l.accept()
        say(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getpeername() == c.getsockname())
        say(c.connect_ex(('127.0.0.1', port)) in (0, errno.EISCONN), errno.errorcode.get(c.connect_ex(('127.0.0.1', port))))
        c.close(), s.close(), e.close()


@scenario
def connect_refused():
    c = socket.socket()
    for attempt in range(3):
        say(outcome(c.connect, ('127.0.0.1', port)), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say(outcome(c.getpeername), outcome(c.recv, 10), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    l = listener()
    say('again', outcome(c.connect, ('127.0.0.1', port)), c.getpeername())
    c.close(), l.close()


@scenario
def connect_refused_nonblocking():
    c = socket.socket()
    c.setblocking(False)
    c.connect_ex(('127.0.0.1', port))
    until(lambda: poll_mask(c) != '-')
    # TCP over loopback refuses at once, SMBDIRECT a little later: what can be seen afterwards is the point.
    c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    say(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), outcome(c.getpeername))
    l = listener()
    c.setblocking(True)
    if c.connect_ex(('127.0.0.1', port)):
        say('again', c.connect_ex(('127.0.0.1', port)))
    else:
        say('again', 0)
    s, _ = l.accept()
    c.sendall(message(3))
    say(received(s, 7))


@scenario
def connect_timeout_and_settimeout():
    l = listener()
    c = socket.socket()
    c.settimeout(5)
    c.connect(('127.0.0.1', port))
    s, _ = l.accept()
    c.settimeout(0.2)
    say(outcome(c.recv, 1))
    s.sendall(message(2))
    say(received(c, 6))


# ---------------------------------------------------------------- receiving

@scenario
def receive_flags():
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


def waiting(s):
    buffer = array.array('i', [0])
    fcntl.ioctl(s, termios.FIONREAD, buffer)
    return buffer[0]


@scenario
def receive_waitall():
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


@scenario
def receive_vectors():
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


@scenario
def receive_timeout():
    c, s = connection()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 200000))
    begin = time.time()
    buffer = ctypes.create_string_buffer(10)
    result = libc.recv(s.fileno(), buffer, 10, 0)
    say(result, errno.errorcode[ctypes.get_errno()], 0.15 < time.time() - begin < 1)
    say(struct.unpack('ll', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[1] // 10000)


@scenario
def receive_interrupted():
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


@scenario
def receive_from_two_threads():
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


# ---------------------------------------------------------------- sending

@scenario
def send_until_full():
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


def unsent(s):
    buffer = array.array('i', [0])
    fcntl.ioctl(s, termios.TIOCOUTQ, buffer)
    return buffer[0]


@scenario
def send_blocking():
    c, s = connection()
    big = message(3 << 20) * 10
    reader = threading.Thread(target=lambda: say('received', len(received(s, len(big)))))
    reader.start()
    say(c.send(big))
    reader.join()
    say(outcome(c.send, b'', 0), c.sendto(message(1), ('1.2.3.4', 5)), received(s, 5))


@scenario
def send_timeout():
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 300000))
    big = message(4 << 20) * 25
    begin = time.time()
    first = libc.send(c.fileno(), big, len(big), 0)
    say(0 < first < len(big), 0.25 < time.time() - begin < 5)
    while (sent := libc.send(c.fileno(), big, 1 << 20, 0)) > 0:
        pass
    say(sent, errno.errorcode[ctypes.get_errno()])


@scenario
def send_file():
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


# ---------------------------------------------------------------- the end

@scenario
def end_by_close():
    c, s = connection()
    c.sendall(message(5))
    until(lambda: waiting(s) == 9)
    c.close()
    say(until(lambda: 'RDHUP' in poll_mask(s)), waiting(s), len(s.recv(100)), s.recv(100), s.recv(100))
    say(outcome(s.getpeername) != 'ENOTCONN', s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@scenario
def end_by_shutdown():
    c, s = connection()
    s.sendall(message(5))
    until(lambda: waiting(c) == 9)
    say(outcome(c.shutdown, socket.SHUT_WR), until(lambda: 'RDHUP' in poll_mask(s)), s.recv(10))
    say(outcome(c.send, message(1), socket.MSG_NOSIGNAL), len(c.recv(100)))
    s.close()
    say(c.recv(10))
    c2 = socket.socket()
    say(outcome(c2.shutdown, socket.SHUT_RDWR))
    c, s = connection()
    say(outcome(c.shutdown, socket.SHUT_RD), c.recv(10), until(lambda: 'RDHUP' in poll_mask(c)))


@scenario
def end_by_reset():
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    c.close()
    say(until(lambda: 'ERR' in poll_mask(s)), poll_mask(s))
    say(outcome(s.recv, 10), outcome(s.recv, 10), outcome(s.send, message(1), socket.MSG_NOSIGNAL))
    say(outcome(s.getpeername))
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    c.close()
    until(lambda: 'ERR' in poll_mask(s))
    say(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), outcome(s.recv, 10))


@scenario
def end_with_data_unread():
    c, s = connection()
    s.sendall(message(5))
    until(lambda: waiting(c) == 9)
    c.close()
    say(until(lambda: 'ERR' in poll_mask(s)), outcome(s.recv, 10), outcome(s.recv, 10))


@scenario
def end_while_blocked():
    for ending in ('close', 'shutdown', 'reset', 'local'):
        c, s = connection()
        if ending == 'reset':
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        act = {'close': c.close, 'reset': c.close, 'shutdown': lambda: c.shutdown(socket.SHUT_RDWR),
               'local': lambda: s.shutdown(socket.SHUT_RDWR)}[ending]
        t = threading.Timer(0.1, act)
        t.start()
        say(ending, outcome(s.recv, 10))
        t.join()


@scenario
def broken_pipe_signal():
    c, s = connection()
    c.close()
    until(lambda: 'RDHUP' in poll_mask(s))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for _ in range(50):
            libc.send(s.fileno(), message(10), 14, 0)
            time.sleep(0.02)
        os._exit(0)
    say(os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGPIPE)


# ---------------------------------------------------------------- options

@scenario
def options():
    c, s = connection()
    for level, option, value in [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 5),
            (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1), (socket.SOL_SOCKET, socket.SO_PRIORITY, 3),
            (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1), (socket.SOL_SOCKET, socket.SO_SNDBUF, 100000),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, 90000), (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.IPPROTO_TCP, socket.TCP_CORK, 1), (socket.IPPROTO_TCP, socket.TCP_CORK, 0),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 33), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 40000),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345), (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
            (socket.IPPROTO_TCP, 999, 1), (socket.SOL_SOCKET, 9999, 1), (12345, 1, 1)]:
        say(level, option, value, outcome(s.setsockopt, level, option, value), outcome(s.getsockopt, level, option))
    say(outcome(s.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 5, 9)),
        struct.unpack('ii', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    say(outcome(s.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, b'\1'), outcome(s.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, b''))
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    say('TCP_INFO', info[0], len(info) >= 104, struct.unpack_from('I', info, 8)[0] >= 200000)
    say(len(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)), len(s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 2)))
    say(outcome(s.getsockopt, socket.IPPROTO_TCP, 31, 16), len(outcome(s.getsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)))
    say(fcntl.ioctl(s, 0x8905, b'\0\0\0\0'), outcome(fcntl.ioctl, s, 0x5401, b'\0' * 64))


@scenario
def options_before():
    l = listener()
    l.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    c = socket.socket()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 44)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 1, 200000))
    os.set_inheritable(c.fileno(), True)
    c.connect(('127.0.0.1', port))
    s, _ = l.accept()
    say(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), c.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    say(struct.unpack('ll', c.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[0], os.get_inheritable(c.fileno()),
        os.get_inheritable(s.fileno()), c.getblocking(), s.getblocking())
    say(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK, fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK)
    c.setblocking(False)
    say(outcome(c.recv, 1), bool(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK))
    flag = array.array('i', [0])
    fcntl.ioctl(c, 0x5421, flag)  # FIONBIO
    say(bool(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK))


@scenario
def names():
    c, s = connection()
    buffer = ctypes.create_string_buffer(128)
    for room in (128, 16, 8, 0):
        length = ctypes.c_uint(room)
        say(room, libc.getpeername(s.fileno(), buffer, ctypes.byref(length)), length.value)
    length = ctypes.c_uint(4294967295)
    say(libc.getsockname(s.fileno(), buffer, ctypes.byref(length)), errno.errorcode[ctypes.get_errno()])
    say(outcome(socket.socket().getpeername))


# ---------------------------------------------------------------- listening

@scenario
def listening():
    l = listener()
    say(l.getsockname(), l.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), poll_mask(l), outcome(l.listen, 3))
    l.setblocking(False)
    say(outcome(l.accept))
    e = select.epoll()
    e.register(l, select.EPOLLIN)
    say(e.poll(0.05))
    c = [socket.create_connection(('127.0.0.1', port)) for _ in range(3)]
    for i in range(3):
        say([mask_names(m) for _, m in e.poll(5)])
        s, peer = l.accept()
        say(s.getblocking(), peer in [x.getsockname() for x in c])
        s.close()
    say(outcome(l.accept), outcome(l.recv, 1), outcome(l.send, b'12345678'), outcome(l.getpeername), outcome(l.connect, ('127.0.0.1', port)))


@scenario
def listening_in_children():
    l = listener()
    children = []
    for i in range(3):
        pid = os.fork()
        if pid == 0:
            while True:
                s, _ = l.accept()
                data = received(s, 5)
                s.sendall(message(1, data[4:]))
                if data[4:] == b'q':
                    os._exit(0)
                s.close()
        children.append(pid)
    l.close()
    for i in range(12):
        c = socket.create_connection(('127.0.0.1', port))
        c.sendall(message(1, b'a'))
        say(received(c, 5))
        c.close()
    for pid in children:
        c = socket.create_connection(('127.0.0.1', port))
        c.sendall(message(1, b'q'))
        received(c, 5)
        c.close()
    say([os.waitpid(pid, 0)[1] for pid in children])


@scenario
def listening_in_another_program():
    # Inherited over exec, as from systemd or inetd: nobody there called listen().
    l = listener()
    code = ('import socket,sys\nl=socket.socket(fileno=int(sys.argv[1]))\ns,p=l.accept()\n'
            'print(s.recv(5, 256),p==s.getpeername(),l.getsockopt(1,30),flush=True)\ns.sendall(b"\\0\\0\\0\\1e")\ns.recv(1)')
    for _ in range(2):
        child = subprocess.Popen([sys.executable, '-c', code, str(l.fileno())], pass_fds=[l.fileno()], stdout=subprocess.PIPE)
        c = socket.create_connection(('127.0.0.1', port))
        c.sendall(message(1))
        say(received(c, 5))
        c.close()
        say(child.communicate()[0], child.returncode)


# ---------------------------------------------------------------- descriptors

@scenario
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


@scenario
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


@scenario
def forked():
    c, s = connection()
    pid = os.fork()
    if pid == 0:
        c.close()
        s.sendall(message(4, b'k'))
        data = received(s, 8)
        os._exit(len(data))
    s.close()
    say(received(c, 8))
    c.sendall(message(4))
    say(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), c.recv(10))


@scenario
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


@scenario
def executed():
    c, s = connection()
    code = 'import socket,sys\ns=socket.socket(fileno=int(sys.argv[1]))\nprint(s.family,s.recv(6,256),s.getpeername()[0],flush=True)\ns.sendall(b"\\0\\0\\0\\1e")'
    c.sendall(message(2))
    child = subprocess.run([sys.executable, '-c', code, str(s.fileno())], pass_fds=[s.fileno()], stdout=subprocess.PIPE)
    say(child.stdout, received(c, 5))
    s.close()
    say(c.recv(1))


@scenario
def borrowed_memory():
    c, s = connection()
    for _ in range(3):
        say(subprocess.run(['/bin/true'], close_fds=True).returncode)  # vfork, close_range, exec
    c.sendall(message(3))
    say(received(s, 7))
    say(subprocess.run(['/bin/cat'], stdin=subprocess.DEVNULL).returncode, poll_mask(s))
    # What is registered before connect() is still known after such a child has closed everything.
    l, late, e = listener(), socket.socket(), select.epoll()
    e.register(late, select.EPOLLIN)
    say(subprocess.run(['/bin/true'], close_fds=True).returncode)
    late.connect(('127.0.0.1', port))
    other = l.accept()[0]
    other.sendall(message(1))
    say([events for _, events in e.poll(5)], received(late, 5))


@scenario
def passed():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    c, s = connection()
    pid = os.fork()
    if pid == 0:
        s.close()
        c.close()
        data, fds, _, _ = socket.recv_fds(b, 100, 4)
        t = socket.socket(fileno=fds[0])
        t.sendall(message(3, b'p') + message(len(received(t, 6))))
        os._exit(0)
    socket.send_fds(a, [b'x'], [s.fileno()])
    s.close()
    c.sendall(message(2))
    say(received(c, 17))
    os.waitpid(pid, 0)
    say(c.recv(1))


@scenario
def passed_as_program_start():
    # The receiver is another program that never made a socket.
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    code = 'import socket,sys\nb=socket.socket(fileno=int(sys.argv[1]))\nd,f,_,_=socket.recv_fds(b,9,1)\ns=socket.socket(fileno=f[0])\ns.sendall(b"\\0\\0\\0\\1"+s.recv(1))\nsys.exit(s.getsockopt(socket.SOL_SOCKET,39))'
    child = subprocess.Popen([sys.executable, '-c', code, str(b.fileno())], pass_fds=[b.fileno()])
    c, s = connection()
    c.sendall(message(1))
    socket.send_fds(a, [b'x'], [s.fileno()])
    s.close()
    say(received(c, 5), child.wait())


@scenario
def disconnect_by_unspec():
    c, s = connection()
    address = struct.pack('H14x', 0)
    say(libc.connect(c.fileno(), address, 16), outcome(c.getpeername))
    say(until(lambda: 'RDHUP' in poll_mask(s)))
    l = listener()
    say(outcome(c.connect, ('127.0.0.1', port)))
    t, _ = l.accept()
    c.sendall(message(1))
    say(received(t, 5))


@scenario
def asyncio_streams():
    import asyncio

    async def serve(reader, writer):
        while True:
            try:
                header = await reader.readexactly(4)
            except asyncio.IncompleteReadError:
                break
            data = await reader.readexactly(struct.unpack('>I', header)[0])
            writer.write(header + data)
            await writer.drain()
        writer.close()

    async def client(n):
        reader, writer = await asyncio.open_connection('127.0.0.1', port)
        for size in (1, 1000, 300000, 3000000):
            writer.write(message(size))
            await writer.drain()
            data = await reader.readexactly(size + 4)
            assert len(data) == size + 4
        writer.close()
        return n

    async def run():
        server = await asyncio.start_server(serve, '127.0.0.1', port)
        say(await asyncio.gather(*(client(n) for n in range(8))))
        server.close()

    asyncio.run(run())


if __name__ == '__main__':
    wanted = sys.argv[2:]
    for function in scenarios:
        if wanted and function.__name__ not in wanted:
            continue
        print(function.__name__, flush=True)
        signal.alarm(60)
        try:
            function()
        except Exception as error:
            say('EXCEPTION', type(error).__name__, error)
        signal.alarm(0)
