"""epoll in all its ways, and poll and select with signal masks."""
import ctypes, fcntl, os, select, signal, socket, struct, threading

from harness import *

IN, OUT, RDHUP, ET, ONESHOT, EXCLUSIVE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLET, select.EPOLLONESHOT, 0x10000000


def events(e, wait=0):
    return [mask_names(m) for _, m in e.poll(wait)]


@each(family=FAMILIES)
def edges(family):
    """An edge for what is new, none for what is not."""
    c, s = connection(family)
    e = select.epoll()
    e.register(s, IN | RDHUP | ET)
    say('nothing', events(e))
    c.sendall(message(10))
    say('first', events(e, 8), events(e))
    s.recv(4)
    say('after a part', events(e))
    c.sendall(message(10))
    arrived(s, 24)
    say('second', events(e, 8))
    received(s, 24)
    say('after all', events(e))
    c.sendall(message(1))
    say('third', events(e, 8), received(s, 5))
    c.close()
    say('end', events(e, 8), events(e))


@each(count=(5, 50))
def edge_each(count):
    """Each arrival after the queue was emptied makes an edge."""
    c, s = connection()
    e, edges_ = select.epoll(), 0
    e.register(s, IN | ET)
    s.setblocking(False)
    for _ in range(count):
        c.sendall(message(3))
        edges_ += len(e.poll(8))
        received(s, 7)
    say('edges', edges_, events(e))


@case
def edge_of_room():
    c, s = connection()
    c.setblocking(False)
    e = select.epoll()
    e.register(c, OUT | ET)
    say('at first', events(e))
    sent = fill(c)
    events(e)
    say('full', events(e), outcome(c.send, flow(sent, PIECE)))
    reader = Later(lambda: len(received(s, sent + len(rest_of(sent)))))
    say('room', events(e, 8))
    c.setblocking(True)
    c.sendall(rest_of(sent))
    say('whole', reader.outcome() == sent + len(rest_of(sent)))


@each(what=('in', 'out'))
def one_shot(what):
    c, s = connection()
    e = select.epoll()
    wanted = IN if what == 'in' else OUT
    e.register(s, wanted | ONESHOT)
    c.sendall(message(2))
    arrived(s, 6)
    say('once', events(e, 8), events(e))
    c.sendall(message(2))
    arrived(s, 12)
    say('silent', events(e))
    e.modify(s, wanted | ONESHOT)
    say('armed again', events(e), events(e))


@each(form=('level', 'edge'))
def exclusive(form):
    c, s = connection()
    sets = [select.epoll() for _ in range(2)]
    for e in sets:
        e.register(s, IN | EXCLUSIVE | (ET if form == 'edge' else 0))
    say('modify', outcome(sets[0].modify, s, IN))
    waiters = [Blocked(e.poll, 8) for e in sets]
    c.sendall(message(1))
    until(lambda: not all(w.is_alive() for w in waiters))
    say('somebody woke', any(not w.is_alive() for w in waiters), received(s, 5))
    c.close()
    [w.outcome() for w in waiters]
    say('end', [events(e, 8) for e in sets] if form == 'level' else '')


@each(depth=(1, 3), form=('level', 'edge'))
def nested(depth, form):
    c, s = connection()
    chain = [select.epoll()]
    chain[0].register(s, IN | (ET if form == 'edge' else 0))
    for _ in range(depth):
        outer = select.epoll()
        outer.register(chain[-1], IN)
        chain.append(outer)
    say('nothing', events(chain[-1]))
    c.sendall(message(1))
    say('outer', events(chain[-1], 8), 'inner', events(chain[0]), 'poll', poll_mask(chain[-1], select.POLLIN))
    received(s, 5)
    say('emptied', events(chain[0]), events(chain[-1]))


@case
def registrations():
    """The errors of epoll_ctl."""
    c, s = connection()
    e = select.epoll()
    say('add', outcome(e.register, s, IN), outcome(e.register, s, IN))
    say('modify', outcome(e.modify, s, OUT), events(e), outcome(e.modify, c, IN))
    say('remove', outcome(e.unregister, s), outcome(e.unregister, s))
    d = s.dup()
    say('of a dup', outcome(e.register, s, IN), outcome(e.register, d, OUT), events(e))
    s.close()
    say('closed one', events(e), outcome(e.unregister, d))


@each(last=(True, False))
def close_removes(last):
    c, s = connection()
    e = select.epoll()
    e.register(s, IN)
    kept = None if last else s.dup()
    c.sendall(message(1))
    arrived(s, 5)
    s.close()
    say('events', events(e), bool(kept))


@case
def data():
    """What is registered comes back, all 64 bits; also when it was registered before connect()."""
    l, c = listener(), stream(blocking=False)
    e = select.epoll()
    event = struct.pack('=IQ', OUT | ET, 0x0123456789abcdef)
    say('add', call('epoll_ctl', e.fileno(), 1, c.fileno(), event))
    c.connect_ex(here())
    poll_mask(c, select.POLLOUT, 8000)
    got = ctypes.create_string_buffer(24)
    say('wait', call('epoll_wait', e.fileno(), got, 2, 8000), hex(struct.unpack_from('=IQ', got)[1]))


@each(sets_of=('one', 'two', 'after-refused'))
def before_connect(sets_of):
    l, c = listener(), stream(blocking=False)
    sets = [select.epoll() for _ in range(2 if sets_of == 'two' else 1)]
    if sets_of == 'after-refused':
        l.close()
        outcome(c.connect, here())
        wait_for(c, 'HUP')
        c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        outcome(c.connect, here())
        l = listener()
    for e in sets:
        e.register(c, IN | RDHUP)
        e.poll(0)
    outcome(c.connect, here())
    poll_mask(c, select.POLLOUT, 8000)
    s, _ = l.accept()
    say('quiet', [events(e) for e in sets])
    s.sendall(message(1))
    say('ready', [events(e, 8) for e in sets])
    say('modify, remove', [outcome(e.modify, c, IN) for e in sets], [outcome(e.unregister, c) for e in sets])


@each(who=('fork', 'threads'))
def shared_set(who):
    """A set that a child inherited, or that threads share, tells of one arrival."""
    c, s = connection()
    e = select.epoll()
    e.register(s, IN)
    if who == 'fork':
        pid = child(lambda: len(e.poll(8)) and len(received(s, 5)))
        c.sendall(message(1))
        say('child', status_of(pid), events(e))
    else:
        waiters = [Blocked(lambda: len(e.poll(8))) for _ in range(3)]
        c.sendall(message(1))
        until(lambda: not all(w.is_alive() for w in waiters))
        c.close()
        say('all', [w.outcome() for w in waiters], received(s, 5))


@each(count=(10, 60))
def many(count):
    """Many connections in one set."""
    l, e, clients, servers = listener(backlog=64), select.epoll(), [], {}
    for _ in range(count):
        c = stream()
        c.connect(here())
        clients.append(c)
        s, _ = l.accept()
        servers[s.fileno()] = s
        e.register(s, IN)
    for c in clients:
        c.sendall(message(2))
    got = 0
    while got < count:
        for fd, m in e.poll(8):
            got += len(received(servers[fd], 6)) == 6
    say('served', got, events(e))
    [c.close() for c in clients]
    until(lambda: len(e.poll(0)) == count)
    say('ended', {mask_names(m) for _, m in e.poll(0)})


@each(how=('poll', 'select'))
def poll_many(how):
    pairs = [connection() for _ in range(8)]
    for c, s in pairs[::2]:
        c.sendall(message(1))
        arrived(s, 5)
    sockets = [s for _, s in pairs]
    if how == 'poll':
        p = select.poll()
        [p.register(s, select.POLLIN) for s in sockets]
        ready = {fd for fd, _ in p.poll(0)}
    else:
        ready = {s.fileno() for s in select.select(sockets, [], [], 0)[0]}
    say('ready', [s.fileno() in ready for s in sockets])


@each(how=('poll', 'ppoll', 'select', 'pselect', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2', 'recv'), family=FAMILIES)
def arrival_wakes(how, family):
    c, s = connection(family)
    waiter = Blocked(wait_by(how, s))
    say('slept', waiter.slept)
    c.sendall(message(1))
    say('woken', waiter.outcome(), received(s, 5))


def wait_by(how, s, wait=8, sigmask=None):
    """A function that waits until a socket is readable; it gives the call's result."""
    fd, e = s.fileno(), select.epoll()
    e.register(s, IN)
    pollfd = ctypes.create_string_buffer(struct.pack('ihh', fd, select.POLLIN, 0))
    bits = ctypes.create_string_buffer(128)
    bits[fd // 8] = 1 << fd % 8
    found = ctypes.create_string_buffer(12)
    spec, val = struct.pack('ll', wait, 0), ctypes.create_string_buffer(struct.pack('ll', wait, 0))
    arguments = {'poll': (pollfd, ctypes.c_ulong(1), wait * 1000), 'ppoll': (pollfd, ctypes.c_ulong(1), spec, sigmask),
                 'select': (fd + 1, bits, None, None, val), 'pselect': (fd + 1, bits, None, None, spec, sigmask),
                 'epoll_wait': (e.fileno(), found, 1, wait * 1000), 'epoll_pwait': (e.fileno(), found, 1, wait * 1000, sigmask),
                 'epoll_pwait2': (e.fileno(), found, 1, spec, sigmask)}
    if how == 'recv':
        return lambda: s.recv(1, socket.MSG_PEEK) and 1

    def act():
        keep = e  # the set lives as long as the call
        return call(how, *arguments[how]) if keep else None
    return act


@each(how=('poll', 'ppoll', 'select', 'pselect', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2'), restart=(True, False))
def signal_wakes(how, restart):
    """A signal ends the wait, whatever SA_RESTART says."""
    c, s = connection()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, not restart)
    main, ident = threading.get_native_id(), threading.main_thread().ident
    Later(lambda: asleep(main) and signal.pthread_kill(ident, signal.SIGALRM))
    say('wait', wait_by(how, s)())


@each(how=('ppoll', 'pselect', 'epoll_pwait', 'epoll_pwait2'), pending=(True, False))
def signal_mask(how, pending):
    """The mask counts during the wait only."""
    c, s = connection()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    signal.raise_signal(signal.SIGALRM)
    open_ = ctypes.create_string_buffer(128)  # an empty set: nothing blocked
    if not pending:
        ctypes.memset(open_, 0xff, 8)
        c.sendall(message(1))
        arrived(s, 5)
    say('wait', wait_by(how, s, sigmask=open_)())
    say('still blocked', signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, []))


@each(how=('poll', 'ppoll', 'select', 'pselect', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2'))
def timeouts(how):
    c, s = connection()
    say('nothing', wait_by(how, s, 0)())
    c.sendall(message(1))
    arrived(s, 5)
    say('something', wait_by(how, s, 0)())


@each(form=('__poll_chk', '__ppoll_chk'))
def checked(form):
    c, s = connection()
    pollfd = ctypes.create_string_buffer(struct.pack('ihh', s.fileno(), select.POLLOUT, 0))
    rest = [1000] if form == '__poll_chk' else [struct.pack('ll', 1, 0), None]
    say('ready', call(form, pollfd, ctypes.c_ulong(1), *rest, ctypes.c_size_t(8)), pollfd.raw[6])


@case
def sigio():
    """O_ASYNC: SIGIO when something comes."""
    c, s = connection()
    hits = []
    signal.signal(signal.SIGIO, lambda *_: hits.append(1))
    fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(s, fcntl.F_SETFL, fcntl.fcntl(s, fcntl.F_GETFL) | os.O_ASYNC)
    c.sendall(message(1))
    say('came', until(lambda: hits), received(s, 5))
