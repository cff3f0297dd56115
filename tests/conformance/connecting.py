"""connect() and the names it gives."""
import ctypes, errno, select, socket, struct

from harness import *


@case
def blocking():
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


@case
def mapped():
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


@case
def nonblocking():
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


@case
def refused():
    c = socket.socket()
    for attempt in range(3):
        say(outcome(c.connect, ('127.0.0.1', port)), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say(outcome(c.getpeername), outcome(c.recv, 10), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    l = listener()
    say('again', outcome(c.connect, ('127.0.0.1', port)), c.getpeername())
    c.close(), l.close()


@case
def refused_nonblocking():
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


@case
def timeout_and_settimeout():
    l = listener()
    c = socket.socket()
    c.settimeout(5)
    c.connect(('127.0.0.1', port))
    s, _ = l.accept()
    c.settimeout(0.2)
    say(outcome(c.recv, 1))
    s.sendall(message(2))
    say(received(c, 6))


@case
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


@case
def names():
    c, s = connection()
    buffer = ctypes.create_string_buffer(128)
    for room in (128, 16, 8, 0):
        length = ctypes.c_uint(room)
        say(room, libc.getpeername(s.fileno(), buffer, ctypes.byref(length)), length.value)
    length = ctypes.c_uint(4294967295)
    say(libc.getsockname(s.fileno(), buffer, ctypes.byref(length)), errno.errorcode[ctypes.get_errno()])
    say(outcome(socket.socket().getpeername))
