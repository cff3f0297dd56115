"""Streams of some length: sizes, halves of messages, full buffers, slow readers."""
import select, socket

from harness import *


@each(family=FAMILIES)
def content(family):
    """Messages of all sizes arrive as they were sent."""
    c, s = connection(family)
    sizes = [1, 2, 3, 255, 256, 4096, 8113, 65535, 65536, 200000]
    data = {n: struct.pack('>I', n) + (bytes(range(256)) * (n // 256 + 1))[:n] for n in sizes}
    sender = Later(lambda: [c.sendall(data[n]) for n in sizes] and None)
    say([received(s, n + 4) == data[n] for n in sizes], sender.outcome())


@each(size=(1 << 20, 5 << 20), piece=(4096, 1 << 22, 'whole'), family=FAMILIES)
def large(size, piece, family):
    c, s = connection(family)
    sender = Later(c.sendall, message(size))
    got = 0
    while got < size + 4:
        got += len(s.recv(size + 4 - got, socket.MSG_WAITALL) if piece == 'whole' else s.recv(piece))
    say(got, sender.outcome(), poll_mask(s))


@each(part=(2, 4, 100, 50000), then=('waits', 'closes'))
def half_a_message(part, then):
    """What of it can be read, and what when the sender goes."""
    c, s = connection()
    c.send(message(600000)[:part])
    if then == 'closes':
        c.close()
        say('received', len(received(s, part)), outcome(s.recv, 1))
    else:
        say('received', until(lambda: waiting(s) == part, 1))


@case
def trickle():
    """A byte now and then, and the reader has them long before the message is whole."""
    c, s = connection()
    data, done = message(1000), threading.Event()

    def write():
        for at in range(300):
            if done.is_set():
                break
            c.send(data[at:at + 1])
            done.wait(0.01)
    writer = in_thread(write)
    say(until(lambda: waiting(s) > 10, 2))
    done.set()
    writer.join()


@each(size=(6, 17, 40))
def peek_across_messages(size):
    c, s = connection()
    deliver(c, s, b''.join(message(6, byte) for byte in (b'a', b'b', b'c')))
    say(s.recv(size, socket.MSG_PEEK), waiting(s), s.recv(100))


@case
def what_waits():
    """FIONREAD follows every byte, those of the headers too."""
    c, s = connection()
    deliver(c, s, message(1) + message(100) + message(5000))
    for take in (1, 4, 100, 8, 5000):
        say(waiting(s), len(received(s, take)))
    say(waiting(s))


@case
def what_is_unsent():
    c, s = connection()
    say('idle', unsent(c))
    sent = fill(c)
    say('full', unsent(c) > 0)
    c.setblocking(True)
    reader = Later(received, s, sent + len(rest_of(sent)))
    c.sendall(rest_of(sent))
    say('drained', until(lambda: unsent(c) == 0), len(reader.outcome()) == sent + len(rest_of(sent)))


@each(how=('poll', 'select', 'epoll', 'epoll-edge', 'epoll-oneshot'))
def room(how):
    """No OUT while it is full; whoever waits for it is woken when there is room."""
    c, s = connection()
    e = select.epoll()
    sent = fill(c)
    if how.startswith('epoll'):
        e.register(c, select.EPOLLOUT | {'epoll-edge': select.EPOLLET, 'epoll-oneshot': select.EPOLLONESHOT}.get(how, 0))

    def ready(seconds):
        if how == 'poll':
            return poll_mask(c, select.POLLOUT, int(seconds * 1000))
        if how == 'select':
            return len(select.select([], [c], [], seconds)[1])
        return [mask_names(m) for _, m in e.poll(seconds)]
    say('full', ready(0))
    waiter = Blocked(ready, 8)
    say('waits', waiter.slept)
    reader = Later(received, s, sent + len(rest_of(sent)))
    say('room', waiter.outcome())
    c.setblocking(True)
    c.sendall(rest_of(sent))
    say('whole', len(reader.outcome()) == sent + len(rest_of(sent)), until(lambda: unsent(c) == 0))
    say('afterwards', ready(0) if how != 'epoll-edge' else '')  # another edge does no harm


@each(step=(100, 1000, 65536))
def slow_reader(step):
    """It takes a little at a time, and the writer goes by readiness."""
    c, s = connection()
    c.setblocking(False)
    total = 320 * step  # 20 MiB of the last
    data = flow(0, total) if step == 65536 else message(total - 4)

    def write():
        sent = 0
        while sent < total:
            if poll_mask(c, select.POLLOUT, 10000) != 'OUT':
                return 'never writable'
            taken = outcome(c.send, data[sent:sent + PIECE])
            if isinstance(taken, int):
                sent += taken
            elif taken != 'EAGAIN':
                return taken
        return 'all sent'
    writer, got = Later(write), 0
    while got < total:
        got += len(s.recv(step))
    say(writer.outcome(), got)


@each(then=('next', 'close'))
def more(then):
    """MSG_MORE holds back until the next call, or the end."""
    c, s = connection()
    say(c.send(message(10)[:4], socket.MSG_MORE), c.send(message(10)[4:], socket.MSG_MORE if then == 'close' else 0))
    if then == 'close':
        c.close()
    say(len(received(s, 14)))


@case
def cork():
    c, s = connection()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    c.sendall(message(10))
    c.sendall(message(20))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    say(len(received(s, 38)))


@case
def both_ways_at_once():
    """Each side sends more than buffers hold, and reads."""
    c, s = connection()
    senders = [Later(one.sendall, flow(0, 24 * PIECE)) for one in (c, s)]
    readers = [Later(lambda one=one: len(received(one, 24 * PIECE))) for one in (c, s)]
    say([one.outcome() for one in senders + readers])
