"""The end of a connection: by close, shutdown, reset and death of a process, and what the survivor sees."""
import ctypes, os, resource, select, signal, socket, struct

from harness import *

ENDS = {'close': lambda c: c.close(), 'shut-writing': lambda c: c.shutdown(socket.SHUT_WR), 'shut-both': lambda c: c.shutdown(socket.SHUT_RDWR),
        'reset': reset}


@each(how=tuple(ENDS), data=(0, 5, 300000), family=FAMILIES)
def by(how, data, family):
    """What was sent before the end comes before the end."""
    c, s = connection(family)
    if data:
        sender = Later(c.sendall, message(data))
        if how == 'reset':
            arrived(s, min(data, 1000))
        sender.outcome() if data < 1000 else None
        if data > 1000 and how != 'reset':
            received(s, 1000)
            sender.outcome()
    ENDS[how](c)
    if how == 'reset':
        say('seen', wait_for(s, 'ERR'), poll_mask(s))
        if not data:
            say('receives', outcome(s.recv, 10), outcome(s.recv, 10), poll_mask(s))
            say('sends', outcome(s.send, message(1), socket.MSG_NOSIGNAL), outcome(s.getpeername))
        return
    rest = received(s, data + 4 - (1000 if data > 1000 else 0)) if data else b''
    say('receives', len(rest), outcome(s.recv, 10), outcome(s.recv, 10))
    say('mask', poll_mask(s), error_name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), outcome(s.getpeername) != 'ENOTCONN')


@each(unread=(1, 100000), how=('close', 'shut-then-close'), family=FAMILIES)
def unread(unread, how, family):
    """close() with something unread is a reset."""
    c, s = connection(family)
    s.sendall(message(unread))
    arrived(c, unread + 4)
    c.close()
    say('seen', wait_for(s, 'ERR'), poll_mask(s), outcome(s.recv, 10), outcome(s.recv, 10), poll_mask(s))


@each(asks=('SO_ERROR', 'recv', 'send', 'poll'))
def error(asks):
    """The error of a reset is told once, by whatever comes first."""
    c, s = connection()
    reset(c)
    wait_for(s, 'ERR')
    act = {'SO_ERROR': lambda: error_name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), 'recv': lambda: outcome(s.recv, 5),
           'send': lambda: outcome(s.send, message(1), socket.MSG_NOSIGNAL), 'poll': lambda: poll_mask(s)}
    say('first', act[asks]())
    say('then', [(name, what()) for name, what in act.items()])


@each(call_name=('recv', 'recv-all', 'poll', 'select', 'epoll', 'send', 'poll-out'), how=('close', 'shut-both', 'reset', 'local', 'local-reading'),
      where=lambda call_name, how: call_name not in ('send', 'poll-out') or how in ('reset', 'local'))  # a sender hears of the others later
def while_blocked(call_name, how):
    c, s = connection()
    if call_name in ('send', 'poll-out'):
        sent = fill(s)
        s.setblocking(True)
    e = select.epoll()
    e.register(s, select.EPOLLIN | select.EPOLLRDHUP)
    act = {'recv': lambda: outcome(s.recv, 10), 'recv-all': lambda: outcome(s.recv, 10, socket.MSG_WAITALL),
           'poll': lambda: poll_mask(s, select.POLLIN | select.POLLRDHUP, 8000) != '-', 'select': lambda: len(select.select([s], [], [], 8)[0]),
           'epoll': lambda: len(e.poll(8)), 'send': lambda: outcome(s.send, flow(sent, PIECE), socket.MSG_NOSIGNAL),
           'poll-out': lambda: poll_mask(s, select.POLLOUT, 8000) != '-'}[call_name]
    waiter = Blocked(act)
    say('slept', waiter.slept)
    if how.startswith('local'):
        s.shutdown(socket.SHUT_RD if how == 'local-reading' else socket.SHUT_RDWR)
    else:
        ENDS[how](c)
    say('woken', waiter.outcome())
    if call_name == 'poll-out':
        say('mask', wait_for(s, 'OUT'), poll_mask(s, select.POLLOUT))


@each(call_name=('poll', 'epoll'))
def close_under(call_name):
    """close() in one thread does not disturb another one's call; the other end's end does."""
    c, s = connection()
    d = s.dup()
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    waiter = Blocked(lambda: poll_mask(d, select.POLLIN, 8000) if call_name == 'poll' else len(e.poll(8)))
    s.close()
    say('still waits', waiter.is_alive())
    c.sendall(message(1))
    say('woken', waiter.outcome(), received(d, 5))


@each(count=(2, 5), kind=('dup', 'fork'))
def holders(count, kind):
    """The connection ends with the last holder."""
    c, s = connection()
    if kind == 'dup':
        held = [s.dup() for _ in range(count - 1)]
        s.close()
        for d in held[:-1]:
            d.close()
        say('lives', poll_mask(c), held[-1].send(message(1)), received(c, 5))
        held[-1].close()
    else:
        r, w = os.pipe()
        pids = [child(lambda: os.close(w) or len(os.read(r, 1))) for _ in range(count - 1)]
        s.close()
        say('lives', poll_mask(c))
        os.close(w)
        say('children', [status_of(pid) for pid in pids])
        say('ended', wait_for(c, 'RDHUP'), outcome(c.recv, 1))
        return
    say('ended', wait_for(c, 'RDHUP'), outcome(c.recv, 1), poll_mask(c))


@case
def linger_holders():
    """SO_LINGER {1, 0} is the socket's: the last close() resets."""
    c, s = connection()
    d = s.dup()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    s.close()
    say('lives', d.send(message(1)), received(c, 5))
    d.close()
    say('reset', wait_for(c, 'ERR'), outcome(c.recv, 1))


@each(seconds=(0, 1), on=(0, 1), data=(0, 1))
def linger(seconds, on, data):
    """SO_LINGER of all kinds, with a reader that takes everything."""
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', on, seconds))
    reader = Later(received, s, 100004)
    if data:
        c.sendall(message(100000))
        until(lambda: unsent(c) == 0)
    c.close()
    got = reader.outcome()
    say('received', len(got) if isinstance(got, bytes) else got)
    say('mask', wait_for(s, 'RDHUP'), poll_mask(s))


@each(nonblocking=MODES)
def linger_waits(nonblocking):
    """SO_LINGER with seconds: close() of a blocking socket waits until what was sent is there, or the time is over."""
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 2))
    sent = fill(c)
    c.setblocking(not nonblocking)
    closer = Later(c.close)
    say('close() sleeps', until(lambda: not closer.is_alive(), 0.3) is False)
    whole_ = sent - sent % PIECE
    reader = Later(lambda: len(received(s, whole_)))
    say('received', reader.outcome() == whole_, closer.outcome())


@case
def linger_of_the_last():
    """Who is not the last holder does not wait; the last one does, until the time is over, and all arrives after that."""
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 1))
    d = c.dup()
    sent = fill(c)
    c.close()
    closer = Later(d.close)
    say('close() sleeps', until(lambda: not closer.is_alive(), 0.3) is False, closer.outcome())
    whole_ = sent - sent % PIECE
    say('received', len(received(s, whole_)) == whole_)


@each(signal_name=('SIGKILL', 'SIGTERM', 'exit', 'abort'), unread=(False, True))
def killed(signal_name, unread):
    """A process dies: the kernel closes for it."""
    c, s = connection()

    def live():
        c.close()
        s.sendall(message(3))
        if signal_name == 'exit':
            os._exit(0)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), getattr(signal, signal_name.replace('abort', 'SIGABRT')))
    if unread:
        c.sendall(message(2))
        arrived(s, 6)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pid = child(live)
    s.close()
    say('child', status_of(pid))
    if unread:
        say('reset', wait_for(c, 'ERR'))
    else:
        say('received', received(c, 7), outcome(c.recv, 1), poll_mask(c))


@each(call_name=('recv', 'send'))
def killed_in_call(call_name):
    """One of two holders dies inside a call; the other one goes on."""
    c, s = connection()
    sent = fill(s) if call_name == 'send' else 0
    s.setblocking(True)
    pid = child(lambda: s.recv(100) and 1 if call_name == 'recv' else s.send(flow(sent, PIECE)) and 1)
    asleep(pid, pid)
    os.kill(pid, signal.SIGKILL)
    say('child', status_of(pid))
    if call_name == 'recv':
        c.sendall(message(2))
        say('other', received(s, 6))
    else:
        reader = Later(lambda: len(received(c, sent + len(rest_of(sent)))))
        s.setblocking(True)
        s.sendall(rest_of(sent))
        say('other', reader.outcome() == sent + len(rest_of(sent)))


@each(form=('send', 'write'))
def send_after_close(form):
    """The first call may succeed; then it is EPIPE and SIGPIPE."""
    c, s = connection()
    c.close()
    wait_for(s, 'RDHUP')

    def run():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        data = message(10)
        while True:
            call(form, s.fileno(), data, ctypes.c_size_t(14), *([0] if form == 'send' else []))
            poll_mask(s, 0, 20)
    say('ended by', status_of(child(run)))
    say('error', poll_mask(s))


@case
def send_after_close_error():
    c, s = connection()
    c.close()
    wait_for(s, 'RDHUP')
    outcome(s.send, message(10), socket.MSG_NOSIGNAL)
    say('seen', wait_for(s, 'HUP'), poll_mask(s), error_name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
    say('then', outcome(s.send, message(10), socket.MSG_NOSIGNAL), outcome(s.recv, 1))


@each(who=('client', 'server'))
def half_close(who):
    """One side has said all it had to say, and the other one answers."""
    c, s = connection()
    a, b = (c, s) if who == 'client' else (s, c)
    a.sendall(message(1000))
    a.shutdown(socket.SHUT_WR)
    say('question', len(received(b, 1004)), outcome(b.recv, 1))
    say('answer', outcome(b.sendall, message(50000)))
    say('received', len(received(a, 50004)))
    b.close()
    say('end', outcome(a.recv, 1))


@each(how=('close', 'shut-writing'))
def both_at_once(how):
    c, s = connection()
    c.sendall(message(2)), s.sendall(message(3))
    arrived(c, 7), arrived(s, 6)
    received(c, 7), received(s, 6)
    Later(ENDS[how], c), ENDS[how](s)
    if how == 'shut-writing':
        say('ends', wait_for(c, 'HUP'), wait_for(s, 'HUP'), outcome(c.recv, 1), outcome(s.recv, 1))
    say('free again', outcome(listener) != 'EADDRINUSE')
