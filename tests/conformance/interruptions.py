"""Signals, time limits and marks that end or prolong a wait."""
import os, select, signal, socket, struct

from calls import *


def full_sender(c, s):
    sent = fill(c)
    c.setblocking(True)
    return c, flow(sent, 400000)


def poll_interrupted(s):
    one = (ctypes.c_int * 2)(s.fileno(), select.POLLIN)
    return called(libc.poll, one, ctypes.c_ulong(1), 5000)


CALLS = {
    'recv': lambda c, s: called(libc.recv, s.fileno(), ctypes.create_string_buffer(10), SIZE(10), 0),
    'read': lambda c, s: called(libc.read, s.fileno(), ctypes.create_string_buffer(10), SIZE(10)),
    'recv-waitall': lambda c, s: called(libc.recv, s.fileno(), ctypes.create_string_buffer(10), SIZE(10), socket.MSG_WAITALL),
    'recv-peek-waitall': lambda c, s: called(libc.recv, s.fileno(), ctypes.create_string_buffer(10), SIZE(10),
                                                   socket.MSG_WAITALL | socket.MSG_PEEK),
    'poll': lambda c, s: poll_interrupted(s),
    'accept': lambda c, s: called(libc.accept, listener().fileno(), None, None),
}


@each(call=CALLS, data=('nothing', 'a-part'), where=lambda call, data: data == 'nothing' or 'waitall' in call)
def interrupted(call, data):
    """A handler without SA_RESTART ends the wait: EINTR, or what there was."""
    c, s = connection()
    if data == 'a-part':
        deliver(c, s, message(2))
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    result = call(c, s)
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(result, bool(hits))


@each(restart=(True, False))
def send_interrupted(restart):
    """A send that waits for room, a signal in between, then room."""
    c, s = connection()
    c, rest = full_sender(c, s)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler is none that restarts
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, not restart)
    # The handler of Python runs only after the call: that the signal has come is told by a pipe.
    r, w = os.pipe()
    os.set_blocking(w, False)
    signal.set_wakeup_fd(w)
    in_thread(lambda: (os.read(r, 1), [None for _ in iter(lambda: s.recv(1 << 20), b'')]))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    count = called(libc.send, c.fileno(), rest, SIZE(len(rest)), 0)
    say('all' if count == len(rest) else 'a part' if isinstance(count, int) else count)


@each(call=('recv', 'waitall', 'peek-waitall', 'send', 'accept'))
def time_limits(call):
    option = socket.SO_SNDTIMEO if call == 'send' else socket.SO_RCVTIMEO
    c, s = connection()
    l = listener()
    value = struct.pack('ll', 0, 50000)
    for one in (c, s, l):
        one.setsockopt(socket.SOL_SOCKET, option, value)
    buffer = ctypes.create_string_buffer(10)
    if call == 'send':
        c, rest = full_sender(c, s)
        say(called(libc.send, c.fileno(), rest, SIZE(len(rest)), 0) in ('EAGAIN', len(rest)) or 'a part')
        return
    flags = {'recv': 0, 'waitall': socket.MSG_WAITALL, 'peek-waitall': socket.MSG_WAITALL | socket.MSG_PEEK}.get(call)
    if call == 'accept':
        return say(called(libc.accept, l.fileno(), None, None))
    say(called(libc.recv, s.fileno(), buffer, SIZE(10), flags))
    deliver(c, s, message(2))
    say(called(libc.recv, s.fileno(), buffer, SIZE(10), flags), waiting(s))


@each(mark=(1, 5, 10))
def low_water_mark(mark):
    """A blocking recv() waits for so much, whatever was asked beyond it."""
    c, s = connection()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
    deliver(c, s, message(2))
    say(*waits(lambda: len(s.recv(20)), lambda: c.sendall(message(30))))


@case
def pipe_signal_is_for_the_thread():
    """SIGPIPE comes to the thread that sent, and can be blocked there."""
    c, s = connection()
    s.close()
    wait_for(c, 'RDHUP')
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    until(lambda: called(libc.send, c.fileno(), message(1), SIZE(5), 0) == 'EPIPE')
    say(signal.SIGPIPE in signal.sigpending(), signal.sigtimedwait({signal.SIGPIPE}, 0).si_signo == signal.SIGPIPE)
