"""fork, exec and descriptors that are passed on."""
import os, signal, socket, struct, subprocess, sys

from harness import *


@case
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


@case
def executed():
    c, s = connection()
    code = 'import socket,sys\ns=socket.socket(fileno=int(sys.argv[1]))\nprint(s.family,s.recv(6,256),s.getpeername()[0],flush=True)\ns.sendall(b"\\0\\0\\0\\1e")'
    c.sendall(message(2))
    child = subprocess.run([sys.executable, '-c', code, str(s.fileno())], pass_fds=[s.fileno()], stdout=subprocess.PIPE)
    say(child.stdout, received(c, 5))
    s.close()
    say(c.recv(1))


@case
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
    late.connect(here())
    other = l.accept()[0]
    other.sendall(message(1))
    say([events for _, events in e.poll(5)], received(late, 5))


@case
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


@case
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


@case
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
        reader, writer = await asyncio.open_connection(*here())
        for size in (1, 1000, 300000, 3000000):
            writer.write(message(size))
            await writer.drain()
            data = await reader.readexactly(size + 4)
            assert len(data) == size + 4
        writer.close()
        return n

    async def run():
        server = await asyncio.start_server(serve, *here())
        say(await asyncio.gather(*(client(n) for n in range(8))))
        server.close()

    asyncio.run(run())


# ---------------------------------------------------------------- exec in all its forms

ECHO = ('import os,sys\nfd=int(sys.argv[1])\ntry:\n d=os.read(fd,6)\n os.write(fd,b"\\0\\0\\0\\2"+d[4:])\n'
        'except OSError as e:\n os.write(1,str(e.errno).encode())')


def by_spawn(fd):
    return os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', ECHO, str(fd)], os.environ), 0)[1]


def by_fork_and_exec(fd):
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, '-c', ECHO, str(fd)])
    return os.waitpid(pid, 0)[1]


def by_subprocess(fd):
    return subprocess.run([sys.executable, '-c', ECHO, str(fd)], close_fds=False).returncode


def by_spawn_action(fd):
    actions = [(os.POSIX_SPAWN_DUP2, fd, 55)]
    return os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', ECHO, '55'], os.environ, file_actions=actions), 0)[1]


def by_system(fd):
    return os.system(f"{sys.executable} -c '{ECHO}' {fd}")


START = {'spawn': by_spawn, 'fork-exec': by_fork_and_exec, 'subprocess': by_subprocess, 'spawn-dup2': by_spawn_action, 'system': by_system}


@each(start=START, end=('accepted', 'connected'), inherited={'inherited': True, 'cloexec': False})
def programs(start, end, inherited):
    c, s = connection()
    own, peer = (s, c) if end == 'accepted' else (c, s)
    own.set_inheritable(inherited)
    peer.sendall(message(2, b'e'))
    say(start(own.fileno()))
    own.setblocking(False)
    peer.setblocking(False)
    say(outcome(own.recv, 10))
    if not wait_for(peer, 'IN') if inherited or start is by_spawn_action else False:
        say('no answer')
    say(outcome(peer.recv, 10))


@each(as_what=('stdin', 'stdout'))
def as_standard_stream(as_what):
    """As inetd starts its servers."""
    c, s = connection()
    if as_what == 'stdin':
        c.sendall(message(20, b'i'))
        c.shutdown(socket.SHUT_WR)
        say(subprocess.run(['cat'], stdin=s, stdout=subprocess.PIPE).stdout)
    else:
        say(subprocess.run(['printf', r'\0\0\0\5hello'], stdout=s).returncode, received(c, 9))


@case
def many_children_of_one_listener():
    """All wait in accept(); each connection is taken by exactly one."""
    l = listener(backlog=64)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            while True:
                s, _ = l.accept()
                s.sendall(message(4, b'%d' % (os.getpid() % 10)))
                s.close()
        children.append(pid)
    clients = [socket.create_connection(l.getsockname()) for _ in range(40)]
    say(sum(len(received(c, 8)) for c in clients), {c.recv(1) for c in clients})
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@case
def threads_accept_together():
    l = listener(backlog=64)
    def serve():
        while True:
            s, _ = l.accept()
            s.sendall(message(4))
            s.close()
    [in_thread(serve) for _ in range(4)]
    clients = [socket.create_connection(l.getsockname()) for _ in range(40)]
    say(sum(len(received(c, 8)) for c in clients), {c.recv(1) for c in clients})


@case
def killed_owner():
    """A process that is killed closes its connections; what it had not read makes that a reset."""
    for unread in (False, True):
        c, s = connection()
        pid = os.fork()
        if pid == 0:
            c.close()
            signal.pause()
        s.close()
        if unread:
            c.sendall(message(5))
            until(lambda: unsent(c) == 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say(unread, wait_for(c, 'ERR' if unread else 'RDHUP'), outcome(c.recv, 1))
