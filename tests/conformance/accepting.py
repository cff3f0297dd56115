"""listen() and accept()."""
import errno, os, select, socket, subprocess, sys

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


@case
def backlog_is_full():
    """More knock than the backlog holds, and nobody accepts yet: in the end everybody is served."""
    backlog = 4
    l = listener(backlog=backlog)
    clients = []
    for _ in range(backlog + 4):
        c = socket.socket()
        c.setblocking(False)
        say(c.connect_ex(l.getsockname()) in (0, errno.EINPROGRESS))
        clients.append(c)
    for _ in clients:
        s, _ = l.accept()
        s.sendall(message(1))
        s.close()
    for c in clients:
        c.setblocking(True)
    say(sum(len(received(c, 5)) for c in clients))


@each(first=('data', 'close'))
def before_accept(first):
    """What the client does before it is accepted is there afterwards. (After a reset it depends on who was quicker: what
    died before accept() is not handed out by SMBDIRECT.)"""
    l = listener()
    c = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    c.sendall(message(5))
    if first == 'close':
        c.close()
    s, _ = l.accept()
    say(received(s, 9))
    if first == 'close':
        say(outcome(s.recv, 1))


@case
def listener_closed_with_somebody_waiting():
    l = listener()
    c = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    l.close()
    say(wait_for(c, 'RDHUP'), outcome(c.recv, 1))


@each(options=('reuse', 'reuseport', 'neither'))
def second_listener(options):
    """Two listeners of one port."""
    one, two = socket.socket(), socket.socket()
    for l in (one, two):
        if options != 'neither':
            l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if options == 'reuse' else socket.SO_REUSEPORT, 1)
    say(outcome(one.bind, ('127.0.0.1', port)), outcome(two.bind, ('127.0.0.1', port)))
    say(outcome(one.listen, 3), outcome(two.listen, 3) if options != 'neither' else '')


@each(how=('close', 'shutdown'))
def listener_again(how):
    """The port is free again at once."""
    for _ in range(3):
        l = listener()
        c = socket.create_connection(l.getsockname())
        s, _ = l.accept()
        c.sendall(message(1))
        say(received(s, 5))
        if how == 'shutdown':
            say(outcome(l.shutdown, socket.SHUT_RDWR), outcome(l.accept), poll_mask(l))
            say(outcome(l.listen, 5))
        l.close(), c.close(), s.close()
