"""Signals, cancellation, and several threads at one descriptor."""
import select, signal, socket, struct, subprocess, time

from calls import *
from harness import *

HELPER = os.environ.get('CONFORMANCE_CANCELLED', '')


def on_alarm(restart):
    """Counts SIGALRM; gives what sends one to the main thread once that sleeps, and returns when it has been delivered."""
    hits = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all handlers of one kind
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.siginterrupt(signal.SIGALRM, not restart)
    main = threading.get_native_id()

    def is_pending():
        with open(f'/proc/self/task/{main}/status') as status:
            return any(line.startswith('SigPnd') and int(line.split()[1], 16) for line in status)

    def strike():
        asleep(main)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        return until(lambda: not is_pending())
    return hits, strike


def at_rest(look):
    """Waits until it gives the same for a while: nothing announces that a sender is stuck for good."""
    last, since = look(), time.monotonic()
    while time.monotonic() < since + 0.1:
        time.sleep(0.01)
        if (now := look()) != last:
            last, since = now, time.monotonic()


@each(call=RECEIVE | READ, restart=('restart', 'interrupt'), part=(0, 6))
def receiving(call, restart, part):
    """recv() for all where it can be asked for, with nothing there and with a part."""
    c, s = connection()
    hits, strike = on_alarm(restart == 'restart')
    if part and call in RECEIVE.values():
        deliver(c, s, message(part - 4))

    def act():
        strike()
        if restart == 'restart':
            c.sendall(message(6))
    helper = Later(act)
    say(receive(call, s, 10 + part if part else 10, socket.MSG_WAITALL if call in RECEIVE.values() else 0), helper.outcome() != 'still running')


@each(call=SEND | WRITE, restart=('restart', 'interrupt'), room=('none', 'some'))
def sending(call, restart, room):
    c, s = connection()
    hits, strike = on_alarm(restart == 'restart')
    sent = fill(c) if room == 'none' else 0
    c.setblocking(True)
    size = 24 * PIECE - sent % PIECE

    def act():
        at_rest(lambda: (waiting(s), unsent(c)))
        strike()
        if restart == 'restart':
            return len(received(s, sent + size)) == sent + size
    helper = Later(act)
    taken = send(call, c, flow(sent, size))
    if isinstance(taken, int) and taken < size:
        c.close()
    say(taken if isinstance(taken, str) else 'all' if taken == size else 'a part', helper.outcome())


@each(timed=('receive', 'send'))
def with_time_limits(timed):
    """SO_RCVTIMEO and SO_SNDTIMEO: a signal is EINTR, whatever its handler says."""
    c, s = connection()
    hits, strike = on_alarm(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        c.setsockopt(socket.SOL_SOCKET, option, struct.pack('ll', 8, 0))
    sent = fill(c) if timed == 'send' else 0
    c.setblocking(True)
    helper = Later(strike)
    say(send(SEND['send'], c, flow(sent, PIECE)) if timed == 'send' else receive(RECEIVE['recv'], c, 10), helper.outcome() and bool(hits))


@each(call=('recv', 'recv-all', 'read', 'readv', 'recvmsg', 'accept', 'poll', 'select', 'epoll'), where=lambda call: os.path.exists(HELPER))
def cancelled(call):
    """A thread is cancelled in a call; the descriptor serves the others."""
    if call == 'accept':
        s, c = listener(), stream()
    else:
        c, s = connection()
    helper = subprocess.Popen([HELPER, call, str(s.fileno())], pass_fds=[s.fileno()], stdout=subprocess.PIPE)
    say(helper.stdout.readline())
    if call == 'accept':
        c.connect(here())
    c.sendall(message(3))
    say(helper.communicate()[0], helper.returncode)


# ---------------------------------------------------------------- several threads

@each(readers=(2, 4), size=(1, 5000))
def readers(readers, size):
    """Every byte goes to one of them."""
    c, s = connection()
    got = []

    def read():
        while data := s.recv(1 << 16):
            got.append(len(data))
    threads = [Later(read) for _ in range(readers)]
    for _ in range(200):
        c.sendall(message(size))
    c.close()
    say([thread.outcome() for thread in threads], sum(got) == 200 * (size + 4))


@each(writers=(2, 4), size=(1, 500))
def writers(writers, size):
    """Messages of several threads do not mix, where each is one call and there is room."""
    c, s = connection()
    threads = [Later(lambda byte=byte: [c.sendall(message(size, byte)) for _ in range(40)] and None) for byte in (b'a', b'b', b'c', b'd')[:writers]]
    whole, count = True, 0
    for _ in range(40 * writers):
        data = received(s, size + 4)
        whole &= data[:4] == struct.pack('>I', size) and len(set(data[4:])) == 1
        count += len(data)
    say(count == 40 * writers * (size + 4), whole, [thread.outcome() for thread in threads])


@case
def reader_and_writer():
    """One thread reads while another writes, on both ends."""
    c, s = connection()
    echo = Later(lambda: [s.sendall(received(s, 1004)) for _ in range(100)] and None)
    sender = Later(lambda: [c.sendall(message(1000)) for _ in range(100)] and None)
    say(len(received(c, 100400)), echo.outcome(), sender.outcome())


@each(how=('recv', 'poll', 'epoll'))
def all_wait(how):
    """Several threads wait for one descriptor's end: all are woken."""
    c, s = connection()
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    act = {'recv': lambda: s.recv(10), 'poll': lambda: poll_mask(s, select.POLLIN, 8000) != '-', 'epoll': lambda: len(e.poll(8))}[how]
    threads = [Blocked(act) for _ in range(3)]
    c.close()
    say([thread.outcome() for thread in threads])


@case
def fork_beside_a_waiting_thread():
    """A process forks while another thread of it sleeps in recv()."""
    c, s = connection()
    reader = Blocked(s.recv, 100)
    pid = child(lambda: s.send(message(3)))
    say(status_of(pid), received(c, 7))
    c.sendall(message(1))
    say(reader.outcome())
