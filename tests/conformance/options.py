"""Socket options, ioctl() and fcntl()."""
import array, fcntl, os, socket, struct

from harness import *


@case
def options():
    c, s = connection()
    for level, option, value in [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 5),
            (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1), (socket.SOL_SOCKET, socket.SO_PRIORITY, 3),
            (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1), (socket.SOL_SOCKET, socket.SO_SNDBUF, 100000),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, 90000), (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.IPPROTO_TCP, socket.TCP_CORK, 1), (socket.IPPROTO_TCP, socket.TCP_CORK, 0),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 33), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 40000),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345), (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
            (socket.IPPROTO_TCP, 999, 1), (socket.SOL_SOCKET, 9999, 1), (12345, 1, 1)]:
        say(level, option, value, outcome(s.setsockopt, level, option, value), outcome(s.getsockopt, level, option))
    say(outcome(s.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 5, 9)),
        struct.unpack('ii', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    say(outcome(s.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, b'\1'), outcome(s.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, b''))
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    say('TCP_INFO', info[0], len(info) >= 104, struct.unpack_from('I', info, 8)[0] >= 200000)
    say(len(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)), len(s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 2)))
    say(outcome(s.getsockopt, socket.IPPROTO_TCP, 31, 16), len(outcome(s.getsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)))
    say(fcntl.ioctl(s, 0x8905, b'\0\0\0\0'), outcome(fcntl.ioctl, s, 0x5401, b'\0' * 64))


@case
def options_before():
    l = listener()
    l.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    c = socket.socket()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 44)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 1, 200000))
    os.set_inheritable(c.fileno(), True)
    c.connect(here())
    s, _ = l.accept()
    say(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), c.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    say(struct.unpack('ll', c.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[0], os.get_inheritable(c.fileno()),
        os.get_inheritable(s.fileno()), c.getblocking(), s.getblocking())
    say(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK, fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK)
    c.setblocking(False)
    say(outcome(c.recv, 1), bool(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK))
    flag = array.array('i', [0])
    fcntl.ioctl(c, 0x5421, flag)  # FIONBIO
    say(bool(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK))
