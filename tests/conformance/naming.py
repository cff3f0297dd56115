"""getsockname(), getpeername(), bind(), connect() and listen() in every state and family."""
import os, select, socket, struct

from calls import *
from states import STATES

ANY = {socket.AF_INET: '0.0.0.0', socket.AF_INET6: '::'}


def named(function, s, room=128):
    buffer, length = ctypes.create_string_buffer(b'\xee' * 128, 128), ctypes.c_int(room)
    result = called(function, s.fileno(), buffer, ctypes.byref(length))
    family = struct.unpack_from('H', buffer.raw)[0] if result == 0 and room >= 2 else ''
    return result, length.value if result == 0 else '', family, buffer.raw.rstrip(b'\xee').__len__()


@each(state=STATES)
def names(state):
    kept = state()
    s = kept[0]
    say(named(libc.getsockname, s), named(libc.getpeername, s))
    say(outcome(s.getpeername) == (kept[1].getsockname() if len(kept) > 1 and kept[1].fileno() >= 0 else ''))


@each(family=FAMILIES, room=(0, 1, 2, 8, 15, 16, 17, 27, 28, 100, -1))
def short_buffers(family, room):
    c, s = connection(family=family)
    for one in (c, s):
        say(named(libc.getsockname, one, room), named(libc.getpeername, one, room))
    l = listener(family)
    d = socket.create_connection(l.getsockname()[:2])
    wait_for(l, 'IN')
    buffer, length = ctypes.create_string_buffer(b'\xee' * 128, 128), ctypes.c_int(room)
    fd = called(libc.accept, l.fileno(), buffer, ctypes.byref(length))
    say(isinstance(fd, int) or fd, length.value, len(buffer.raw.rstrip(b'\xee')))


@each(state=STATES)
def bind_again(state):
    kept = state()
    s = kept[0]
    say(outcome(s.bind, (here()[0], 0)))
    say(called(libc.bind, s.fileno(), struct.pack('H14x', socket.AF_INET), 4), called(libc.bind, s.fileno(), struct.pack('H126x', socket.AF_UNIX), 110))


@each(state=[name for name in STATES if name not in ('unconnected', 'refused', 'error-read', 'reset', 'reset-data', 'closed-unread')])
def connect_again(state):
    kept = STATES[state]()
    s = kept[0]
    say(outcome(s.connect, (LOOPBACK[socket.AF_INET], port)))
    say(called(libc.connect, s.fileno(), struct.pack('H14x', socket.AF_INET), 4))


@each(state=[name for name in STATES if name != 'full'])
def shutdown(state):
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR, 3, -1):
        kept = STATES[state]()
        say(how, outcome(kept[0].shutdown, how))
        kept[0].close()


@each(state=STATES)
def accepts(state):
    kept = state()
    s = kept[0]
    s.setblocking(False)
    say(called(libc.accept, s.fileno(), None, None) if s.getsockopt(socket.SOL_SOCKET, 30) == 0 else 'a listener')
    say(called(libc.accept4, s.fileno(), None, None, 0x12345))


@each(family=FAMILIES)
def bound_before_connect(family):
    l = listener(family)
    c = socket.socket(family)
    c.bind((LOOPBACK[family], 0))
    c.connect(l.getsockname())
    s, peer = l.accept()
    say(c.getsockname()[0], s.getpeername()[0], peer[0] == LOOPBACK[family])


@case
def bound_before_connect_to_another_loopback():
    l = listener(address='127.0.0.3')
    c = socket.socket()
    c.bind(('127.0.0.2', 0))
    c.connect(('127.0.0.3', port))
    s, peer = l.accept()
    say(peer[0], c.getsockname()[0], s.getsockname()[0], c.getpeername())


@each(listening_on=('any', 'loopback', 'any6', 'any6-only', 'loopback6'), to=('127.0.0.1', '127.0.0.5', '::1', '::ffff:127.0.0.1'))
def reached(listening_on, to):
    """Which listener is reached by which address."""
    family = socket.AF_INET6 if '6' in listening_on else socket.AF_INET
    l = socket.socket(family)
    if family == socket.AF_INET6:
        l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listening_on == 'any6-only')
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(((ANY if 'any' in listening_on else LOOPBACK)[family], port))
    l.listen(5)
    c = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET)
    result = outcome(c.connect, (to, port))
    say(result)
    if result == 'ok':
        s, peer = l.accept()
        say(peer[0], s.getsockname()[0], c.getpeername()[0], c.getsockname()[0], s.family, len(peer))
        c.sendall(message(2))
        say(received(s, 6))


@each(mode=MODES)
def refused_and_again(mode):
    c = socket.socket()
    c.bind((here()[0], 0))
    c.setblocking(mode)
    first = outcome(c.connect, (LOOPBACK[socket.AF_INET], port))
    if first == 'EINPROGRESS':
        wait_for(c, 'OUT')
        first = error_name(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say(first)
    say(c.getsockname()[0])
    l = listener()
    c.setblocking(True)
    results = [outcome(c.connect, l.getsockname()) for _ in range(2)]
    say('ok' in results, outcome(c.connect, l.getsockname()))


@each(address={'family': struct.pack('H126x', 77), 'unix': struct.pack('H126x', 1), 'ipv6': struct.pack('H126x', 10), 'short': struct.pack('H2x', 2),
               'one-byte': b'x', 'empty': b'', 'long': struct.pack('H198x', 2)})
def strange_addresses(address):
    for make in (socket.socket, lambda: connection()[0], listener):
        s = make()
        say(called(libc.connect, s.fileno(), address, len(address)), called(libc.bind, s.fileno(), address, len(address)))


@case
def unspecified_undoes():
    """connect() to AF_UNSPEC in every state, then connect() again."""
    for prepare in (lambda c, s: None, lambda c, s: deliver(s, c, message(4)), lambda c, s: c.shutdown(socket.SHUT_RD)):
        c, s = connection()
        prepare(c, s)
        say(called(libc.connect, c.fileno(), struct.pack('H14x', 0), 16), outcome(c.getpeername), poll_mask(c), wait_for(s, 'RDHUP'))
        say(outcome(c.recv, 4), outcome(c.send, b'1234', socket.MSG_NOSIGNAL))
        s.close()
