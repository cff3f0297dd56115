"""What is left of a connection while one end, or the other, or both have closed it."""
import socket, struct

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
