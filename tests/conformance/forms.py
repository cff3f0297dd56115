"""What the many forms of receiving and sending have of their own: waiting for all, time limits, several messages, headers."""
import signal, socket, struct

from calls import *

ALL_RECEIVE, ALL_SEND = RECEIVE | READ, SEND | WRITE
ENDS = {'whole': lambda c, s: [c.sendall(message(96)) for _ in range(2)], 'closed': lambda c, s: c.close(), 'reset': lambda c, s: reset(c),
        'shut': lambda c, s: s.shutdown(socket.SHUT_RD)}


@each(call=ALL_RECEIVE, family=FAMILIES)
def whole_and_in_pieces(call, family):
    c, s = connection(family)
    for size in (1, 4, 1000, 4000):
        deliver(c, s, message(size, b'w'))
        say('at once', receive(call, s, size + 4))
    deliver(c, s, message(30, b'p'))
    say('in pieces', [receive(call, s, size) for size in (1, 2, 3, 20, 100)], poll_mask(s))


@each(call=ALL_SEND, family=FAMILIES)
def sent_in_pieces(call, family):
    """The header in two, the payload in three; two messages in one call; one and a half."""
    c, s = connection(family)
    one = struct.pack('>I', 300) + bytes(range(256)) + bytes(44)
    say('sent', [send(call, c, part) for part in (one[:1], one[1:4], one[4:5], one[5:200], one[200:])], received(s, 304) == one)
    say('two', send(call, c, message(3) + message(5)), received(s, 16))
    say('one and a half', send(call, c, message(3) + message(5)[:6]), send(call, c, message(5)[6:]), received(s, 16))


@each(call=RECEIVE, end=ENDS)
def waits_for_all(call, end):
    """What has come before the end counts, and the error is for the next call."""
    c, s = connection()
    deliver(c, s, message(96))
    reader = Blocked(receive, call, s, 300, socket.MSG_WAITALL)
    say('slept', reader.slept)
    end(c, s)
    say('got', reader.outcome())
    until(lambda: poll_mask(s) != 'OUT', 1 if end is ENDS['whole'] else 5)
    say('then', poll_mask(s), receive(call, s, 300, socket.MSG_DONTWAIT), receive(call, s, 300, socket.MSG_DONTWAIT))


@each(call=ALL_RECEIVE)
def receive_timeout(call):
    c, s = connection()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 60000))
    say('nothing', receive(call, s, 10))
    deliver(c, s, message(2))
    say('something', receive(call, s, 10))


@case
def receive_timeout_for_all():
    c, s = connection()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 60000))
    deliver(c, s, message(6))
    say('a part', receive(RECEIVE['recv'], s, 99, socket.MSG_WAITALL))
    say('nothing', receive(RECEIVE['recv'], s, 99, socket.MSG_WAITALL))


@each(call=ALL_SEND)
def send_timeout(call):
    """What went counts, then EAGAIN."""
    c, s = connection()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 60000))
    first = send(call, c, flow(0, 40 * PIECE))
    say('a part', isinstance(first, int) and 0 < first < 40 * PIECE)
    sent = fill(c, first)
    c.setblocking(True)
    say('nothing', send(call, c, flow(sent, 3)))


@each(call=ALL_SEND, family=FAMILIES)
def send_waits(call, family):
    """More than all buffers hold, and a reader that begins late: the call gives the whole count."""
    c, s = connection(family)
    sender = Blocked(send, call, c, flow(0, 32 * PIECE))
    say('slept', sender.slept, len(received(s, 32 * PIECE)), sender.outcome())


@each(form=('__read_chk', '__recv_chk', '__recvfrom_chk'))
def overflow(form):
    """The checked forms end a program whose buffer is too small."""
    c, s = connection()

    def run():
        os.dup2(os.open('/dev/null', os.O_WRONLY), 2)
        rest = {'__read_chk': [], '__recv_chk': [0], '__recvfrom_chk': [0, None, None]}[form]
        call(form, s.fileno(), ctypes.create_string_buffer(16), SIZE(17), SIZE(16), *rest)
    say(status_of(child(run)))


@each(call=ALL_SEND, signal_is=('default', 'ignored', 'blocked'))
def broken_pipe(call, signal_is):
    """SIGPIPE, of a socket that was shut for writing."""
    c, s = connection()
    c.shutdown(socket.SHUT_WR)

    def run():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN if signal_is == 'ignored' else signal.SIG_DFL)
        if signal_is == 'blocked':
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        say(send(call, c, message(1)), [one.name for one in signal.sigpending()])
    say(status_of(child(run)))


# ---------------------------------------------------------------- headers, addresses, several messages

@case
def header_of_recvmsg():
    """What is left in the fields of the header, and by recvfrom()."""
    c, s = connection()
    deliver(c, s, message(4))
    buffer, name, control = (ctypes.create_string_buffer(b'\xee' * 64, 64) for _ in range(3))
    head = message_of(parts := vector((ctypes.addressof(buffer), 64)))
    head.name, head.namelen, head.control, head.controllen, head.flags = ctypes.addressof(name), 64, ctypes.addressof(control), 64, 0x77
    say('recvmsg', call('recvmsg', s.fileno(), ctypes.byref(head), 0), head.namelen, head.controllen, head.flags, len(parts))
    deliver(c, s, message(4))
    length = ctypes.c_uint(64)
    say('recvfrom', call('recvfrom', s.fileno(), buffer, SIZE(64), 0, name, ctypes.byref(length)), length.value, name.raw[:2])


@each(flag=('wait-for-one', 'dont-wait'), count=(1, 2, 4))
def several_received(flag, count):
    c, s = connection()
    deliver(c, s, message(4) + message(4))
    buffer = ctypes.create_string_buffer(8)
    messages = many(vector((ctypes.addressof(buffer), 8)), count)
    flags = 0x10000 if flag == 'wait-for-one' else socket.MSG_DONTWAIT
    say('got', call('recvmmsg', s.fileno(), messages, count, flags, None), [one.size for one in messages], [one.header.flags for one in messages])
    say('then', call('recvmmsg', s.fileno(), messages, count, socket.MSG_DONTWAIT, None))


@case
def several_received_in_no_time():
    c, s = connection()
    deliver(c, s, message(4))
    buffer = ctypes.create_string_buffer(8)
    messages = many(vector((ctypes.addressof(buffer), 8)), 3)
    say(call('recvmmsg', s.fileno(), messages, 3, 0, ctypes.create_string_buffer(struct.pack('ll', 0, 0))))


@each(count=(1, 2, 5))
def several_sent(count):
    c, s = connection()
    buffer = ctypes.create_string_buffer(message(4), 8)
    messages = many(vector((ctypes.addressof(buffer), 8)), count)
    say('sent', call('sendmmsg', c.fileno(), messages, count, 0), [one.size for one in messages], len(received(s, 8 * count)))
    fill(c)
    say('full', call('sendmmsg', c.fileno(), messages, count, 0))


@each(to=('elsewhere', 'too-short', 'another-family', 'nobody'))
def address_of_a_connected(to):
    """It is not looked at."""
    c, s = connection()
    address = {'elsewhere': (struct.pack('=H14x', socket.AF_INET), 16), 'too-short': (struct.pack('=H14x', socket.AF_INET), 1),
               'another-family': (struct.pack('=H14x', 77), 16), 'nobody': (None, 16)}[to]
    say(call('sendto', c.fileno(), message(1), SIZE(5), 0, *address))


@each(what=('none', 'rights', 'unknown', 'short'))
def control(what):
    """Ancillary data that no TCP socket knows."""
    c, s = connection()
    known = {'rights': (socket.SOL_SOCKET, socket.SCM_RIGHTS), 'unknown': (1234, 5), 'short': (socket.SOL_SOCKET, socket.SCM_RIGHTS)}
    ancillary = [] if what == 'none' else [(*known[what], struct.pack('i', 0)[:1 if what == 'short' else 4])]
    say(outcome(c.sendmsg, [message(1)], ancillary))
