"""Listeners: listen() and accept(), backlogs, races, and what an accepted socket inherits."""
import ctypes, fcntl, os, resource, select, signal, socket, struct, subprocess, sys, threading

from harness import *


@each(family=FAMILIES)
def states(family):
    l = listener(family)
    say('name', l.getsockname()[0], l.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), poll_mask(l), 'again', outcome(l.listen, 3))
    l.setblocking(False)
    say('nobody there', outcome(l.accept))
    e = select.epoll()
    e.register(l, select.EPOLLIN)
    say('quiet', e.poll(0))
    c = [stream(family) for _ in range(3)]
    [one.connect(here(family)) for one in c]
    for _ in range(3):
        say('ready', [mask_names(m) for _, m in e.poll(8)])
        s, peer = l.accept()
        say('accepted', s.getblocking(), peer in [x.getsockname() for x in c])
        s.close()
    say('other calls', outcome(l.accept), outcome(l.recv, 1), outcome(l.send, message(8)), outcome(l.getpeername), outcome(l.connect, here(family)))


@each(what=('taken', 'taken-by-listener', 'not-local', 'twice', 'without', 'unix-family', 'any-then-one'))
def bind(what):
    s, other = stream(), stream()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whatever the case before has left
    if what == 'taken':
        other.bind(here())
        say('bind', outcome(s.bind, here()))
    elif what == 'taken-by-listener':
        other.bind(here())
        other.listen(1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        say('bind', outcome(s.bind, here()))
    elif what == 'not-local':
        say('bind', outcome(s.bind, ('198.51.100.77', port)))
    elif what == 'twice':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        say('bind', outcome(s.bind, here()), outcome(s.bind, here()))
    elif what == 'without':
        say('listen', outcome(s.listen, 1), s.getsockname()[0], s.getsockname()[1] > 0, outcome(s.bind, here()))
    elif what == 'unix-family':
        say('bind', call('bind', s.fileno(), struct.pack('=H14s', socket.AF_UNIX, b'x'), 16))
    else:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('', port))
        say('listen', outcome(s.listen, 1))
        say('bind', outcome(other.bind, here()))
    say('name', s.getsockname()[0])


@each(backlog=(0, 1, 4), family=FAMILIES)
def backlog(backlog, family):
    """More clients than the queue holds: in the end each is served."""
    l = listener(family, backlog=backlog)
    clients = [stream(family, blocking=False) for _ in range(backlog + 2 + (backlog > 0))]
    for c in clients:
        c.connect_ex(here(family))
    accepted = []
    l.settimeout(20)
    while len(accepted) < len(clients):
        s = outcome(lambda: l.accept()[0])
        if isinstance(s, str):
            say('accept', s)
            break
        accepted.append(s)
    say('served', len(accepted), [poll_mask(c, select.POLLOUT, 8000) for c in clients])
    for c in clients:
        outcome(c.send, message(1))
    say('data', [len(received(s, 5)) for s in accepted])


@case
def reuse():
    """A listener goes, its connection stays, another one takes the port."""
    for _ in range(4):
        c, s = connection()
        again = listener()
        d = stream()
        d.connect(here())
        t, _ = again.accept()
        c.sendall(message(1, b'c'))
        d.sendall(message(1, b'd'))
        say('data', received(s, 5)[4:], received(t, 5)[4:])
        again.close()
        say('closed', outcome(stream().connect, here()))


@each(family=FAMILIES)
def close_with_arrivals(family):
    l, c = listener(family), stream(family)
    c.connect(here(family))
    wait_for(l, 'IN')
    l.close()
    say('client', wait_for(c, 'ERR', 'HUP'), poll_mask(c), outcome(c.recv, 1), outcome(c.recv, 1))


@each(how=('reading', 'writing'))
def shut_listener(how):
    l = listener()
    l.settimeout(8)
    waiter = Blocked(l.accept) if how == 'reading' else None
    say('shutdown', outcome(l.shutdown, {'reading': socket.SHUT_RD, 'writing': socket.SHUT_WR}[how]))
    if waiter:
        say('accept', waiter.outcome(), poll_mask(l), outcome(l.accept))
        say('connect', outcome(stream().connect, here()))
        say('listens again', outcome(l.listen, 4))
    c = stream()
    say('connect', outcome(c.connect, here()))
    s, _ = l.accept()
    c.sendall(message(1))
    say('data', received(s, 5))


# ---------------------------------------------------------------- accept

def accept4(l, flags, address=None, length=None):
    return call('accept4', l.fileno(), address, length, flags)


@each(flags=('none', 'nonblock', 'cloexec', 'both', 'nonsense'), form=('accept4', 'accept'))
def flags(flags, form):
    l, c = listener(), stream()
    c.connect(here())
    bits = {'none': 0, 'nonblock': socket.SOCK_NONBLOCK, 'cloexec': socket.SOCK_CLOEXEC,
            'both': socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 'nonsense': 1}[flags]
    if form == 'accept':
        l.setblocking('nonblock' not in flags)
        wait_for(l, 'IN')
        fd = call('accept', l.fileno(), None, None)
    else:
        fd = accept4(l, bits)
    if isinstance(fd, str):
        return say('accept', fd)
    say('flags', oct(fcntl.fcntl(fd, fcntl.F_GETFL)), fcntl.fcntl(fd, fcntl.F_GETFD))
    c.sendall(message(1))
    poll_mask(fd, select.POLLIN, 8000)
    say('data', os.read(fd, 9))


@each(room=(128, 28, 16, 8, 0, -1, 'null-length', 'null-address'), family=FAMILIES)
def address(room, family):
    l, c = listener(family), stream(family)
    c.connect(here(family))
    buffer, length = ctypes.create_string_buffer(128), ctypes.c_int(room if isinstance(room, int) else 128)
    fd = call('accept', l.fileno(), None if room == 'null-address' else buffer, None if room == 'null-length' else ctypes.byref(length))
    say('accept', 'accepted' if isinstance(fd, int) else fd, length.value if fd != 'EFAULT' else '', buffer.raw[:2] + buffer.raw[4:8])


@each(call_name=('getpeername', 'getsockname'), room=(128, 16, 8, 0, -1, 'null-length', 'null-address'), family=FAMILIES)
def names(call_name, room, family):
    c, s = connection(family)
    buffer, length = ctypes.create_string_buffer(128), ctypes.c_int(room if isinstance(room, int) else 128)
    got = call(call_name, s.fileno(), None if room == 'null-address' else buffer, None if room == 'null-length' else ctypes.byref(length))
    say('got', got, length.value if got != 'EFAULT' else '', buffer.raw[:2] + buffer.raw[4:8])


@each(how=('closed', 'closed-after-data', 'reset', 'shut-after-data'), blocking=MODES)
def gone_before(how, blocking):
    """The client is gone when it is accepted."""
    l, c = listener(), stream()
    l.setblocking(blocking)
    c.connect(here())
    wait_for(l, 'IN')
    if 'data' in how:
        c.sendall(message(3))
    if how == 'shut-after-data':
        c.shutdown(socket.SHUT_WR)
    else:
        reset(c) if how == 'reset' else c.close()
    s, peer = l.accept()
    s.setblocking(True)
    say('accepted', peer[0])
    say('receives', outcome(s.recv, 100), outcome(s.recv, 100))


@case
def data_before():
    """What the client sent before it was accepted is there."""
    l, c = listener(), stream()
    c.connect(here())
    for size in (1, 100, 100000):
        c.sendall(message(size))
    s, _ = l.accept()
    say('data', [len(received(s, size + 4)) for size in (1, 100, 100000)])


@each(ends=('arrival', 'timeout', 'signal', 'signal-restarts', 'nonblocking-elsewhere'))
def waits(ends):
    l, hits = listener(), []
    if ends == 'timeout':
        l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 100000))
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.siginterrupt(signal.SIGALRM, ends == 'signal')
    main, ident = threading.get_native_id(), threading.main_thread().ident
    c = stream()

    def act():
        asleep(main)
        if ends.startswith('signal'):
            signal.pthread_kill(ident, signal.SIGALRM)
            if ends == 'signal':
                return
            until(lambda: hits, 1)  # Python's handler runs after the call; the system's at once
        if ends == 'nonblocking-elsewhere':
            l.setblocking(False)
        c.connect(here())
    if ends != 'timeout':
        helper = Later(act)
    fd = call('accept', l.fileno(), None, None)
    say('accept', 'accepted' if isinstance(fd, int) else fd)


@each(who=('threads', 'processes'), how=('blocking', 'nonblocking', 'exclusive'))
def race(who, how):
    """Four that accept on one listener, forty clients: each is served once."""
    l, clients, each = listener(backlog=64), 40, 4
    l.setblocking(how == 'blocking')

    def accept_all():
        served, e = 0, select.epoll()
        if how != 'blocking':
            e.register(l, select.EPOLLIN | (0x10000000 if how == 'exclusive' else 0))
        while True:
            if how != 'blocking':
                e.poll()
            try:
                s, _ = l.accept()
            except BlockingIOError:
                continue
            s.setblocking(True)
            what = received(s, 5)[4:]
            s.sendall(message(1, what))
            s.close()
            if what == b'q':
                return served
            served += 1
    if who == 'threads':
        workers = [Later(accept_all) for _ in range(each)]
    else:
        workers = [child(accept_all) for _ in range(each)]

    def visit(what):
        c = stream()
        c.connect(here())
        c.sendall(message(1, what))
        return received(c, 5)[4:]
    answers = [visit(b'a') for _ in range(clients)]
    say('answers', answers.count(b'a'))
    [visit(b'q') for _ in range(each)]
    say('served', sum(w.outcome() if who == 'threads' else status_of(w) for w in workers))


@each(call_name=('accept', 'accept4'))
def no_descriptors(call_name):
    l, c = listener(), stream()
    c.connect(here())
    wait_for(l, 'IN')
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
    os.close(highest)
    filler = []
    while isinstance(fd := outcome(os.dup, 0), int):
        filler.append(fd)
    extra = [0] if call_name == 'accept4' else []
    say('accept', call(call_name, l.fileno(), None, None, *extra))
    [os.close(fd) for fd in filler]
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    say('still there', poll_mask(l))
    fd = call(call_name, l.fileno(), None, None, *extra)
    c.sendall(message(2))
    poll_mask(fd, select.POLLIN, 8000)
    say('data', os.read(fd, 9))


OPTIONS = {'keepalive': (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), 'nodelay': (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
           'keepidle': (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77), 'keepcnt': (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
           'priority': (socket.SOL_SOCKET, socket.SO_PRIORITY, 4), 'rcvbuf': (socket.SOL_SOCKET, socket.SO_RCVBUF, 60000),
           'sndbuf': (socket.SOL_SOCKET, socket.SO_SNDBUF, 60000), 'tos': (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
           'user-timeout': (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9000), 'reuseport': (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)}


@each(option=tuple(OPTIONS))
def inherits(option):
    l, c = listener(), stream()
    level, number, value = OPTIONS[option]
    l.setsockopt(level, number, value)
    c.connect(here())
    s, _ = l.accept()
    say('listener', l.getsockopt(level, number), 'accepted', s.getsockopt(level, number))


@case
def inherits_times():
    l, c = stream(), stream()
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in ((socket.SO_RCVTIMEO, struct.pack('ll', 0, 90000)), (socket.SO_SNDTIMEO, struct.pack('ll', 3, 0)), (socket.SO_LINGER, RESET)):
        l.setsockopt(socket.SOL_SOCKET, option, value)
    l.bind(here())
    l.listen(3)
    c.connect(here())
    s, _ = l.accept()
    say('timeouts', struct.unpack('ll', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[1] // 10000,
        struct.unpack('ll', s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))[0])
    say('linger', struct.unpack('ii', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    say('receive', call('recv', s.fileno(), ctypes.create_string_buffer(9), ctypes.c_size_t(9), 0))
    s.close()
    say('close resets', wait_for(c, 'ERR'), outcome(c.recv, 1))


# ---------------------------------------------------------------- one listener in several processes

@case
def children():
    l, workers = listener(), []

    def serve():
        while True:
            s, _ = l.accept()
            data = received(s, 5)
            s.sendall(message(1, data[4:]))
            if data[4:] == b'q':
                return 0
            s.close()
    for _ in range(3):
        workers.append(child(serve))
    l.close()
    for what in [b'a'] * 12 + [b'q'] * 3:
        c = stream()
        c.connect(here())
        c.sendall(message(1, what))
        say('answer', received(c, 5))
        c.close()
    say('children', [status_of(pid) for pid in workers])


@case
def another_program():
    """Inherited over exec, as from systemd or inetd: nobody there called listen()."""
    l = listener()
    code = ('import socket,sys\nl=socket.socket(fileno=int(sys.argv[1]))\ns,p=l.accept()\n'
            'print(s.recv(5, 256),p==s.getpeername(),l.getsockopt(1,30),flush=True)\ns.sendall(b"\\0\\0\\0\\1e")\ns.recv(1)')
    for _ in range(2):
        program = subprocess.Popen([sys.executable, '-c', code, str(l.fileno())], pass_fds=[l.fileno()], stdout=subprocess.PIPE)
        c = stream()
        c.connect(here())
        c.sendall(message(1))
        say('answer', received(c, 5))
        c.close()
        say('program', program.communicate()[0], program.returncode)


@case
def passed():
    """A listener that came by SCM_RIGHTS, and its maker has closed it."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def serve():
        l = socket.socket(fileno=socket.recv_fds(b, 9, 1)[1][0])
        s, _ = l.accept()
        s.sendall(message(1, received(s, 5)[4:]))
        received(s, 1)
    pid = child(serve)
    l = listener()
    socket.send_fds(a, [b'x'], [l.fileno()])
    l.close()
    c = stream()
    c.connect(here())
    c.sendall(message(1, b'p'))
    say('answer', received(c, 5))
    c.close()
    say('child', status_of(pid))


@each(family=FAMILIES)
def plain_client(family):
    """A client that knows nothing of the library, and one of ours, at one listener."""
    l, code = listener(family), 'import socket,sys\nc=socket.create_connection((sys.argv[1],int(sys.argv[2])))\nc.sendall(b"\\0\\0\\0\\1p")\nprint(c.recv(5,256))'
    bare = {k: v for k, v in os.environ.items() if k != 'LD_PRELOAD'}
    program = subprocess.Popen([sys.executable, '-c', code, *map(str, here(family))], env=bare, stdout=subprocess.PIPE)
    s, peer = l.accept()
    say('plain', received(s, 5), s.family, peer[0], poll_mask(s))
    s.sendall(message(1, b'a'))
    say('program', program.communicate()[0])
    c = stream(family)
    c.connect(here(family))
    t, _ = l.accept()
    c.sendall(message(1, b'o'))
    say('ours', received(t, 5))
