"""connect(): what it gives, what it leaves behind, and what a socket is afterwards."""
import ctypes, errno, fcntl, os, select, signal, socket, struct, threading, time

from states import *

OPTIONS = {'SO_DOMAIN': 39, 'SO_PROTOCOL': 38, 'SO_TYPE': socket.SO_TYPE, 'SO_ACCEPTCONN': socket.SO_ACCEPTCONN, 'SO_ERROR': socket.SO_ERROR}


@each(family=FAMILIES)
def blocking(family):
    c, s = connection(family)
    say('names', c.getpeername() == s.getsockname(), s.getpeername() == c.getsockname(), c.getpeername()[0])
    say('families', c.family, s.family, s.type, len(s.getpeername()))
    for which, one in (('client', c), ('server', s)):
        for name, number in OPTIONS.items():
            say(which, name, one.getsockopt(socket.SOL_SOCKET, number))
        say(which, 'ucred', struct.unpack('iii', one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
    say('masks', poll_mask(c), poll_mask(s))
    say('again', outcome(c.connect, c.getpeername()), outcome(s.connect, c.getpeername()))
    say('listen, accept, bind', outcome(c.listen, 1), outcome(c.accept), outcome(c.bind, (here(family)[0], 0)))


HOWS = ('select', 'poll', 'epoll', 'epoll-edge', 'epoll-before', 'epoll-before-edge', 'epoll-before-oneshot', 'epoll-before-nested')


@each(family=FAMILIES, how=HOWS)
def nonblocking(family, how):
    l, c = listener(family), stream(family, blocking=False)
    flags = select.EPOLLET if 'edge' in how else select.EPOLLONESHOT if 'oneshot' in how else 0
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | flags
    e = outer = select.epoll()
    if 'nested' in how:
        outer = select.epoll()
        outer.register(e, select.EPOLLIN)
    if 'before' in how:
        e.register(c, events)
        say('before', [mask_names(m) for _, m in e.poll(0)])
        if flags == select.EPOLLONESHOT:
            e.modify(c, events)
    say('connect', errno.errorcode.get(c.connect_ex(here(family))))
    if how == 'select':
        say('select', [bool(x) for x in select.select([c], [c], [c], 8)])
    elif how == 'poll':
        say('poll', poll_mask(c, wait=8000))
    else:
        if 'before' not in how:
            e.register(c, events)
        if outer is not e:
            say('outer', [mask_names(m) for _, m in outer.poll(8)])
        ready = e.poll(8)
        say('epoll', [(fd == c.fileno(), mask_names(m)) for fd, m in ready])
        say('at once again', len(e.poll(0)))
        say('modify', outcome(e.modify, c, select.EPOLLIN), len(e.poll(0)), outcome(e.unregister, c))
    s, _ = l.accept()
    say('error', c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getpeername() == c.getsockname())
    say('again', errno.errorcode.get(c.connect_ex(here(family)), 0), errno.errorcode.get(c.connect_ex(here(family)), 0))
    c.send(message(3))
    say('data', received(s, 7), poll_mask(c))


@each(family=FAMILIES, attempts=(1, 3))
def refused(family, attempts):
    c = stream(family)
    for _ in range(attempts):
        say('connect', outcome(c.connect, here(family)), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say('afterwards', outcome(c.getpeername), outcome(c.recv, 10), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), poll_mask(c))
    l = listener(family)
    say('again', outcome(c.connect, here(family)), c.getpeername()[0], poll_mask(c))
    s, _ = l.accept()
    c.sendall(message(2))
    say('data', received(s, 6))


@each(family=FAMILIES, how=('poll', 'select', 'epoll', 'epoll-edge', 'epoll-before'), asks=(True, False))
def refused_nonblocking(family, how, asks):
    c, e = stream(family, blocking=False), select.epoll()
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
    if how == 'epoll-before':
        e.register(c, events | select.EPOLLET)
        e.poll(0)
    say('connect', errno.errorcode.get(c.connect_ex(here(family))))
    if how == 'poll':
        poll_mask(c, wait=8000)
    elif how == 'select':
        select.select([c], [c], [c], 8)
    else:
        if how != 'epoll-before':
            e.register(c, events | (select.EPOLLET if how == 'epoll-edge' else 0))
        say('epoll', ['HUP' in mask_names(m) for _, m in e.poll(8)])
    # OUT may come a moment after the rest.
    say('ready', wait_for(c, 'OUT', 'HUP'), poll_mask(c), [bool(x) for x in select.select([c], [c], [c], 0)])
    if asks:
        say('error', error_name(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say('afterwards', poll_mask(c), outcome(c.getpeername))
    l = listener(family)
    c.setblocking(True)
    outcomes = [errno.errorcode.get(c.connect_ex(here(family)), 0)]
    if outcomes[0]:
        outcomes.append(errno.errorcode.get(c.connect_ex(here(family)), 0))
    say('again', outcomes)
    s, _ = l.accept()
    c.sendall(message(3))
    say('data', received(s, 7))


NOWHERE = {'no-route': ('198.51.100.1', '2001:db8:1::1'), 'unreachable': ('198.51.100.2', '2001:db8:1::2'),
           'prohibited': ('198.51.100.3', '2001:db8:1::3')}
SILENT = '198.51.100.4'


@each(where=with_network, place=NOWHERE, family=FAMILIES, blocking=MODES)
def nowhere(place, family, blocking):
    c = stream(family, blocking)
    address = (place[family == socket.AF_INET6], port)
    say('connect', outcome(c.connect, address))
    say('error', error_name(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
    say('afterwards', poll_mask(c), outcome(c.getpeername), outcome(c.recv, 1))


@each(where=with_network, blocking=MODES)
def silent(blocking):
    """Nobody ever answers."""
    c = stream(blocking=blocking)
    say('connect', outcome(c.connect, (SILENT, port)))
    if not blocking:
        say('meanwhile', poll_mask(c), outcome(c.connect, (SILENT, port)), outcome(c.getpeername))
        say('calls', outcome(c.recv, 1), outcome(c.send, message(1)), outcome(c.bind, ('', 0)), outcome(c.listen, 1))
        say('poll', poll_mask(c, wait=8000) != '-', wait_for(c, 'OUT'), poll_mask(c))
    say('error', error_name(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
    say('afterwards', poll_mask(c), outcome(c.getpeername), outcome(c.recv, 1))


@each(where=with_network)
def send_timeout():
    c = stream()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 100000))
    say('connect', outcome(c.connect, (SILENT, port)))
    say('again', outcome(c.connect, (SILENT, port)))
    say('mask', poll_mask(c), c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def is_on_its_way():
    """Whether somebody in this network, the kernel or the engine, asks SILENT for a connection."""
    with open('/proc/net/tcp') as sockets:
        number = '%08X' % struct.unpack('=I', socket.inet_aton(SILENT))
        return any(line.split()[2].startswith(number) and line.split()[3] == '02' for line in sockets)


@each(where=with_network, handlers=('restart', 'interrupt', 'of-both-kinds'))
def interrupted(handlers):
    """Whether a signal ends the call is said by its own handler, whatever others say."""
    c, hits = stream(), []
    signal.signal(signal.SIGINT, signal.default_int_handler if handlers == 'of-both-kinds' else signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.siginterrupt(signal.SIGALRM, handlers == 'interrupt')
    main = threading.get_native_id()
    # Nothing tells when the library has heard from the engine that it is, and begins to wait for the outcome.
    Later(lambda: until(is_on_its_way) and not time.sleep(0.1) and asleep(main) and signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM))
    address = struct.pack('>HH4s8x', socket.htons(socket.AF_INET), port, socket.inet_aton(SILENT))
    say('connect', call('connect', c.fileno(), address, 16))
    say('handler ran', bool(hits), 'mask', poll_mask(c) if handlers == 'interrupt' else '')


@each(where=with_network)
def then_close():
    c = stream(blocking=False)
    say('connect', outcome(c.connect, (SILENT, port)))
    say('shutdown', outcome(c.shutdown, socket.SHUT_RDWR), outcome(c.close))


@each(which=('short', 'shorter', 'family', 'null', 'negative', 'v6-24-bytes', 'port-0', 'any', 'broadcast', 'multicast'))
def address(which):
    l = listener(socket.AF_INET6 if which.startswith('v6') else socket.AF_INET)
    v4 = lambda ip, number: struct.pack('=H', socket.AF_INET) + struct.pack('>H', number) + socket.inet_aton(ip) + bytes(8)
    v6 = struct.pack('=H', socket.AF_INET6) + struct.pack('>HI', port, 0) + socket.inet_pton(socket.AF_INET6, here(socket.AF_INET6)[0]) + bytes(4)
    c = stream(socket.AF_INET6 if which.startswith('v6') else socket.AF_INET)
    bytes_, size = {'short': (v4(here()[0], port), 15), 'shorter': (v4(here()[0], port), 1), 'family': (v6, 28), 'null': (None, 16),
                    'negative': (v4(here()[0], port), -1), 'v6-24-bytes': (v6, 24), 'port-0': (v4(here()[0], 0), 16),
                    'any': (v4('0.0.0.0', port), 16), 'broadcast': (v4('255.255.255.255', port), 16),
                    'multicast': (v4('224.0.0.1', port), 16)}[which]
    say('connect', call('connect', c.fileno(), bytes_, size))
    say('peer', outcome(lambda: c.getpeername()[0]), poll_mask(c))


@each(reaches=('v4', 'v6'))
def mapped(reaches):
    l = stream(socket.AF_INET6)
    l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(('::', port))
    l.listen(5)
    c = stream(socket.AF_INET6 if reaches == 'v6' else socket.AF_INET)
    c.connect((('::ffff:' if reaches == 'v6' else '') + here()[0], port))
    s, peer = l.accept()
    say('names', c.getpeername()[0], c.getsockname()[0], peer[0], s.getsockname()[0], s.getpeername()[0], len(peer), s.family)
    c.sendall(message(1))
    say('data', received(s, 5))


@case
def mapped_v6only():
    l, c = listener(), stream(socket.AF_INET6)
    c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    say('connect', outcome(c.connect, ('::ffff:' + here()[0], port)))


@each(what=('address', 'port', 'both', 'any'))
def bound(what):
    l, c, other = listener(), stream(), stream()
    other.bind((here()[0], 0))
    free = other.getsockname()[1]
    other.close()
    c.bind({'address': ('127.0.0.5', 0), 'port': ('', free), 'both': ('127.0.0.5', free), 'any': ('', 0)}[what])
    before = c.getsockname()[1]
    say('connect', outcome(c.connect, here()))
    s, peer = l.accept()
    say('own name', c.getsockname()[0], c.getsockname()[1] == before)
    say('as seen', peer[0], peer == c.getsockname())


@case
def settimeout():
    l, c = listener(), stream()
    c.settimeout(8)
    c.connect(here())
    s, _ = l.accept()
    c.settimeout(0.05)
    say('nothing', outcome(c.recv, 1))
    s.sendall(message(2))
    c.settimeout(8)
    say('data', received(c, 6))


@each(state={name: STATES[name] for name in ('idle', 'closed', 'reset', 'refused', 'unconnected')})
def unspec(state):
    """AF_UNSPEC makes a socket a fresh one."""
    c, *kept = state()
    say('unspec', call('connect', c.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16))
    say('afterwards', outcome(c.getpeername), poll_mask(c), outcome(c.recv, 1))
    if state is STATES['idle']:
        say('peer', wait_for(kept[0], 'RDHUP'), outcome(kept[0].recv, 1))
    l = listener()
    say('connect', outcome(c.connect, here()))
    s, _ = l.accept()
    c.sendall(message(1))
    say('data', received(s, 5))


@case
def fast_open():
    l, c = listener(), stream()
    say('sendto', 'sent' if outcome(c.sendto, message(1), 0x20000000, here()) in (5, 'ENOTSUP', 'EINPROGRESS') else 'no')
    outcome(c.connect, here())
    outcome(c.send, message(1))
    s, _ = l.accept()
    say('data', received(s, 5))


@each(how=('dup', 'fork'))
def holders(how):
    """Who else holds the socket that connects, holds the connection afterwards."""
    l, c = listener(), stream()
    if how == 'dup':
        d = c.dup()
        c.connect(here())
    else:
        d = c
        say('child', status_of(child(lambda: c.connect(here()))))
    s, _ = l.accept()
    say('the other', outcome(lambda: d.getpeername()[0]), poll_mask(d))
    say('sends', outcome(d.send, message(1), socket.MSG_NOSIGNAL))


@case
def owner_and_flags():
    l, c = listener(), stream()
    fcntl.fcntl(c, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(c, fcntl.F_SETFL, fcntl.fcntl(c, fcntl.F_GETFL) | os.O_NONBLOCK)
    os.set_inheritable(c.fileno(), True)
    c.connect_ex(here())
    poll_mask(c, select.POLLOUT, 8000)
    say('owner', fcntl.fcntl(c, fcntl.F_GETOWN) == os.getpid(), 'inherited', os.get_inheritable(c.fileno()))
    say('flags', oct(fcntl.fcntl(c, fcntl.F_GETFL)))


@each(how=('poll', 'epoll'))
def thread_waits(how):
    """One thread waits for the number while another connects it."""
    l, c, e = listener(), stream(blocking=False), select.epoll()
    e.register(c, select.EPOLLIN | select.EPOLLET)
    e.poll(0)
    waiter = Blocked(lambda: [mask_names(m) for _, m in e.poll(8)]) if how == 'epoll' else None
    c.connect_ex(here())
    waiter = waiter or Blocked(poll_mask, c, select.POLLIN, 8000)
    s, _ = l.accept()
    s.sendall(message(1))
    say('woken', waiter.outcome())
