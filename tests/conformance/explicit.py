"""socket(AF_INET, SOCK_STREAM, 257): the contract of the kernel series for IPPROTO_SMBDIRECT, with its defects mended.

There is no kernel to compare with: what stands beside each label is what the series documents. (Numbers in brackets: sections of
the project's fact sheet of that series: 2 socket calls, 3 send, 4 receive, 5 control messages, 10 what is done about it here.)
"""
import select, signal, socket, struct, tempfile

from calls import *

PROTOCOL, INVALIDATE = 257, (289, 0x40045320)


def explicit(family=socket.AF_INET, blocking=True):
    s = socket.socket(family, socket.SOCK_STREAM, PROTOCOL)
    s.setblocking(blocking)
    return s


def explicit_listener(family=socket.AF_INET):
    l = explicit(family)
    # The engine hears a moment later that the process of the case before has ended, and listens until then.
    until(lambda: outcome(l.bind, here(family)) == 'ok')
    l.listen(5)
    return l


def explicit_pair(family=socket.AF_INET):
    l, c = explicit_listener(family), explicit(family)
    c.connect(here(family))
    s, _ = l.accept()
    c.sendall(message(4))  # [6] the accepted end may send once it has received
    received(s, 8)
    return c, s


def v4():
    return struct.pack('=H', socket.AF_INET) + struct.pack('>H', port) + socket.inet_aton(here()[0]) + bytes(8)


def v6():
    return struct.pack('=H', socket.AF_INET6) + struct.pack('>HI', port, 0) + socket.inet_pton(socket.AF_INET6, here(socket.AF_INET6)[0]) + bytes(4)


# [2] socket, [10] getsockopt
@documented(protocol=257, type=1, domain=2, domain6=10, acceptconn=0, error=0, name=('0.0.0.0', 0), peer='ENOTCONN')
def made():
    s = explicit()
    yield 'protocol', s.getsockopt(socket.SOL_SOCKET, 38)
    yield 'type', s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    yield 'domain', s.getsockopt(socket.SOL_SOCKET, 39)
    yield 'domain6', explicit(socket.AF_INET6).getsockopt(socket.SOL_SOCKET, 39)
    yield 'acceptconn', s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    yield 'error', s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    yield 'name', s.getsockname()
    yield 'peer', outcome(s.getpeername)


# [2] poll; [10] poll unconnected
@documented(unconnected='-', bound='-', listening='-')
def poll_before():
    s = explicit()
    yield 'unconnected', poll_mask(s)
    until(lambda: outcome(s.bind, here()) == 'ok')
    yield 'bound', poll_mask(s)
    s.listen(1)
    yield 'listening', poll_mask(s)


# [2] bind
@documented(shorter='EINVAL', unspec='EAFNOSUPPORT', other_family='EAFNOSUPPORT', short='EINVAL', v6_of_24='EINVAL', not_local='EADDRNOTAVAIL',
            port_0='ok', chosen=True, twice='EINVAL')
def bind():
    s, six = explicit(), explicit(socket.AF_INET6)
    yield 'shorter', call('bind', s.fileno(), v4(), 1)
    yield 'unspec', call('bind', s.fileno(), bytes(16), 16)
    yield 'other family', call('bind', s.fileno(), v6(), 28)
    yield 'short', call('bind', s.fileno(), v4(), 15)
    yield 'v6 of 24', call('bind', six.fileno(), v6(), 24)
    yield 'not local', outcome(s.bind, ('198.51.100.77', 0))
    yield 'port 0', outcome(s.bind, (here()[0], 0))
    yield 'chosen', s.getsockname()[1] > 0
    yield 'twice', outcome(s.bind, (here()[0], 0))


# [2] listen, accept
@documented(negative='EINVAL', listen='ok', acceptconn=1, twice='EINVAL', connect='EINVAL', accept='EAGAIN', unconnected_accept='EINVAL')
def listen():
    s = explicit(blocking=False)
    until(lambda: outcome(s.bind, here()) == 'ok')
    yield 'negative', call('listen', s.fileno(), -1)
    yield 'listen', outcome(s.listen, 5)
    yield 'acceptconn', s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    yield 'twice', outcome(s.listen, 5)
    yield 'connect', outcome(s.connect, here())
    yield 'accept', outcome(s.accept)
    yield 'unconnected accept', outcome(explicit().accept)


# [2] connect, [7] errors, [10] connect twice / after failure
@documented(short='EINVAL', unspec='EAFNOSUPPORT', other_family='EAFNOSUPPORT', refused='ECONNREFUSED', after_failure='EINVAL',
            connect='ok', again='EISCONN', accepted_again='EISCONN', peer=here()[0], protocol=257, accepted_protocol=257)
def connect():
    s = explicit()
    yield 'short', call('connect', s.fileno(), v4(), 15)
    yield 'unspec', call('connect', s.fileno(), bytes(16), 16)
    yield 'other family', call('connect', s.fileno(), v6(), 28)
    yield 'refused', outcome(s.connect, here())
    yield 'after failure', outcome(s.connect, here())
    l, c = explicit_listener(), explicit()
    yield 'connect', outcome(c.connect, here())
    t, _ = l.accept()
    yield 'again', outcome(c.connect, here())
    yield 'accepted again', outcome(t.connect, here())
    yield 'peer', c.getpeername()[0]
    yield 'protocol', c.getsockopt(socket.SOL_SOCKET, 38)
    yield 'accepted protocol', t.getsockopt(socket.SOL_SOCKET, 38)


# [2] connect with O_NONBLOCK
@documented(connect='EINPROGRESS', writable='OUT', error=0, again='EISCONN')
def connect_nonblocking():
    l, c = explicit_listener(), explicit(blocking=False)
    yield 'connect', outcome(c.connect, here())
    yield 'writable', poll_mask(c, wait=8000)
    yield 'error', c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    outcome(c.connect, here())
    yield 'again', outcome(c.connect, here())


# [8] poll and SO_ERROR of what failed
@documented(connect='EINPROGRESS', mask='IN|OUT|ERR|HUP|RDHUP', error='ECONNREFUSED', send='ENOTCONN', recv='ENOTCONN', again='EINVAL')
def connect_refused_nonblocking():
    c = explicit(blocking=False)
    yield 'connect', outcome(c.connect, here())
    wait_for(c, 'HUP', 'OUT')
    yield 'mask', poll_mask(c)
    yield 'error', error_name(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    yield 'send', outcome(c.send, message(1))
    yield 'recv', outcome(c.recv, 4)
    yield 'again', outcome(c.connect, here())


# [2] send and receive by state
@documented(send='ENOTCONN', send_at_once='EAGAIN', send_nothing_at_once='ENOTCONN', recv='ENOTCONN', recv_at_once='EAGAIN', listener_send='ENOTCONN', listener_recv='ENOTCONN')
def data_before():
    s, l = explicit(), explicit_listener()
    yield 'send', outcome(s.send, message(1))
    yield 'send at once', outcome(s.send, message(1), socket.MSG_DONTWAIT)
    yield 'send nothing at once', outcome(s.send, b'', socket.MSG_DONTWAIT)
    yield 'recv', outcome(s.recv, 4)
    yield 'recv at once', outcome(s.recv, 4, socket.MSG_DONTWAIT)
    yield 'listener send', outcome(l.send, message(1))
    yield 'listener recv', outcome(l.recv, 4)


# [3] one call is one message: 4 bytes of length, and exactly so many bytes
@documented(whole=14, in_pieces=14, arrives=28, lone_header='EINVAL', nothing='EINVAL', no_payload='EINVAL', half='EINVAL', two='EINVAL', too_long='EINVAL',
            too_large='EMSGSIZE', by_writev=9, still_works=9)
def send_whole_messages():
    c, s = explicit_pair()
    yield 'whole', c.send(message(10))
    yield 'in pieces', c.sendmsg([message(10)[:2], b'', message(10)[2:5], message(10)[5:]])
    yield 'arrives', len(received(s, 4) + received(s, 10) + received(s, 4) + received(s, 10))
    yield 'lone header', outcome(c.send, message(10)[:4])
    yield 'nothing', outcome(c.send, b'')
    yield 'no payload', outcome(c.send, message(0))
    yield 'half', outcome(c.send, message(10)[:9])
    yield 'two', outcome(c.send, message(3) + message(3))
    yield 'too long', outcome(c.send, message(3) + b'y')
    yield 'too large', outcome(c.send, message(16 << 20))
    yield 'by writev', os.writev(c.fileno(), [message(5)[:4], message(5)[4:]])
    yield 'still works', len(received(s, 4) + received(s, 5))


# [3] flags of send, [4] flags of recv
@documented(more='EINVAL', out_of_band='EINVAL', end_of_record='EINVAL', nosignal=5, dontwait=5, waitall=5,
            peek='EINVAL', truncate='EINVAL', recv_out_of_band='EINVAL', error_queue='EINVAL', sendfile='EINVAL')
def flags():
    c, s = explicit_pair()
    for label, flag in (('more', socket.MSG_MORE), ('out of band', socket.MSG_OOB), ('end of record', 0x80), ('nosignal', socket.MSG_NOSIGNAL),
                        ('dontwait', socket.MSG_DONTWAIT), ('waitall', socket.MSG_WAITALL)):
        yield label, outcome(c.send, message(1), flag)
    received(s, 4)
    for label, flag in (('peek', socket.MSG_PEEK), ('truncate', socket.MSG_TRUNC), ('recv out of band', socket.MSG_OOB), ('error queue', 0x2000)):
        yield label, outcome(s.recv, 1, flag)
    with tempfile.TemporaryFile() as f:
        f.write(b'x' * 10)
        f.flush()
        yield 'sendfile', outcome(os.sendfile, c.fileno(), f.fileno(), 0, 10)


# [4] four bytes, then what they say; [10] header counts as part of the stream for other sizes
@documented(header=struct.pack('>I', 300), payload=300, empty_at_once='EAGAIN', waits=20, in_parts=[4, 10, 90], mask_after_header='IN|OUT')
def receive():
    c, s = explicit_pair()
    c.send(message(300))
    yield 'header', s.recv(4)
    yield 'payload', len(s.recv(300))
    yield 'empty at once', outcome(s.recv, 4, socket.MSG_DONTWAIT)
    reader = Blocked(s.recv, 24)
    c.send(message(20))
    yield 'waits', len(reader.outcome()) - 4
    c.send(message(100))
    parts = [len(s.recv(4))]
    mask = poll_mask(s)
    parts += [len(s.recv(10)), len(s.recv(90))]
    yield 'in parts', parts
    yield 'mask after header', mask


# [2] and [10]: no option but of SOL_SOCKET can be got, none can be set; ioctl
@documented(set_keepalive='ENOTSUP', set_nodelay='ENOTSUP', set_reuse='ENOTSUP', set_v6only='ENOTSUP', set_own='ENOTSUP', get_nodelay='ENOTSUP', get_info='ENOTSUP', get_own='ENOTSUP',
            get_error=0, get_rcvbuf=True, fionread='ENOTTY', outq='ENOTTY', atmark='ENOTTY', fionbio=0)
def options():
    c, s = explicit_pair()
    yield 'set keepalive', outcome(c.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    yield 'set nodelay', outcome(c.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    yield 'set reuse', outcome(explicit().setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    yield 'set v6only', outcome(explicit(socket.AF_INET6).setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    yield 'set own', outcome(c.setsockopt, INVALIDATE[0], 1, 1)
    yield 'get nodelay', outcome(c.getsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY)
    yield 'get info', outcome(c.getsockopt, socket.IPPROTO_TCP, socket.TCP_INFO, 100)
    yield 'get own', outcome(c.getsockopt, INVALIDATE[0], 1)
    yield 'get error', outcome(c.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)
    yield 'get rcvbuf', outcome(c.getsockopt, socket.SOL_SOCKET, socket.SO_RCVBUF) > 0
    yield 'fionread', outcome(waiting, c)
    yield 'outq', outcome(unsent, c)
    yield 'atmark', outcome(number_of, c, 0x8905)
    yield 'fionbio', call('ioctl', c.fileno(), ctypes.c_ulong(0x5421), ctypes.byref(ctypes.c_int(1)))


# [5] one control message is known
@documented(short='EBADMSG', long='EMSGSIZE', other_type='EINVAL', other_level='EINVAL', two='EINVAL', received=9)
def control():
    c, s = explicit_pair()
    token = struct.pack('=I', 0x1234)
    for label, ancillary in (('short', [(*INVALIDATE, token[:2])]), ('long', [(*INVALIDATE, token * 2)]), ('other type', [(289, 7, token)]),
                             ('other level', [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', 0))]), ('two', [(*INVALIDATE, token)] * 2)):
        yield label, outcome(c.sendmsg, [message(5)], ancillary)
    yield 'received', c.send(message(5)) and len(received(s, 4) + received(s, 5))


# [2] shutdown, [10] shutdown on unconnected; [8] what a shut socket gives
@documented(nonsense='EINVAL', unconnected='ENOTCONN', unconnected_still_binds='ok', shut='ok', mask='IN|OUT|ERR|HUP|RDHUP', send='ENOTCONN', recv='ENOTCONN', peer_sees=True)
def shut_down():
    c, s = explicit_pair()
    fresh = explicit()
    yield 'nonsense', outcome(c.shutdown, 5)
    yield 'unconnected', outcome(fresh.shutdown, socket.SHUT_RDWR)
    yield 'unconnected still binds', outcome(fresh.bind, (here()[0], 0))
    yield 'shut', outcome(c.shutdown, socket.SHUT_WR)
    peer_sees = wait_for(s, 'HUP')
    until(lambda: 'HUP' in poll_mask(c), 1)
    yield 'mask', poll_mask(c)
    yield 'send', outcome(c.send, message(1))
    yield 'recv', outcome(c.recv, 4)
    yield 'peer sees', peer_sees


# [8] peer disconnect; [10] EOF, send on dead connection, poll after peer disconnect
@documented(queued=9, then='ENOTCONN', send='ENOTCONN', no_signal=0, mask='IN|OUT|ERR|HUP|RDHUP', error='ECONNRESET', peer='ENOTCONN')
def peer_gone():
    c, s = explicit_pair()
    c.send(message(5))
    deadline = until(lambda: poll_mask(s) != 'OUT')
    c.close()
    wait_for(s, 'RDHUP')
    yield 'queued', len(received(s, 4) + received(s, 5)) if deadline else 'nothing'
    yield 'then', outcome(s.recv, 4)
    yield 'send', outcome(s.send, message(1))

    def run():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        call('send', s.fileno(), message(1), SIZE(5), 0)
    yield 'no signal', status_of(child(run))
    yield 'mask', poll_mask(s)
    yield 'error', error_name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    yield 'peer', outcome(s.getpeername)


# [2] dup, fork, SCM_RIGHTS, epoll, select: a plain descriptor
@documented(by_dup=9, by_fork=9, passed=9, epoll=['IN|OUT'], select=[1, 1])
def holders():
    c, s = explicit_pair()
    d = s.dup()
    c.send(message(5))
    yield 'by dup', len(received(d, 4) + received(d, 5))
    c.send(message(5))
    yield 'by fork', status_of(child(lambda: len(received(s, 4) + received(s, 5))))
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    socket.send_fds(a, [b'x'], [s.fileno()])
    t = socket.socket(fileno=socket.recv_fds(b, 9, 1)[1][0])
    c.send(message(5))
    yield 'passed', len(received(t, 4) + received(t, 5))
    c.send(message(5))
    e = select.epoll()
    e.register(s, select.EPOLLIN | select.EPOLLOUT)
    e.poll(8)
    wait_for(s, 'IN')
    yield 'epoll', [mask_names(m) for _, m in e.poll(0)]
    yield 'select', [len(ready) for ready in select.select([s], [s], [], 0)[:2]]


# [6] families: a listener of each may hold one port
@documented(v4='ok', v6='ok', over_v4=9, over_v6=9)
def families():
    listeners = {}
    for label, family in (('v4', socket.AF_INET), ('v6', socket.AF_INET6)):
        listeners[family] = explicit(family)
        any_ = ('::' if family == socket.AF_INET6 else '0.0.0.0', port)
        until(lambda: outcome(listeners[family].bind, any_) == 'ok')
        yield label, outcome(listeners[family].listen, 2)
    for label, family in (('over v4', socket.AF_INET), ('over v6', socket.AF_INET6)):
        c = explicit(family)
        c.connect(here(family))
        s, _ = listeners[family].accept()
        c.send(message(5))
        yield label, len(received(s, 4) + received(s, 5))


# [10] plain nonblocking reads give what is there
@documented(part=6, then='EAGAIN')
def receive_what_is_there():
    c, s = explicit_pair()
    c.send(message(2))
    s.setblocking(False)
    wait_for(s, 'IN')
    yield 'part', len(s.recv(100))
    yield 'then', outcome(s.recv, 100)


# [2] close: the port is free when it returns, whatever happened over it
@documented(bound=['ok'] * 4, served=[9] * 4)
def port_again():
    bound, served = [], []
    for attempt in range(4):
        l, c = explicit(), explicit()
        if attempt == 0:
            until(lambda: outcome(l.bind, (here()[0], 0)) == 'ok')
            number = l.getsockname()[1]
            bound.append('ok')
        else:
            bound.append(outcome(l.bind, (here()[0], number)))
        l.listen(1)
        c.connect(l.getsockname())
        s, _ = l.accept()
        c.send(message(5))
        served.append(len(received(s, 4) + received(s, 5)))
        for one in (s, c, l):
            one.close()
    yield 'bound', bound
    yield 'served', served
