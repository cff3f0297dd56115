#!/usr/bin/python3
"""An SMB Direct peer on iWARP that misbehaves on purpose, in a state of one's choice.

  peer.py listen PORT STATE [HOST]   is a server: prints "STATE DONE" for each connection that ended
  peer.py connect HOST PORT STATE    is a client: exits 0 once the other side has closed or reset the connection

What it does in which state is the table at the end; `peer.py states` prints the names.
"""
import os
import socket
import struct
import sys
import time

LIMIT = 60  # seconds for everything: no test may hang

TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return struct.pack('<I', crc ^ 0xFFFFFFFF)


# ---- MPA, DDP and RDMAP (RFC 5044, 5041, 5040, 6581)

def mpa(kind, flags=0x40, revision=1, private=b'', length=None):
    return (b'MPA ID ' + kind + b' Frame' + bytes([flags, revision]) +
            struct.pack('>H', len(private) if length is None else length) + private)


def request(**kw):
    return mpa(b'Req', **kw)


def reply(**kw):
    return mpa(b'Rep', **kw)


def fpdu(ulpdu, bad_crc=False):
    data = struct.pack('>H', len(ulpdu)) + ulpdu
    data += b'\0' * (-len(data) % 4)
    crc = crc32c(data)
    return data + (bytes(b ^ 0xFF for b in crc) if bad_crc else crc)


def untagged(payload, opcode=3, queue=0, msn=1, offset=0, last=True, ddp=1, rdmap=1):
    return struct.pack('>BBIIII', (0x40 if last else 0) | ddp, rdmap << 6 | opcode, 0, queue, msn, offset) + payload


def tagged(payload, stag, to, opcode=0, last=True):
    return struct.pack('>BBIQ', 0x80 | (0x40 if last else 0) | 1, 0x40 | opcode, stag, to) + payload


# ---- SMB Direct

def negotiate_request(low=0x100, high=0x100, credits=255, send=8136, receive=8192, fragmented=1 << 20):
    return struct.pack('<HHHHIII', low, high, 0, credits, send, receive, fragmented)


def negotiate_response(status=0, granted=32, credits=255, send=1364, receive=8192, fragmented=1 << 20, version=0x100):
    return struct.pack('<HHHHHHIIIII', 0x100, 0x100, version, 0, credits, granted, status, 1 << 20, send, receive,
                       fragmented)


def data(payload=b'', credits=255, granted=16, flags=0, remaining=0, offset=None, length=None):
    if offset is None:
        offset = 24 if payload else 0
    header = struct.pack('<HHHHIII', credits, granted, flags, 0, remaining, offset,
                         len(payload) if length is None else length)
    return header + (b'\0' * 4 + payload if payload else b'')


class Ended(Exception):
    pass


class Stream:
    """One connection: receives exact lengths and FPDUs, sends numbered messages."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(LIMIT)
        self.msn = 1

    def read(self, count):
        got = b''
        while len(got) < count:
            more = self.sock.recv(count - len(got))
            if not more:
                raise Ended()
            got += more
        return got

    def read_mpa(self):
        head = self.read(20)
        return head + self.read(struct.unpack('>H', head[18:])[0])

    def read_message(self):
        """The payload of the next Send."""
        message = b''
        while True:
            length = struct.unpack('>H', self.read(2))[0]
            ulpdu = self.read(length)
            self.read(-(2 + length) % 4 + 4)
            if ulpdu[1] & 0xF != 3:
                continue
            message += ulpdu[18:]
            if ulpdu[0] & 0x40:
                return message

    def raw(self, octets):
        self.sock.sendall(octets)

    def send(self, message, **kw):
        self.raw(fpdu(untagged(message, msn=self.msn, **kw)))
        self.msn += 1

    def wait_for_end(self):
        """Until the other side closes or resets; what it still says is dropped."""
        while self.sock.recv(65536):
            pass


def reply_in_kind(asked):
    """RFC 6581: siw takes no other answer to a request of revision 2."""
    if asked[17] < 2 or not asked[16] & 0x10:
        return reply()
    peer_to_peer = asked[20] & 0x80  # then one of the ready-to-receive messages is chosen: the Write
    return reply(flags=0x50, revision=2, private=struct.pack('>HH', 0x8001, 0x8008) if peer_to_peer else b'\0\1\0\x08')


def to_mpa(s, serving, glued=b''):
    if serving:
        s.raw(reply_in_kind(s.read_mpa()) + glued)
    elif glued:
        s.raw(request() + glued)
    else:
        s.raw(request())
        answer = s.read_mpa()
        assert answer[:16] == b'MPA ID Rep Frame' and not answer[16] & 0x20, answer


def to_negotiated(s, serving):
    to_mpa(s, serving)
    if serving:
        assert len(s.read_message()) >= 20
        s.send(negotiate_response())
    else:
        s.send(negotiate_request())
        answer = s.read_message()
        assert len(answer) == 32 and answer[12:16] == b'\0' * 4, answer
        # The first Data Transfer of the initiator grants the first credits.
        s.send(data())


NOISE = os.urandom(70000)
# "Protection, invalid STag" of RDMAP as RFC 5040 writes it, and as siw does on x86.
TERMINATE = untagged(b'\x01\x00\0\0', opcode=7, queue=2)
TERMINATE_OF_SIW = untagged(b'\x10\x00\0\0', opcode=7, queue=2)


def at_start(*octets):
    def act(s, _serving):
        for chunk in octets:
            s.raw(chunk)
    return act


def after(prepare, *steps, half=False):
    """steps: bytes are raw, functions get the stream."""
    def act(s, serving):
        prepare(s, serving)
        for step in steps:
            if callable(step):
                step(s)
            else:
                s.raw(step)
        if half:
            s.sock.shutdown(socket.SHUT_WR)
    return act


def message(payload, **kw):
    return lambda s: s.send(payload, **kw)


def mpa_frame(**kw):
    """A frame of the right kind for the role, with something wrong."""
    def act(s, serving):
        if serving:
            s.read_mpa()
            s.raw(reply(**kw))
        else:
            s.raw(request(**kw))
    return act


def negotiation(request_fields, response_fields):
    def act(s, serving):
        to_mpa(s, serving)
        if serving:
            s.read_message()
            s.send(negotiate_response(**response_fields))
        else:
            s.send(negotiate_request(**request_fields))
    return act


def leave(s):
    raise Ended()


def reset(s):
    s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    raise Ended()


# Name: what to do. Every one of them must end with the other side closing the connection, unless we left first.
STATES = {
    # before MPA
    'silent': lambda s, serving: None,
    'garbage': at_start(NOISE),
    'plain-smb': at_start(struct.pack('>I', 64) + b'\xfeSMB' + b'\0' * 60),
    'leave': after(lambda s, serving: None, leave),
    'reset': after(lambda s, serving: None, reset),
    'half-mpa': after(lambda s, serving: s.raw((reply if serving else request)()[:11]), leave),
    'mpa-length': mpa_frame(length=0xFFFF),
    'mpa-private-missing': after(lambda s, serving: s.raw((reply if serving else request)(length=400)), leave),
    'mpa-revision': mpa_frame(revision=77),
    'mpa-markers': mpa_frame(flags=0xC0),
    'mpa-v2-empty': mpa_frame(flags=0x50, revision=2),
    'mpa-reject': mpa_frame(flags=0x60),
    'mpa-glued': lambda s, serving: to_mpa(s, serving, fpdu(untagged(negotiate_request()))),
    # in MPA, before negotiation
    'mpa-then-leave': after(to_mpa, leave),
    'mpa-then-reset': after(to_mpa, reset),
    'mpa-then-silent': after(to_mpa),
    'mpa-then-noise': after(to_mpa, NOISE),
    'fpdu-crc': after(to_mpa, fpdu(untagged(negotiate_request()), bad_crc=True)),
    'fpdu-empty': after(to_mpa, fpdu(b'')),
    'fpdu-short': after(to_mpa, fpdu(b'\x41\x43\0')),
    'fpdu-huge': after(to_mpa, b'\xff\xff' + NOISE[:65535] + b'\0' * 3 + b'crc!'),
    'ddp-version': after(to_mpa, fpdu(untagged(negotiate_request(), ddp=2))),
    'rdmap-version': after(to_mpa, fpdu(untagged(negotiate_request(), rdmap=2))),
    'rdmap-opcode': after(to_mpa, fpdu(untagged(negotiate_request(), opcode=13))),
    'ddp-queue': after(to_mpa, fpdu(untagged(negotiate_request(), queue=7))),
    'ddp-msn': after(to_mpa, fpdu(untagged(negotiate_request(), msn=9))),
    'ddp-offset': after(to_mpa, fpdu(untagged(negotiate_request(), offset=0x7FFFFFFF))),
    'send-too-long': after(to_mpa, fpdu(untagged(NOISE[:60000]))),
    'terminate': after(to_mpa, fpdu(TERMINATE)),
    'terminate-siw': after(to_mpa, fpdu(TERMINATE_OF_SIW)),
    'unasked-read-response': after(to_mpa, fpdu(tagged(NOISE[:100], 1, 0, opcode=2))),
    # negotiation
    'negotiate-noise': after(to_mpa, message(NOISE[:20])),
    'negotiate-short': after(to_mpa, message(b'\0\1\0\1')),
    'negotiate-empty': after(to_mpa, message(b'')),
    'negotiate-version': negotiation({'low': 0x200, 'high': 0x300}, {'version': 0x200}),
    'negotiate-credits': negotiation({'credits': 0}, {'granted': 0}),
    'negotiate-receive': negotiation({'receive': 127}, {'receive': 127}),
    'negotiate-fragmented': negotiation({'fragmented': 131071}, {'fragmented': 131071}),
    'negotiate-refused': negotiation({'fragmented': 0}, {'status': 0xC000009A}),
    # established
    'data-then-leave': after(to_negotiated, leave),
    'data-then-reset': after(to_negotiated, reset),
    'data-noise': after(to_negotiated, NOISE),
    'data-short': after(to_negotiated, message(b'\1\0\1\0')),
    'data-no-credits': after(to_negotiated, message(data(credits=0))),
    'data-offset': after(to_negotiated, message(data(b'x' * 64, offset=25))),
    'data-offset-low': after(to_negotiated, message(data(b'x' * 64, offset=8))),
    'data-length': after(to_negotiated, message(data(b'x' * 64, length=0xFFFFFFF0))),
    'data-remaining': after(to_negotiated, message(data(b'x' * 64, remaining=0xFFFFFFC0))),
    'data-sequence': after(to_negotiated, message(data(b'x' * 64, remaining=100000)),
                           message(data(b'x' * 64, remaining=100000))),
    'data-too-long': after(to_negotiated, message(data(b'x' * 40000))),
    'data-without-credit': after(to_negotiated, lambda s: [s.send(data(granted=0)) for _ in range(3000)]),
    'data-no-smb': after(to_negotiated, message(data(NOISE[:1000]))),
    'data-part-then-leave': after(to_negotiated, message(data(b'\xfeSMB' + b'x' * 60, remaining=100000)), leave),
    'write-stag': after(to_negotiated, fpdu(tagged(NOISE[:4096], 0x12345678, 1 << 40))),
    'write-stag-zero': after(to_negotiated, fpdu(tagged(NOISE[:4096], 0, 0))),
    'read-stag': after(to_negotiated, fpdu(untagged(struct.pack('>IQIIQ', 1, 0, 65536, 0x12345678, 0), opcode=1,
                                                    queue=1))),
    'read-response': after(to_negotiated, fpdu(tagged(NOISE[:4096], 1, 0, opcode=2))),
    'terminate-late': after(to_negotiated, fpdu(TERMINATE)),
    'terminate-late-siw': after(to_negotiated, fpdu(TERMINATE_OF_SIW)),
}


def play(sock, state, serving):
    stream = Stream(sock)
    try:
        STATES[state](stream, serving)
        stream.wait_for_end()
    except (Ended, ConnectionError):
        pass
    sock.close()


def main():
    if sys.argv[1] == 'states':
        print('\n'.join(STATES))
        return 0
    if sys.argv[1] == 'connect':
        host, port, state = sys.argv[2:5]
        started = time.monotonic()
        try:
            play(socket.create_connection((host, int(port)), LIMIT), state, False)
        except TimeoutError:
            print(f'{state}: the connection is still open after {time.monotonic() - started:.0f} s')
            return 1
        print(f'{state}: ended after {time.monotonic() - started:.1f} s')
        return 0
    port, state = sys.argv[2:4]
    listener = socket.create_server((sys.argv[4] if len(sys.argv) > 4 else '127.0.0.1', int(port)))
    while True:
        sock, _ = listener.accept()
        try:
            play(sock, state, True)
            print(f'{state} done', flush=True)
        except TimeoutError:
            print(f'{state} timeout', flush=True)


if __name__ == '__main__':
    sys.exit(main())
