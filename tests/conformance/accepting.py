"""listen() and accept()."""
import os, select, socket, subprocess, sys

from harness import *


@case
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


@case
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


@case
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
