"""fork, exec and descriptors that are passed on."""
import os, select, socket, struct, subprocess, sys

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
    late.connect(('127.0.0.1', port))
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
