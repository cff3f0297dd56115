"""Backlogs that are full, clients that end before they are accepted, and several listeners of one port."""
import errno, socket

from harness import *


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


@each(options=('reuse', 'reuseport'))
def second_listener(options):
    """Two listeners of one port."""
    one, two = socket.socket(), socket.socket()
    for l in (one, two):
        l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of those that other cases had there
        if options == 'reuseport':
            l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    say(outcome(one.bind, here()), outcome(two.bind, here()))
    say(outcome(one.listen, 3), outcome(two.listen, 3))


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
