"""poll(), select() and epoll in every state of a socket."""
import select, socket

from states import *

ALL = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLPRI
EVENTS = {'all': ALL, 'in': select.POLLIN, 'out': select.POLLOUT, 'rdhup': select.POLLRDHUP, 'none': 0}


class Pollfd(ctypes.Structure):
    _fields_ = [('fd', ctypes.c_int), ('events', ctypes.c_short), ('revents', ctypes.c_short)]


class Timespec(ctypes.Structure):
    _fields_ = [('seconds', ctypes.c_long), ('nanoseconds', ctypes.c_long)]


AT_ONCE = Timespec(0, 0)


def ppoll(s, events):
    one = Pollfd(s.fileno(), events, 0)
    return libc.ppoll(ctypes.byref(one), ctypes.c_ulong(1), ctypes.byref(AT_ONCE), None), mask_names(one.revents)


def selected(s):
    return [len(ready) for ready in select.select([s], [s], [s], 0)]


def pselected(s):
    fd = s.fileno()
    sets = [(ctypes.c_ulong * 16)() for _ in range(3)]
    for one in sets:
        one[fd // 64] |= 1 << fd % 64
    count = libc.pselect(fd + 1, *sets, ctypes.byref(AT_ONCE), None)
    return count, [one[fd // 64] >> fd % 64 & 1 for one in sets]


@each(state=STATES)
def polled(state):
    kept = state()
    s = kept[0]
    for name, events in EVENTS.items():
        say(name, poll_mask(s, events), *ppoll(s, events))


@each(state=CONNECTED)
def norm_and_band(state):
    c, s = connection()
    state(c, s)
    say(poll_mask(s, ALL | select.POLLRDNORM | select.POLLRDBAND | select.POLLWRNORM | select.POLLWRBAND))


@each(state=STATES)
def selects(state):
    kept = state()
    say(selected(kept[0]), *pselected(kept[0]))


# ---------------------------------------------------------------- epoll

FLAGS = {'level': 0, 'edge': select.EPOLLET, 'oneshot': select.EPOLLONESHOT, 'exclusive': select.EPOLLEXCLUSIVE}


def seen(e, wait=0):
    return [mask_names(mask) for _, mask in e.poll(wait)]


@each(flags=FLAGS, state=STATES)
def epoll(flags, state):
    """What is there when it is registered, and what a second and a third look give."""
    kept = state()
    e = select.epoll()
    # EPOLLEXCLUSIVE takes no other flags than these.
    e.register(kept[0], flags | select.EPOLLIN | select.EPOLLOUT | (select.EPOLLRDHUP if flags != select.EPOLLEXCLUSIVE else 0))
    say(seen(e), seen(e), seen(e))
    say(outcome(e.modify, kept[0], ALL | flags), seen(e), outcome(e.unregister, kept[0]), seen(e))


@each(state=STATES)
def epoll_nested(state):
    kept = state()
    inner, outer = select.epoll(), select.epoll()
    inner.register(kept[0], select.EPOLLIN)
    outer.register(inner, select.EPOLLIN)
    say(seen(outer), poll_mask(inner), seen(inner), seen(outer))


@each(flags={'level': 0, 'edge': select.EPOLLET}, state=[name for name in STATES if name != 'full'])
def epoll_before(flags, state):
    """Registered first. How many edges there were is a matter of time; what the last of them said is not."""
    e = select.epoll()
    kept = STATES[state](lambda s: e.register(s, ALL | flags))
    last = []
    while now := seen(e):
        if now == last:
            break
        last = now
    say(last, poll_mask(kept[0], ALL))


# ---------------------------------------------------------------- what wakes a waiting thread

def answer(s, c):
    c.sendall(message(4))


WAKERS = {
    'data': answer,
    'close': lambda s, c: c.close(),
    'reset': lambda s, c: reset(c),
    'own-shut-read': lambda s, c: s.shutdown(socket.SHUT_RD),
    'own-shut-both': lambda s, c: s.shutdown(socket.SHUT_RDWR),
}
WAITERS = {
    'poll': lambda s: poll_mask(s, select.POLLIN | select.POLLRDHUP, 10000) != '-',
    'select': lambda s: [len(ready) for ready in select.select([s], [], [], 10)],
    'epoll': lambda s: (e := select.epoll(), e.register(s, select.EPOLLIN), len(e.poll(10)))[2],
    'epoll-edge': lambda s: (e := select.epoll(), e.register(s, select.EPOLLIN | select.EPOLLET), len(e.poll(10)))[2],
    'recv': lambda s: outcome(s.recv, 2),
}


@each(waiter=WAITERS, waker=WAKERS)
def wakes(waiter, waker):
    from calls import waits
    c, s = connection()
    say(*waits(lambda: waiter(s), lambda: waker(s, c)))
    say(until(lambda: poll_mask(s, select.POLLIN) != '-'))


@case
def edge_for_each_arrival():
    """An edge for what comes after everything was taken, none for what was seen before."""
    c, s = connection()
    e = select.epoll()
    e.register(s, select.EPOLLIN | select.EPOLLET)
    for size in (1, 100, 100000):
        c.sendall(message(size))
        say(seen(e, 5), len(received(s, size + 4)), outcome(s.recv, 1, socket.MSG_DONTWAIT))
    deliver(c, s, message(3))
    say(seen(e, 5), s.recv(4), poll_mask(s, select.POLLIN), seen(e), s.recv(3), seen(e))


@case
def edge_for_room():
    c, s = connection()
    sent = fill(c)
    e = select.epoll()
    e.register(c, select.EPOLLOUT | select.EPOLLET)
    say(seen(e))
    rest = rest_of(sent)
    reader = in_thread(received, s, sent + len(rest))
    say(seen(e, 10))
    c.setblocking(True)
    c.sendall(rest)
    reader.join()


@case
def oneshot_armed_again():
    c, s = connection()
    e = select.epoll()
    e.register(s, select.EPOLLIN | select.EPOLLONESHOT)
    for _ in range(3):
        deliver(c, s, message(1))
        say(seen(e, 5), seen(e), len(received(s, 5)), outcome(e.modify, s, select.EPOLLIN | select.EPOLLONESHOT), seen(e))


@case
def epoll_in_a_child():
    """An epoll set is shared by a fork, and says the same in both."""
    c, s = connection()
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    deliver(c, s, message(1))
    pid = os.fork()
    if pid == 0:
        say(seen(e), received(s, 5), seen(e))
        os._exit(0)
    os.waitpid(pid, 0)
    say(seen(e), outcome(s.recv, 1, socket.MSG_DONTWAIT))
