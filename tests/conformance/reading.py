"""Each call that receives, with each flag, in each state of the connection."""
import socket

from calls import *

FLAGS = {'plain': 0, 'peek': socket.MSG_PEEK, 'waitall': socket.MSG_WAITALL, 'dontwait': socket.MSG_DONTWAIT,
         'nosignal': socket.MSG_NOSIGNAL, 'trunc': socket.MSG_TRUNC, 'peek+waitall': socket.MSG_PEEK | socket.MSG_WAITALL,
         'peek+trunc': socket.MSG_PEEK | socket.MSG_TRUNC, 'oob': socket.MSG_OOB, 'errqueue': socket.MSG_ERRQUEUE}
DATA = message(20)


def data(c, s):
    deliver(c, s, DATA)


def closed(c, s):
    c.close()
    wait_for(s, 'RDHUP')


def was_reset(c, s):
    reset(c)
    wait_for(s, 'ERR')


STATES = {
    'empty': lambda c, s: None,
    'data': data,
    'little': lambda c, s: deliver(c, s, message(2)),
    'closed': closed,
    'closed-data': lambda c, s: (data(c, s), closed(c, s)),
    'reset': was_reset,
    'shut': lambda c, s: s.shutdown(socket.SHUT_RD),
    'shut-data': lambda c, s: (data(c, s), s.shutdown(socket.SHUT_RD)),
}


def read(call, flags, state):
    for mode, blocking in MODES.items():
        c, s = connection()
        state(c, s)
        s.setblocking(blocking)
        say(mode, *waits(lambda: receive(call, s, 10, flags), lambda: c.sendall(DATA)))
        say(mode, 'then', receive(RECEIVE['recv'], s, 10, socket.MSG_DONTWAIT), poll_mask(s))


@each(call=RECEIVE, flags=FLAGS, state=STATES)
def receives(call, flags, state):
    read(call, flags, state)


@each(call=READ, state=STATES)
def reads(call, state):
    read(call, 0, state)
