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
