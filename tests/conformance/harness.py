"""What the cases are made of. A case is a function that says what it sees; it runs in a process of its own."""
import array, ctypes, errno, fcntl, itertools, os, select, signal, socket, struct, sys, termios, threading, time

libc = ctypes.CDLL(None, use_errno=True)
port = int(sys.argv[1])  # of every listener
cases = {}               # name -> function
NETWORK = 'SMBDIRECT_TEST_NETWORK' in os.environ  # where addresses that lead nowhere can be had: network.sh
RESET = struct.pack('ii', 1, 0)                   # SO_LINGER: close() resets
LOOPBACK = {socket.AF_INET: os.environ.get('CONFORMANCE_ADDRESS', '127.0.0.1'),  # RDMA devices have no loopback addresses
            socket.AF_INET6: os.environ.get('CONFORMANCE_ADDRESS6', '::1')}
FAMILIES = {'ipv4': socket.AF_INET, 'ipv6': socket.AF_INET6}
MODES = {'blocking': True, 'nonblocking': False}


def each(where=None, **axes):
    """One case for each combination; an axis is a tuple of words, or a dictionary of names and values."""
    def register(function):
        stem = [function.__module__, function.__name__.replace('_', '-')]
        for names in itertools.product(*axes.values()):
            if where and not where(*names):
                continue
            values = {key: axes[key][name] if isinstance(axes[key], dict) else name for key, name in zip(axes, names)}
            cases['/'.join(stem + [str(name) for name in names])] = lambda values=values: function(**values)
        return function
    return register


def case(function):
    return each()(function)


def with_network(*names):
    """For each(where=...)."""
    return NETWORK


def documented(**expected):
    """A case of explicit sockets, which only the library has. What is said for the other side is what is documented, by label;
    the case itself gives pairs of a label and what it saw, all of them."""
    def register(function):
        def run():
            for label, value in expected.items() if 'LD_PRELOAD' not in os.environ else function():
                say(label.replace('_', ' '), value)
        run.__module__, run.__name__ = function.__module__, function.__name__
        return case(run)
    return register


# ---------------------------------------------------------------- saying

def shown(value):
    return f'{len(value)} bytes' if isinstance(value, bytes) and len(value) > 32 else value


def say(*words):
    print('   ', *map(shown, words), flush=True)


def error_name(number):
    return errno.errorcode.get(number, number)


def outcome(function, *arguments, **named):
    """What a call gave: its value, or the name of its errno."""
    try:
        value = function(*arguments, **named)
        return value if value is not None else 'ok'
    except socket.timeout as error:
        return error_name(error.errno) if error.errno else 'timeout'
    except OSError as error:
        return error_name(error.errno)


def called(function, *arguments):
    """The same of a function of libc."""
    ctypes.set_errno(0)
    result = function(*arguments)
    return error_name(ctypes.get_errno()) if result == -1 else result


def call(name, *arguments):
    """The same by its name."""
    return called(getattr(libc, name), *arguments)


def mask_names(mask):
    names = [('IN', 1), ('PRI', 2), ('OUT', 4), ('ERR', 8), ('HUP', 16), ('NVAL', 32), ('RDHUP', 0x2000),
             ('RDNORM', 64), ('RDBAND', 128), ('WRNORM', 256), ('WRBAND', 512)]
    return '|'.join(name for name, bit in names if mask & bit) or '-'


def poll_mask(s, events=select.POLLIN | select.POLLOUT | select.POLLRDHUP, wait=0):
    p = select.poll()
    p.register(s, events)
    ready = p.poll(wait)
    return mask_names(ready[0][1]) if ready else '-'


# ---------------------------------------------------------------- waiting

def until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def wait_for(s, *words):
    """Until the poll mask has these in it."""
    return until(lambda: set(words) <= set(poll_mask(s).split('|')))


def asleep(task, process='self'):
    """Waits until a thread, by its native id, sleeps in a system call that is not the lock of the interpreter."""
    futex, path = {'x86_64': '202'}.get(os.uname().machine, '98'), f'/proc/{process}/task/{task}/'

    def sleeps():
        try:
            with open(path + 'stat') as stat, open(path + 'syscall') as syscall:
                return stat.read().rsplit(')', 1)[1].split()[0] == 'S' and syscall.read().split()[0] != futex
        except OSError:
            return False
    return until(sleeps)


class Later(threading.Thread):
    """Runs beside the case. outcome() waits for it, and gives what it gave."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.work, self.result = (function, *arguments), None
        self.start()

    def run(self):
        self.result = outcome(*self.work)

    def outcome(self):
        self.join(15)
        return 'still running' if self.is_alive() else self.result


class Blocked(Later):
    """A call that is known to sleep when the constructor returns, if `slept` says so."""

    def __init__(self, function, *arguments):
        super().__init__(function, *arguments)
        self.slept = asleep(self.native_id) and self.is_alive()


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def sleeps(thread):
    """In a system call, as far as that can be known: it does so twice, and could have had the interpreter in between."""
    def state():
        try:
            with open(f'/proc/self/task/{thread.native_id}/stat') as f:
                return f.read().rsplit(')', 1)[1].split()[0]
        except OSError:
            return 'ended'
    return state() == 'S' and (time.sleep(0.01), state())[1] == 'S'


# ---------------------------------------------------------------- connections

def message(size, byte=b'x'):
    """As SMB frames what it sends: 4 bytes of length, then so many bytes."""
    return struct.pack('>I', size) + byte * size


def listener(family=socket.AF_INET, address=None, backlog=16):
    l = socket.socket(family, socket.SOCK_STREAM)
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind((address or LOOPBACK[family], port))
    l.listen(backlog)
    return l


def here(family=socket.AF_INET):
    return LOOPBACK[family], port


def stream(family=socket.AF_INET, blocking=True):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setblocking(blocking)
    return s


def connection(family=socket.AF_INET, **named):
    """Both ends of a connection: the one that asked, the one that was accepted."""
    l = listener(family, **named)
    c = socket.create_connection(l.getsockname()[:2])
    s, _ = l.accept()
    l.close()
    return c, s


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()


def received(s, size):
    data = b''
    while len(data) < size:
        more = s.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def number_of(s, request):
    buffer = array.array('i', [0])
    fcntl.ioctl(s, request, buffer)
    return buffer[0]


def waiting(s):
    return number_of(s, termios.FIONREAD)


def unsent(s):
    return number_of(s, termios.TIOCOUTQ)


def arrived(s, size):
    """Waits until so many bytes can be read."""
    return until(lambda: waiting(s) >= size)


def deliver(c, s, data):
    """Sends, and waits until it is there."""
    before = waiting(s)
    c.sendall(data)
    return until(lambda: waiting(s) == before + len(data))


MEGABYTE = message((1 << 20) - 4)
PIECE = len(MEGABYTE)


def flow(start, size):
    """Bytes [start, start + size) of an endless run of messages."""
    return (MEGABYTE[start % PIECE:] + MEGABYTE * (size // PIECE + 1))[:size]


def rest_of(sent):
    """What is still to be sent of the flow for its last message to be whole."""
    return flow(sent, -sent % PIECE)


def fill(c, sent=0):
    """Sends the flow, from there on, until nothing more is taken and what has been taken does not move any more."""
    c.setblocking(False)
    still = 0
    while still < 10:
        try:
            sent += c.send(MEGABYTE[sent % PIECE:])
            still = 0
        except BlockingIOError:
            still += 1
            time.sleep(0.01)
    return sent


# ---------------------------------------------------------------- processes

def child(function):
    """Runs it in a forked process, whose exit status is what it returns; gives the pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function() or 0
        finally:
            os._exit(status)
    return pid


def status_of(pid):
    """Waits for a child: its exit status, or the name of the signal that ended it."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else signal.Signals(-status).name
