"""Each call that sends, with each flag, in each state of the connection."""
import signal, socket

from calls import *

FLAGS = {'plain': 0, 'more': socket.MSG_MORE, 'dontwait': socket.MSG_DONTWAIT, 'nosignal': socket.MSG_NOSIGNAL,
         'eor': socket.MSG_EOR, 'waitall': socket.MSG_WAITALL, 'dontroute': socket.MSG_DONTROUTE}
ONE = message(10)


def counted():
    """How many SIGPIPE there were since."""
    hits = []
    signal.signal(signal.SIGPIPE, lambda *_: hits.append(1))
    return hits


def idle(call, c, s, flags):
    say(send(call, c, ONE[:6], flags), send(call, c, ONE[6:], flags & ~socket.MSG_MORE), received(s, len(ONE)) == ONE)
    say(send(call, c, b'', flags), poll_mask(c))


def full(call, c, s, flags):
    """A blocking call waits until there is room, and then takes all of it."""
    blocking = c.getblocking()
    sent = fill(c)
    c.setblocking(blocking)
    rest = rest_of(sent) + MEGABYTE
    reader = []
    result = waits(lambda: send(call, c, rest, flags), lambda: reader.append(in_thread(received, s, sent + len(rest))))
    say(*(('all' if word == len(rest) else word) for word in result))
    [thread.join() for thread in reader]
    until(lambda: unsent(c) == 0, 0 if result == ('EAGAIN',) else 5)
    say(poll_mask(c))


def closed(call, c, s, flags):
    """The first may still be taken: nobody has said yet that the other end is gone for good."""
    hits = counted()
    s.close()
    wait_for(c, 'RDHUP')
    results = []
    until(lambda: results.append(send(call, c, ONE, flags)) or results[-1] in ('EPIPE', 'ECONNRESET', 'EOPNOTSUPP'))
    say(results[-1], len(hits), send(call, c, ONE, flags), len(hits), send(call, c, b'', flags), len(hits))


def was_reset(call, c, s, flags):
    hits = counted()
    reset(s)
    wait_for(c, 'ERR')
    for data in (ONE, ONE, b''):
        say(send(call, c, data, flags), len(hits))


def shut(call, c, s, flags):
    hits = counted()
    c.shutdown(socket.SHUT_WR)
    for data in (ONE, b''):
        say(send(call, c, data, flags), len(hits))


def shut_read(call, c, s, flags):
    c.shutdown(socket.SHUT_RD)
    idle(call, c, s, flags)


STATES = {function.__name__.replace('_', '-'): function for function in (idle, full, closed, was_reset, shut, shut_read)}


def write(call, flags, state):
    for mode, blocking in MODES.items():
        c, s = connection()
        c.setblocking(blocking)
        say(mode)
        state(call, c, s, flags)


@each(call=SEND, flags=FLAGS, state=STATES,
      where=lambda call, flags, state: state != 'full' or flags in ('plain', 'more', 'dontwait'))
def sends(call, flags, state):
    write(call, flags, state)


@each(call=WRITE, state=STATES)
def writes(call, state):
    write(call, 0, state)


@each(call=SEND)
def urgent(call):
    c, s = connection()
    say(send(call, c, ONE, socket.MSG_OOB), poll_mask(s, select.POLLPRI, 100))
