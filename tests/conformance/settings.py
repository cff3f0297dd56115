"""Each socket option by itself: what it is, what it takes, how long a value must be, and that a connection inherits it."""
import socket, struct

from calls import *

S, T, I, I6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
OPTIONS = {  # name: (level, number, values to set)
    'SO_KEEPALIVE': (S, 9, (1, 0, 7, -1)), 'SO_REUSEADDR': (S, 2, (1, 0)), 'SO_REUSEPORT': (S, 15, (1, 0)),
    'SO_PRIORITY': (S, 12, (0, 6)), 'SO_RCVLOWAT': (S, 18, (0, 1, 100, -1)), 'SO_SNDLOWAT': (S, 19, (1,)),
    'SO_RCVBUF': (S, 8, (0, 1, 5000, 70000)), 'SO_SNDBUF': (S, 7, (0, 1, 5000, 70000)), 'SO_BROADCAST': (S, 6, (1, 0)),
    'SO_DONTROUTE': (S, 5, (1, 0)), 'SO_OOBINLINE': (S, 10, (1, 0)), 'SO_TIMESTAMP': (S, 29, (1, 0)), 'SO_NO_CHECK': (S, 11, (1, 0)),
    'SO_MARK': (S, 36, ()), 'SO_TYPE': (S, 3, (1,)), 'SO_PROTOCOL': (S, 38, (1,)), 'SO_DOMAIN': (S, 39, (1,)),
    'SO_ACCEPTCONN': (S, 30, (1,)), 'SO_ERROR': (S, 4, (1,)), 'SO_PASSCRED': (S, 16, (1, 0)), 'SO_PEEK_OFF': (S, 42, ()),
    'SO_ZEROCOPY': (S, 60, (1, 0, 2)), 'SO_BUSY_POLL': (S, 46, ()), 'SO_MAX_PACING_RATE': (S, 47, ()), 'SO_UNKNOWN': (S, 9999, (1,)),
    'SO_DEBUG': (S, 1, (0,)), 'SO_RXQ_OVFL': (S, 40, (1, 0)), 'SO_SELECT_ERR_QUEUE': (S, 45, (1, 0)), 'SO_LOCK_FILTER': (S, 44, ()),
    'TCP_NODELAY': (T, 1, (1, 0, 5)), 'TCP_MAXSEG': (T, 2, (1, 100000)), 'TCP_CORK': (T, 3, (1, 0, 9)),
    'TCP_KEEPIDLE': (T, 4, (1, 32767, 0, 32768, -1)), 'TCP_KEEPINTVL': (T, 5, (1, 32767, 0, 32768)),
    'TCP_KEEPCNT': (T, 6, (1, 127, 0, 128)), 'TCP_SYNCNT': (T, 7, (1, 127, 0, 128)), 'TCP_LINGER2': (T, 8, (5, 0, -1)),
    'TCP_DEFER_ACCEPT': (T, 9, (0,)), 'TCP_WINDOW_CLAMP': (T, 10, ()), 'TCP_INFO': (T, 11, (1,)), 'TCP_QUICKACK': (T, 12, (1,)),
    'TCP_USER_TIMEOUT': (T, 18, (0, 1000, -1)), 'TCP_FASTOPEN': (T, 23, ()), 'TCP_TIMESTAMP': (T, 24, ()), 'TCP_NOTSENT_LOWAT': (T, 25, (1000,)),
    'TCP_THIN_LINEAR_TIMEOUTS': (T, 16, (1, 0, 2)), 'TCP_THIN_DUPACK': (T, 17, (1, 0, 2)), 'TCP_SAVE_SYN': (T, 27, (0, 3)),
    'TCP_INQ': (T, 36, (1, 0, 2)), 'TCP_TX_DELAY': (T, 37, (0,)), 'TCP_MD5SIG': (T, 14, (1,)),
    'TCP_ULP': (T, 31, (1,)), 'TCP_UNKNOWN': (T, 999, (1,)),
    'IP_TOS': (I, 1, (0x10, 0x20, 0, 255)), 'IP_TTL': (I, 2, (64, 0, 255, 256, -1)), 'IP_MTU_DISCOVER': (I, 10, (0, 1, 9)),
    'IP_RECVERR': (I, 11, (1, 0)), 'IP_UNKNOWN': (I, 999, (1,)), 'IP_MINTTL': (I, 21, (1, 0, 256)), 'IP_FREEBIND': (I, 15, (1, 0)),
    'IP_BIND_ADDRESS_NO_PORT': (I, 24, (1, 0)), 'IP_PKTINFO': (I, 8, (1, 0)), 'IP_TRANSPARENT': (I, 19, ()), 'IP_HDRINCL': (I, 3, (1,)),
    'IPV6_V6ONLY': (I6, 26, (1, 0)), 'IPV6_UNICAST_HOPS': (I6, 16, (1, -1, 256)), 'IPV6_TCLASS': (I6, 67, (5, 0, 256)),
    'IPV6_MTU_DISCOVER': (I6, 23, (0,)), 'IPV6_UNKNOWN': (I6, 999, (1,)), 'IPV6_DONTFRAG': (I6, 62, (1, 0)),
    'SOL_UNKNOWN': (12345, 1, (1,)), 'SOL_UDP': (17, 1, (1,)),
}


def get(s, level, number, size=4):
    value, length = ctypes.create_string_buffer(b'\xee' * size, max(size, 1)), ctypes.c_int(size)
    result = called(libc.getsockopt, s.fileno(), level, number, value, ctypes.byref(length))
    if result != 0:
        return result
    return int.from_bytes(value.raw[:4], sys.byteorder, signed=True) if length.value == 4 else (length.value, value.raw[:length.value])


def put(s, level, number, value, size=4):
    data = ctypes.create_string_buffer(struct.pack('ii', value, 0), 8)
    return called(libc.setsockopt, s.fileno(), level, number, data, size)


VARIES = {'TCP_INFO', 'TCP_MAXSEG', 'TCP_TIMESTAMP', 'TCP_WINDOW_CLAMP', 'SO_RCVBUF', 'SO_SNDBUF'}  # of its own accord


@each(family=FAMILIES, option=[name for name in OPTIONS])
def option(family, option):
    level, number, values = OPTIONS[option]
    c, s = connection(family=family)
    before = get(s, level, number)
    say(before if option not in VARIES else isinstance(before, str))
    for value in values:
        say(value, put(s, level, number, value), get(s, level, number) if option not in ('TCP_INFO', 'TCP_MAXSEG') else '')


@each(option=[name for name in OPTIONS if name not in ('TCP_INFO', 'TCP_MAXSEG')])
def lengths(option):
    level, number, values = OPTIONS[option]
    c, s = connection()
    for size in (0, 1, 2, 3, 8):
        say(size, put(s, level, number, values[0] if values else 1, size) if values else '')
        result = get(s, level, number, size) if option not in VARIES else ''
        say('get', result)


@each(option=('SO_KEEPALIVE', 'SO_PRIORITY', 'SO_RCVLOWAT', 'SO_RCVBUF', 'SO_SNDBUF', 'SO_OOBINLINE', 'TCP_NODELAY', 'TCP_KEEPIDLE',
              'TCP_KEEPINTVL', 'TCP_KEEPCNT', 'TCP_USER_TIMEOUT', 'TCP_SYNCNT', 'TCP_LINGER2', 'IP_TOS', 'IP_TTL', 'IP_RECVERR',
              'SO_BROADCAST', 'SO_REUSEADDR', 'TCP_NOTSENT_LOWAT', 'SO_DONTROUTE', 'IP_MINTTL'))
def inherited(option):
    """Set before connect() and before listen(): what both ends say later."""
    level, number, _ = OPTIONS[option]
    value = {'SO_RCVBUF': 70000, 'SO_SNDBUF': 70000, 'IP_TTL': 33, 'IP_TOS': 0x10, 'IP_MINTTL': 5}.get(option, 1)
    l, c = listener(), socket.socket()
    say(put(l, level, number, value), put(c, level, number, value))
    c.connect(l.getsockname())
    s, _ = l.accept()
    say(get(c, level, number), get(s, level, number), get(l, level, number))


@each(option={'SO_RCVTIMEO': 20, 'SO_SNDTIMEO': 21})
def timeouts(option):
    c, s = connection()
    for seconds, microseconds in ((1, 500000), (0, 0), (0, 999999), (0, 1000000), (0, -1), (-1, 0), (1 << 40, 0)):
        value = struct.pack('ll', seconds, microseconds)
        say(seconds, microseconds, outcome(s.setsockopt, S, option, value), s.getsockopt(S, option, 16) == value)
    say(outcome(s.setsockopt, S, option, b'12345678'), len(s.getsockopt(S, option, 8)), len(s.getsockopt(S, option, 100)))


@case
def lingering():
    c, s = connection()
    for on, seconds in ((1, 5), (0, 5), (3, 0), (1, 3600)):
        say(outcome(s.setsockopt, S, socket.SO_LINGER, struct.pack('ii', on, seconds)), struct.unpack('ii', s.getsockopt(S, socket.SO_LINGER, 8)))
    say(outcome(s.setsockopt, S, socket.SO_LINGER, b'1234'), len(s.getsockopt(S, socket.SO_LINGER, 4)))


@each(request={'FIONREAD': termios.FIONREAD, 'TIOCOUTQ': termios.TIOCOUTQ, 'SIOCOUTQNSD': 0x894B, 'SIOCATMARK': 0x8905,
               'TCGETS': termios.TCGETS, 'FIOGETOWN': 0x8903, 'SIOCGPGRP': 0x8904, 'SIOCGSTAMP': 0x8906, 'FIOQSIZE': 0x5460, 'unknown': 0x12345})
def ioctls(request):
    c, s = connection()
    l = listener()
    number = ctypes.c_long(-1)
    for one in (s, l, socket.socket()):
        say(called(libc.ioctl, one.fileno(), ctypes.c_ulong(request), ctypes.byref(number)), number.value)
    deliver(c, s, message(10))
    say(called(libc.ioctl, s.fileno(), ctypes.c_ulong(request), ctypes.byref(number)), number.value)
