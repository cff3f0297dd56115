"""What moves data without a buffer of the program, and what libc moves by itself: streams, dprintf, AIO."""
import os, signal, socket, tempfile

from calls import *

libc.fdopen.restype = libc.fgets.restype = libc.fdopen.restype = ctypes.c_void_p
libc.fwrite.restype = libc.fread.restype = ctypes.c_size_t
DATA = b'0123456789' * 1000


def file_of(data):
    f = tempfile.TemporaryFile()
    f.write(data)
    f.flush()
    f.seek(0)
    return f


@each(mode=MODES, offset=('own', 'given'))
def sendfile(mode, offset):
    c, s = connection()
    c.setblocking(mode == 'blocking')
    f = file_of(message(len(DATA), b'y'))
    place = ctypes.c_long(0)
    where = ctypes.byref(place) if offset == 'given' else None
    say(called(libc.sendfile, c.fileno(), f.fileno(), where, SIZE(1 << 20)), place.value, os.lseek(f.fileno(), 0, 1))
    say(received(s, len(DATA) + 4) == message(len(DATA), b'y'))
    say(called(libc.sendfile, c.fileno(), f.fileno(), where, SIZE(10)))


@case
def sendfile_refuses():
    c, s = connection()
    f = file_of(DATA)
    r, w = os.pipe()
    os.write(w, message(6))
    say('from the socket', called(libc.sendfile, f.fileno(), s.fileno(), None, SIZE(10)))
    say('from nothing', called(libc.sendfile, c.fileno(), 999, None, SIZE(10)), called(libc.sendfile, 999, f.fileno(), None, SIZE(10)))
    say('no size', called(libc.sendfile, c.fileno(), f.fileno(), None, SIZE(0)))
    c.shutdown(socket.SHUT_WR)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    say('shut', called(libc.sendfile, c.fileno(), f.fileno(), None, SIZE(10)))
    say('unconnected', called(libc.sendfile, socket.socket().fileno(), f.fileno(), None, SIZE(10)))


def pipe_to_socket(c, s, r, w, f):
    os.write(w, message(6))
    return called(libc.splice, r, None, c.fileno(), None, SIZE(10), 0)


def socket_to_pipe(c, s, r, w, f):
    deliver(c, s, message(6))
    return called(libc.splice, s.fileno(), None, w, None, SIZE(10), 0)


def tee(c, s, r, w, f):
    return called(libc.tee, r, c.fileno(), SIZE(10), 0)


def vmsplice(c, s, r, w, f):
    data = ctypes.create_string_buffer(message(6), 10)
    return called(libc.vmsplice, c.fileno(), vector((ctypes.addressof(data), 10)), SIZE(1), 0)


def copy_to_socket(c, s, r, w, f):
    return called(libc.copy_file_range, f.fileno(), None, c.fileno(), None, SIZE(10), 0)


def copy_from_socket(c, s, r, w, f):
    return called(libc.copy_file_range, s.fileno(), None, f.fileno(), None, SIZE(10), 0)


@each(call={function.__name__: function for function in (pipe_to_socket, socket_to_pipe, tee, vmsplice, copy_to_socket, copy_from_socket)})
def moves(call):
    c, s = connection()
    say(call(c, s, *os.pipe(), file_of(DATA)))


# ---------------------------------------------------------------- streams

def stream(s, mode):
    return ctypes.c_void_p(libc.fdopen(os.dup(s.fileno()), mode))


@case
def streams():
    c, s = connection()
    out, into = stream(c, b'w'), stream(s, b'r')
    line = struct.pack('>I', 20) + b'the first line\nrest\n'
    say(libc.fwrite(line, SIZE(1), SIZE(len(line)), out), libc.fflush(out))
    buffer = ctypes.create_string_buffer(100)
    say(libc.fread(buffer, SIZE(1), SIZE(4), into), buffer.raw[:4])
    for _ in range(2):
        libc.fgets(buffer, 100, into)
        say(buffer.value)
    say(libc.fileno(out) != c.fileno(), libc.ftell(into), libc.fclose(out), libc.fclose(into))
    c.close()
    say(s.recv(10))


@each(end=('close', 'reset'))
def stream_at_the_end(end):
    c, s = connection()
    into, buffer = stream(s, b'r'), ctypes.create_string_buffer(100)
    deliver(c, s, message(3))
    c.close() if end == 'close' else reset(c)
    wait_for(s, 'RDHUP')
    say(libc.fread(buffer, SIZE(1), SIZE(100), into), libc.feof(into) != 0, libc.ferror(into) != 0)


@case
def read_and_written_by_one_stream():
    c, s = connection()
    both = stream(s, b'r+')
    deliver(c, s, message(3))
    buffer = ctypes.create_string_buffer(10)
    say(libc.fread(buffer, SIZE(1), SIZE(7), both), libc.fwrite(message(2), SIZE(1), SIZE(6), both), libc.fflush(both), received(c, 6))


@case
def formatted():
    c, s = connection()
    c.sendall(struct.pack('>I', 11))
    say(libc.dprintf(c.fileno(), b'%s %d\n', b'number', 123), received(s, 15))


@case
def makefile():
    c, s = connection()
    with c.makefile('wb') as out, s.makefile('rb') as into:
        out.write(struct.pack('>I', 8) + b'one\ntwo\n')
        out.flush()
        say(into.read(4), into.readline(), into.readline())


# ---------------------------------------------------------------- asynchronous

class Aiocb(ctypes.Structure):
    _fields_ = [('fd', ctypes.c_int), ('opcode', ctypes.c_int), ('priority', ctypes.c_int), ('buffer', ctypes.c_void_p),
                ('size', ctypes.c_size_t), ('room', ctypes.c_char * 200)]


@each(function=('aio_read', 'aio_write', 'aio_read64', 'aio_write64'))
def aio(function):
    c, s = connection()
    deliver(c, s, message(6))
    buffer = ctypes.create_string_buffer(message(6), 10)
    request = Aiocb(s.fileno(), 0, 0, ctypes.addressof(buffer), 10)
    say(called(getattr(libc, function), ctypes.byref(request)))
    until(lambda: libc.aio_error(ctypes.byref(request)) != errno.EINPROGRESS)
