"""splice() between a connection and a pipe: how much, whether it waits, and what is left where."""
import fcntl, os, signal, threading

from calls import *

NONBLOCK = 2  # SPLICE_F_NONBLOCK


def splice(into, size, out, flags=0, offsets=(None, None)):
    return called(libc.splice, into, offsets[0], out, offsets[1], SIZE(size), flags)


@each(size=(1, 4096, 4097, 60000), asked=(1, 5000, 1 << 20), mode=MODES)
def out_of_a_connection(size, asked, mode):
    c, s = connection()
    r, w = os.pipe()
    fcntl.fcntl(w, 1031, 1 << 20)  # F_SETPIPE_SZ
    data = message(size, b'z')
    c.sendall(data)
    until(lambda: inq(s) == len(data))
    s.setblocking(mode == 'blocking')
    moved = splice(s.fileno(), asked, w)
    say(moved, inq(s))
    say(os.read(r, 1 << 20) == data[:moved], received(s, len(data) - moved) == data[moved:])


def inq(s):
    import array, termios
    number = array.array('i', [0])
    fcntl.ioctl(s, termios.FIONREAD, number)
    return number[0]


@each(size=(1, 4095, 4096, 50000), asked=(1, 4096, 1 << 20), mode=MODES)
def into_a_connection(size, asked, mode):
    c, s = connection()
    c.setblocking(mode == 'blocking')
    r, w = os.pipe()
    data = message(size, b'p')
    os.write(w, data)
    moved = splice(r, asked, c.fileno())
    say(moved)
    c.setblocking(True)
    os.close(w)
    rest = os.read(r, 1 << 20)
    c.sendall(rest)
    say(len(rest), received(s, len(data)) == data)


@each(mode=MODES, flags={'-': 0, 'nonblock': NONBLOCK}, state=('empty', 'shut', 'reset', 'own shut'))
def from_a_connection_with_nothing(mode, flags, state):
    c, s = connection()
    r, w = os.pipe()
    s.setblocking(mode == 'blocking')
    if state == 'empty' and mode == 'blocking':
        s.settimeout(None)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 50000))
    if state == 'shut':
        c.close()
        poll_mask(s, select.POLLIN, 5000)
    if state == 'reset':
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        c.close()
        poll_mask(s, select.POLLERR, 5000)
    if state == 'own shut':
        s.shutdown(socket.SHUT_RD)
    say(splice(s.fileno(), 10, w, flags))
    say(splice(s.fileno(), 10, w, flags))


@each(mode=MODES, flags={'-': 0, 'nonblock': NONBLOCK}, writer=('open', 'gone'))
def from_an_empty_pipe(mode, flags, writer):
    c, s = connection()
    c.setblocking(mode == 'blocking')
    r, w = os.pipe()
    if writer == 'gone':
        os.close(w)
    elif not flags:
        os.set_blocking(r, False)
    say(splice(r, 10, c.fileno(), flags))


@each(flags={'-': 0, 'nonblock': NONBLOCK})
def to_a_full_pipe(flags):
    c, s = connection()
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while True:
            os.write(w, bytes(4096))
    except BlockingIOError:
        pass
    c.sendall(message(6))
    poll_mask(s, select.POLLIN, 5000)
    say(splice(s.fileno(), 10, w, flags), inq(s))


@case
def refused():
    c, s = connection()
    r, w = os.pipe()
    place = ctypes.c_long(0)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    f = os.memfd_create('f')
    os.write(w, message(6))
    say('position', splice(r, 10, c.fileno(), 0, (None, ctypes.byref(place))), splice(r, 10, c.fileno(), 0, (ctypes.byref(place), None)))
    say('no pipe', splice(s.fileno(), 10, f), splice(f, 10, c.fileno()), splice(s.fileno(), 10, c.fileno()))
    say('nothing', splice(r, 0, c.fileno()), splice(s.fileno(), 0, w))
    c.shutdown(socket.SHUT_WR)
    say('shut', splice(r, 10, c.fileno()))


@case
def waits_for_the_connection():
    c, s = connection()
    r, w = os.pipe()
    thread = threading.Timer(0.05, lambda: c.sendall(message(6)))
    thread.start()
    say(splice(s.fileno(), 100, w), os.read(r, 100))


@case
def more_than_fits():
    c, s = connection()
    r, w = os.pipe()
    data = message(3_000_000, b'q')

    def feed():
        view = memoryview(data)
        while view:
            view = view[os.write(w, view):]
        os.close(w)
    threading.Thread(target=feed).start()
    got = []
    reader = threading.Thread(target=lambda: got.append(received(s, len(data))))
    reader.start()
    moved = 0
    while (now := splice(r, 1 << 20, c.fileno())) not in (0, 'EAGAIN'):
        moved += now
    reader.join()
    say(moved, got[0] == data)
