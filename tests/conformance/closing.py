"""What is left of a connection while one end, or the other, or both have closed it."""
import os, socket, struct

from harness import *


def said_all():
    """One end has said all it had to say."""
    c, s = connection()
    c.sendall(message(3))
    c.shutdown(socket.SHUT_WR)
    say(received(s, 7), s.recv(1))
    return c, s


@case
def half_close():
    """The other goes on."""
    c, s = said_all()
    say(outcome(s.send, message(5), socket.MSG_NOSIGNAL), outcome(c.recv, 20))


@case
def both_halves_closed():
    c, s = said_all()
    say(outcome(s.shutdown, socket.SHUT_WR), c.recv(1))
    say(until(lambda: 'HUP' in poll_mask(c).split('|'), 1), until(lambda: 'HUP' in poll_mask(s).split('|'), 1))
    say(outcome(c.send, b'1', socket.MSG_NOSIGNAL), outcome(s.send, b'1', socket.MSG_NOSIGNAL))


@each(size=(1, 300000, 3000000), how=('close', 'shutdown'))
def until_the_end(size, how):
    """A filter: it reads until the end of its input, and answers after that."""
    c, s = connection()

    def filter_():
        data = b''
        while more := s.recv(70000):
            data += more
        s.sendall(message(len(data)))
        s.close() if how == 'close' else s.shutdown(socket.SHUT_WR)
    server = in_thread(filter_)
    c.sendall(message(size))
    c.shutdown(socket.SHUT_WR)
    answer = received(c, size + 8)
    server.join()
    say(len(answer), answer[:4] == message(size + 4)[:4], outcome(c.recv, 1))
    say('gone', wait_for(c, 'HUP'), outcome(c.getpeername), outcome(c.shutdown, socket.SHUT_WR))


@each(order=('mine', 'yours', 'mine-yours', 'yours-mine', 'mine-reading', 'yours-reading', 'reading-mine', 'mine-yours-reading'))
def halves(order):
    """What is to be seen of each half that is closed, one after the other, at both ends."""
    c, s = connection()
    for step in order.split('-'):
        sock, how = {'mine': (c, socket.SHUT_WR), 'yours': (s, socket.SHUT_WR), 'reading': (c, socket.SHUT_RD)}[step]
        say(step, outcome(sock.shutdown, how))
        if how == socket.SHUT_WR:
            wait_for(c if sock is s else s, 'RDHUP')
        for name, end in (('mine', c), ('yours', s)):
            state = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            say(name, poll_mask(end), {4: 5, 9: 7}.get(state, state), outcome(end.getpeername) == 'ENOTCONN')  # acknowledged or not
    if {'mine', 'reading'} <= set(order.split('-')):
        return  # what is sent to who has shut both is a matter of moments
    for end in (c, s):
        say(outcome(end.send, message(1), socket.MSG_NOSIGNAL))
    for end in (c, s):
        wait_for(end, 'IN')
        say(outcome(end.recv, 1, socket.MSG_DONTWAIT))


@each(how=('reset', 'close', 'unread', 'killed'))
def after_the_half(how):
    """The other half does not end as it should."""
    c, s = connection()
    c.shutdown(socket.SHUT_WR)
    say(outcome(s.recv, 1))
    s.sendall(message(10))
    arrived(c, 14)
    if how == 'killed':
        pid = child(lambda: os.kill(os.getpid(), 9))
        s.close()
        say(status_of(pid))
    elif how == 'unread':
        c.close()
        say(wait_for(s, 'ERR'), outcome(s.recv, 1), outcome(s.send, message(1), socket.MSG_NOSIGNAL))
        return
    else:
        reset(s) if how == 'reset' else s.close()
    wait_for(c, 'ERR' if how == 'reset' else 'RDHUP')
    say(outcome(c.recv, 14) if how != 'reset' else '', outcome(c.recv, 1), outcome(c.recv, 1), wait_for(c, 'HUP'), poll_mask(c))


@each(how=('SHUT_WR', 'SHUT_RDWR'), size=(200000, 6000000))
def beside_a_send(how, size):
    """shutdown() while another thread sends: what send() counts arrives, and then the end."""
    c, s = connection()
    data = message(size) * (18000000 // size)
    sender = Later(c.send, data, socket.MSG_NOSIGNAL)
    reader = Later(lambda: sum(len(part) for part in iter(lambda: s.recv(1 << 20), b'')))
    until(lambda: unsent(c) > 0)
    say(outcome(c.shutdown, getattr(socket, how)))
    sent = sender.outcome()
    say(reader.outcome() == sent, outcome(c.send, message(1), socket.MSG_NOSIGNAL))


@case
def all_is_sent_of_a_half():
    """Both have shut; one had much to say, and it arrives late."""
    c, s = connection()
    c.shutdown(socket.SHUT_WR)
    say(outcome(s.recv, 1))
    sent = fill(s)
    say(outcome(s.shutdown, socket.SHUT_WR), unsent(s) > 0)
    say(len(received(c, sent)) == sent, outcome(c.recv, 1), until(lambda: unsent(s) == 0), wait_for(s, 'HUP'))


@case
def half_of_many_holders():
    """The half is the connection's, not the descriptor's."""
    c, s = connection()
    d = c.dup()
    pid = child(lambda: c.shutdown(socket.SHUT_WR) or len(received(c, 54)))
    say(outcome(s.recv, 1), outcome(d.send, message(1), socket.MSG_NOSIGNAL), outcome(c.send, message(1), socket.MSG_NOSIGNAL))
    s.sendall(message(50))
    say(status_of(pid), poll_mask(d))


@case
def all_is_delivered_before_the_end():
    """Much more than any buffer holds but one, closed at once; the reader is slow."""
    for ending in ('close', 'shutdown'):
        c, s = connection()
        whole = message(1 << 20)
        sender = in_thread(lambda: (c.sendall(whole), c.close() if ending == 'close' else c.shutdown(socket.SHUT_WR)))
        data = b''
        while more := s.recv(7000):
            data += more
        sender.join()
        say(ending, data == whole, s.recv(1), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@case
def linger_of_some_seconds():
    """close() that waits until everything is taken, and comes back once it is."""
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 10))
    c.sendall(message(100000))
    c.close()
    say(len(received(s, 100004)), s.recv(1))


@case
def reset_while_sending():
    c, s = connection()
    fill(c)
    c.setblocking(True)
    from calls import waits
    say(*waits(lambda: outcome(c.send, message(1 << 20), socket.MSG_NOSIGNAL), lambda: reset(s)))
    say(outcome(c.send, b'1', socket.MSG_NOSIGNAL), outcome(c.recv, 1))
