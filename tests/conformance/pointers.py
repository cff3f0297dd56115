"""Pointers that lead nowhere: EFAULT where TCP says EFAULT, and nothing where TCP does not look."""
import mmap, socket

from calls import *

libc.mmap.restype = ctypes.c_void_p
BAD = {'null': 0, 'unmapped': 1 << 46, 'high': (1 << 64) - 4096, 'no-access': None}


def address_of(bad):
    if bad is None:
        return libc.mmap(None, ctypes.c_size_t(8192), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
    return bad


@each(call=RECEIVE | READ, bad=BAD)
def receives(call, bad):
    """What cannot be put anywhere stays."""
    c, s = connection()
    say(called(call, s.fileno(), address_of(bad), 10, socket.MSG_DONTWAIT) if call in RECEIVE.values() else '')
    deliver(c, s, message(10))
    say(called(call, s.fileno(), address_of(bad), 10, 0), called(call, s.fileno(), address_of(bad), 0, 0), waiting(s))
    c.close()
    received(s, 14)
    say(called(call, s.fileno(), address_of(bad), 10, 0))


@each(call=SEND | WRITE, bad=BAD)
def sends(call, bad):
    c, s = connection()
    say(called(call, c.fileno(), address_of(bad), 10, 0), called(call, c.fileno(), address_of(bad), 0, 0))
    c.sendall(message(3))
    say(received(s, 7))


@each(bad=BAD)
def vectors_and_headers(bad):
    c, s = connection()
    deliver(c, s, message(10))
    address = at(address_of(bad))
    say(called(libc.readv, s.fileno(), address, 1), called(libc.writev, s.fileno(), address, 1))
    say(called(libc.readv, s.fileno(), address, 0), called(libc.readv, s.fileno(), address, 5000), called(libc.readv, s.fileno(), address, -1))
    say(called(libc.recvmsg, s.fileno(), address, 0), called(libc.sendmsg, s.fileno(), address, 0))
    say(called(libc.recvmmsg, s.fileno(), address, 1, 0, None), called(libc.sendmmsg, s.fileno(), address, 1, 0))
    header = Msghdr(iov=address.value, iovlen=1)
    say(called(libc.recvmsg, s.fileno(), ctypes.byref(header), 0), called(libc.sendmsg, s.fileno(), ctypes.byref(header), 0))
    header.iovlen = 5000
    say(called(libc.recvmsg, s.fileno(), ctypes.byref(header), 0), called(libc.sendmsg, s.fileno(), ctypes.byref(header), 0))
    say(waiting(s))


@each(bad=BAD)
def names(bad):
    c, s = connection()
    address, room, length = at(address_of(bad)), ctypes.create_string_buffer(128), ctypes.c_uint(128)
    for function in (libc.getsockname, libc.getpeername):
        say(called(function, s.fileno(), address, ctypes.byref(length)), called(function, s.fileno(), room, address))
        say(called(function, s.fileno(), address, ctypes.byref(ctypes.c_uint(0))))
    say(called(libc.connect, s.fileno(), address, 16), called(libc.bind, s.fileno(), address, 16))
    new = socket.socket()
    say(called(libc.connect, new.fileno(), address, 16), called(libc.bind, new.fileno(), address, 16))
    l = listener()
    d = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    l.setblocking(False)
    say(called(libc.accept, l.fileno(), address, ctypes.byref(length)) if address.value else 'as no address')


@each(bad=BAD)
def options(bad):
    c, s = connection()
    address, value, length = at(address_of(bad)), ctypes.c_int(1), ctypes.c_uint(4)
    for level, option in ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.SOL_SOCKET, socket.SO_ERROR),
                          (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.IPPROTO_TCP, socket.TCP_INFO)):
        say(called(libc.getsockopt, s.fileno(), level, option, address, ctypes.byref(length)),
            called(libc.getsockopt, s.fileno(), level, option, ctypes.byref(value), address),
            called(libc.setsockopt, s.fileno(), level, option, address, 4) if option not in (socket.SO_ERROR, socket.TCP_INFO) else '')
    for request in (termios.FIONREAD, termios.TIOCOUTQ, 0x8905):
        say(called(libc.ioctl, s.fileno(), ctypes.c_ulong(request), address))
