"""ioctl() and fcntl(): every request that programs make of sockets, and some that they should not, in several states."""
import array, fcntl, subprocess, sys

from states import *

IOCTLS = {'FIONREAD': 0x541b, 'TIOCOUTQ': 0x5411, 'SIOCOUTQNSD': 0x894b, 'SIOCATMARK': 0x8905, 'FIONBIO': 0x5421, 'FIOASYNC': 0x5452,
          'FIOCLEX': 0x5451, 'FIONCLEX': 0x5450, 'TCGETS': 0x5401, 'SIOCGSTAMP': 0x8906, 'SIOCGPGRP': 0x8904, 'SIOCSPGRP': 0x8902,
          'FIOQSIZE': 0x5460, 'FIGETBSZ': 2, 'SIOCGIFCONF': 0x8912, 'TIOCGWINSZ': 0x5413, 'unknown': 0x12345678}
COUNTS = ('FIONREAD', 'TIOCOUTQ', 'SIOCOUTQNSD', 'SIOCATMARK')


@each(request=tuple(IOCTLS), state={name: STATES[name] for name in ('idle', 'data', 'closed', 'reset', 'listening', 'unconnected')})
def ioctl(request, state):
    s, *kept = state()
    argument = ctypes.create_string_buffer(64)
    got = call('ioctl', s.fileno(), ctypes.c_ulong(IOCTLS[request]), argument)
    say(got, argument.raw[:4] if got == 0 and request in COUNTS else '')


@each(state=STATES)
def at_mark(state):
    s, *kept = state()
    say(call('sockatmark', s.fileno()))


FCNTLS = {'F_GETFD': 1, 'F_GETFL': 3, 'F_GETOWN': 9, 'F_GETSIG': 11, 'F_GETLEASE': 1025, 'F_GETPIPE_SZ': 1032, 'F_GET_SEALS': 1034, 'unknown': 9999}


@each(command=FCNTLS, form=('fcntl', 'fcntl64', '__fcntl'))
def fcntls(command, form):
    c, s = connection()
    say(call(form, s.fileno(), command, 0))


@case
def locks():
    c, s = connection()
    say(outcome(fcntl.lockf, s, fcntl.LOCK_EX | fcntl.LOCK_NB), outcome(fcntl.flock, s, fcntl.LOCK_EX | fcntl.LOCK_NB))


@each(how=('FIONBIO', 'F_SETFL', 'SOCK_NONBLOCK'))
def nonblocking(how):
    """Switched on in each way, and off."""
    c, s = connection()
    if how == 'FIONBIO':
        fcntl.ioctl(s, 0x5421, array.array('i', [1]))
    elif how == 'F_SETFL':
        fcntl.fcntl(s, fcntl.F_SETFL, os.O_NONBLOCK)
    else:
        l, s = listener(), socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        s.connect_ex(here())
        wait_for(s, 'OUT')
    say('on', call('recv', s.fileno(), ctypes.create_string_buffer(4), ctypes.c_size_t(4), 0), oct(fcntl.fcntl(s, fcntl.F_GETFL)))
    fcntl.ioctl(s, 0x5421, array.array('i', [0]))
    say('off', oct(fcntl.fcntl(s, fcntl.F_GETFL)))


READER = 'import os,sys\ntry: print(os.read(int(sys.argv[1]), 9))\nexcept OSError as e: print(e.strerror)'
WRITER = 'import os,sys\ntry: print(os.write(int(sys.argv[1]), b"\\0\\0\\0\\1u"))\nexcept OSError as e: print(e.strerror)'


@each(does={'closes': 'pass', 'polls': 'import select,sys\nprint(len(select.select([int(sys.argv[1])], [], [], 8)[0]))', 'reads': READER, 'writes': WRITER})
def program_without_the_library(does):
    """The descriptor is inherited by a program that does not load it."""
    c, s = connection()
    deliver(c, s, message(3))
    bare = {name: value for name, value in os.environ.items() if name != 'LD_PRELOAD'}
    program = subprocess.run([sys.executable, '-c', does, str(s.fileno())], pass_fds=[s.fileno()], env=bare, stdout=subprocess.PIPE)
    say(program.stdout, program.returncode)
    if does != READER:
        say(outcome(c.send, message(1), socket.MSG_NOSIGNAL) if does != WRITER else outcome(c.recv, 9))
