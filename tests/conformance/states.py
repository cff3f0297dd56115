"""The states that a socket can be in: each a function that gives the socket, and what must be kept while it is looked at."""
import socket

from harness import *


def of_connection(prepare):
    """A state of an accepted socket s; c is its peer."""
    def make(hook=lambda s: None):
        c, s = connection()
        hook(s)
        prepare(c, s)
        return s, c
    return make


def header_taken(c, s):
    deliver(c, s, message(10))
    s.recv(4)


def drained(c, s):
    header_taken(c, s)
    s.recv(10)


def closed(c, s):
    c.close()
    wait_for(s, 'RDHUP')


def closed_data(c, s):
    deliver(c, s, message(10))
    closed(c, s)


def was_reset(c, s):
    reset(c)
    wait_for(s, 'ERR')


def reset_data(c, s):
    deliver(c, s, message(10))
    was_reset(c, s)


def closed_unread(c, s):
    """The peer closes and has not read what was sent: a reset."""
    deliver(s, c, message(10))
    c.close()
    wait_for(s, 'ERR')


def end_read(c, s):
    closed(c, s)
    s.recv(1)


def error_read(c, s):
    was_reset(c, s)
    s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def unconnected(hook=lambda s: None):
    s = socket.socket()
    hook(s)
    return s,


def refused(hook=lambda s: None):
    s = socket.socket()
    hook(s)
    outcome(s.connect, (LOOPBACK[socket.AF_INET], port))
    return s,


def listening(hook=lambda s: None):
    l = listener()
    hook(l)
    return l,


def knocked(hook=lambda s: None):
    l = listener()
    hook(l)
    c = socket.create_connection(l.getsockname())
    wait_for(l, 'IN')
    return l, c


CONNECTED = {
    'idle': lambda c, s: None,
    'data': lambda c, s: deliver(c, s, message(10)),
    'header-taken': header_taken,
    'drained': drained,
    'full': lambda c, s: fill(s),
    'closed': closed,
    'closed-data': closed_data,
    'end-read': end_read,
    'reset': was_reset,
    'reset-data': reset_data,
    'closed-unread': closed_unread,
    'error-read': error_read,
    'shut-read': lambda c, s: s.shutdown(socket.SHUT_RD),
    'shut-both': lambda c, s: s.shutdown(socket.SHUT_RDWR),
}
STATES = {name: of_connection(prepare) for name, prepare in CONNECTED.items()}
STATES |= {'unconnected': unconnected, 'refused': refused, 'listening': listening, 'knocked': knocked}
