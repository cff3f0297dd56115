"""How connections end."""
import os, signal, socket, struct, threading, time

from harness import *


@case
def by_close():
    c, s = connection()
    c.sendall(message(5))
    until(lambda: waiting(s) == 9)
    c.close()
    say(until(lambda: 'RDHUP' in poll_mask(s)), waiting(s), len(s.recv(100)), s.recv(100), s.recv(100))
    say(outcome(s.getpeername) != 'ENOTCONN', s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@case
def by_shutdown():
    c, s = connection()
    s.sendall(message(5))
    until(lambda: waiting(c) == 9)
    say(outcome(c.shutdown, socket.SHUT_WR), until(lambda: 'RDHUP' in poll_mask(s)), s.recv(10))
    say(outcome(c.send, message(1), socket.MSG_NOSIGNAL), len(c.recv(100)))
    s.close()
    say(c.recv(10))
    c2 = socket.socket()
    say(outcome(c2.shutdown, socket.SHUT_RDWR))
    c, s = connection()
    say(outcome(c.shutdown, socket.SHUT_RD), c.recv(10), until(lambda: 'RDHUP' in poll_mask(c)))


@case
def by_reset():
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    c.close()
    say(until(lambda: 'ERR' in poll_mask(s)), poll_mask(s))
    say(outcome(s.recv, 10), outcome(s.recv, 10), outcome(s.send, message(1), socket.MSG_NOSIGNAL))
    say(outcome(s.getpeername))
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    c.close()
    until(lambda: 'ERR' in poll_mask(s))
    say(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), outcome(s.recv, 10))


@case
def with_data_unread():
    c, s = connection()
    s.sendall(message(5))
    until(lambda: waiting(c) == 9)
    c.close()
    say(until(lambda: 'ERR' in poll_mask(s)), outcome(s.recv, 10), outcome(s.recv, 10))


@case
def while_blocked():
    for ending in ('close', 'shutdown', 'reset', 'local'):
        c, s = connection()
        if ending == 'reset':
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        act = {'close': c.close, 'reset': c.close, 'shutdown': lambda: c.shutdown(socket.SHUT_RDWR),
               'local': lambda: s.shutdown(socket.SHUT_RDWR)}[ending]
        t = threading.Timer(0.1, act)
        t.start()
        say(ending, outcome(s.recv, 10))
        t.join()


@case
def broken_pipe_signal():
    c, s = connection()
    c.close()
    until(lambda: 'RDHUP' in poll_mask(s))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for _ in range(50):
            libc.send(s.fileno(), message(10), 14, 0)
            time.sleep(0.02)
        os._exit(0)
    say(os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGPIPE)


@case
def half_close():
    """The one end has said all it had to say; the other goes on."""
    c, s = connection()
    c.sendall(message(3))
    c.shutdown(socket.SHUT_WR)
    say(received(s, 7), s.recv(1))
    say(outcome(s.send, message(5), socket.MSG_NOSIGNAL), outcome(c.recv, 20))


@case
def both_halves_closed():
    c, s = connection()
    c.sendall(message(3))
    c.shutdown(socket.SHUT_WR)
    say(received(s, 7), s.recv(1))
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
