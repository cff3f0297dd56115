"""Every form of sending and receiving that libc has, each as a function of the same arguments."""
from harness import *

SIZE = ctypes.c_size_t
for name in ('read', 'write', 'recv', 'send', 'recvfrom', 'sendto', 'recvmsg', 'sendmsg', 'readv', 'writev', 'preadv2', 'pwritev2',
             'preadv', 'pwritev', 'pread', 'pwrite', '__read', '__write', '__send', '__read_chk', '__recv_chk', '__recvfrom_chk',
             'sendfile', 'splice', 'tee', 'vmsplice', 'copy_file_range'):
    getattr(libc, name).restype = ctypes.c_ssize_t


class Iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint), ('iov', ctypes.c_void_p), ('iovlen', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t), ('flags', ctypes.c_int)]


class Mmsghdr(ctypes.Structure):
    _fields_ = [('header', Msghdr), ('size', ctypes.c_uint)]


def vector(*parts):
    """An array of iovec over (address, size) pairs."""
    return (Iovec * len(parts))(*(Iovec(address, size) for address, size in parts))


def split(address, size):
    """In three parts, one of them empty: what is one buffer for some calls is many for the others."""
    first = size // 3
    return vector((address, first), (None, 0), (address + first, size - first))


def many(parts, count=1):
    messages = (Mmsghdr * count)()
    for one in messages:
        one.header.iov, one.header.iovlen = ctypes.addressof(parts), len(parts)
    return messages


def recvmmsg(fd, address, size, flags):
    """Two are asked for: with a time of nothing, what comes after the first does not matter."""
    parts = split(address, size)
    messages = many(parts)
    count = libc.recvmmsg(fd, messages, 1, flags, None)
    return messages[0].size if count == 1 else count


def sendmmsg(fd, address, size, flags):
    parts = split(address, size)
    messages = many(parts)
    count = libc.sendmmsg(fd, messages, 1, flags)
    return messages[0].size if count == 1 else count


def message_of(parts):
    return Msghdr(iov=ctypes.addressof(parts), iovlen=len(parts))


def recvmsg(fd, address, size, flags):
    parts = split(address, size)
    return libc.recvmsg(fd, ctypes.byref(message_of(parts)), flags)


def sendmsg(fd, address, size, flags):
    parts = split(address, size)
    return libc.sendmsg(fd, ctypes.byref(message_of(parts)), flags)


def at(address):
    return ctypes.c_void_p(address)


NOWHERE = ctypes.c_int64(-1)  # the position of preadv2() and pwritev2() that means: none

RECEIVE = {  # those that take flags
    'recv': lambda fd, address, size, flags: libc.recv(fd, at(address), SIZE(size), flags),
    'recvfrom': lambda fd, address, size, flags: libc.recvfrom(fd, at(address), SIZE(size), flags, None, None),
    'recvmsg': recvmsg,
    'recvmmsg': recvmmsg,
    '__recv_chk': lambda fd, address, size, flags: libc.__recv_chk(fd, at(address), SIZE(size), SIZE(4096), flags),
    '__recvfrom_chk': lambda fd, address, size, flags: libc.__recvfrom_chk(fd, at(address), SIZE(size), SIZE(4096), flags, None, None),
}
READ = {
    'read': lambda fd, address, size, flags: libc.read(fd, at(address), SIZE(size)),
    '__read': lambda fd, address, size, flags: libc.__read(fd, at(address), SIZE(size)),
    '__read_chk': lambda fd, address, size, flags: libc.__read_chk(fd, at(address), SIZE(size), SIZE(4096)),
    'readv': lambda fd, address, size, flags: libc.readv(fd, split(address, size), 3),
    'preadv2': lambda fd, address, size, flags: libc.preadv2(fd, split(address, size), 3, NOWHERE, 0),
}
SEND = {
    'send': lambda fd, address, size, flags: libc.send(fd, at(address), SIZE(size), flags),
    'sendto': lambda fd, address, size, flags: libc.sendto(fd, at(address), SIZE(size), flags, None, 0),
    '__send': lambda fd, address, size, flags: libc.__send(fd, at(address), SIZE(size), flags),
    'sendmsg': sendmsg,
    'sendmmsg': sendmmsg,
}
WRITE = {
    'write': lambda fd, address, size, flags: libc.write(fd, at(address), SIZE(size)),
    '__write': lambda fd, address, size, flags: libc.__write(fd, at(address), SIZE(size)),
    'writev': lambda fd, address, size, flags: libc.writev(fd, split(address, size), 3),
    'pwritev2': lambda fd, address, size, flags: libc.pwritev2(fd, split(address, size), 3, NOWHERE, 0),
}


def receive(call, s, size, flags=0):
    """What a call of the tables above gave: bytes, or the name of its errno."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    count = called(call, s.fileno(), ctypes.addressof(buffer), size, flags)
    return buffer.raw[:count] if isinstance(count, int) and count <= size else count


def send(call, s, data, flags=0):
    buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    return called(call, s.fileno(), ctypes.addressof(buffer), len(data), flags)


def waits(function, release):
    """Runs it in a thread. If it does not come back by itself, release() shall end it. Says (whether it waited, its value)."""
    value = []
    thread = in_thread(lambda: value.append(function()))
    waited = until(lambda: value or sleeps(thread)) and not value
    if waited:
        release()
    thread.join(10)
    return ('waits', value[0]) if waited and value else ('waits for ever',) if waited else (value[0],)
