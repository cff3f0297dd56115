#!/usr/bin/python3
"""A client with several connections in one session, by TCP and by SMB Direct, as Windows uses SMB3 multichannel.

  multichannel_client.py HOST PORT USER PASSWORD [DIALECT]

Reads what to do from stdin, a line each, and answers each with a line: "ok ..." or "wrong ...".

  connect NAME tcp|rdma     the first one makes the session, every other one binds it
  interfaces NAME ADDRESS   the server says that it has RDMA at the address
  cross RDMA OTHER          1 MiB there by channel and back inline on the other, and the other way round
  alternate COUNT NAME...   operations in turn on these, each byte checked; answers with the bytes by channel
  open NAME batch|lease     a file called "held", with what another client's open breaks
  broken [NAME]             waits for that break on any of the connections; acknowledged on NAME or where it came
  knock COUNT               connections by SMB Direct that leave while the server passes them on, or right after
  leave NAME                closes the connection
  ended                     all connections end

READ and WRITE are not signed, as of a Windows client that does not require it: signed ones go by no channel.
"""
import collections
import hashlib
import hmac
import os
import random
import select
import socket
import struct
import sys
import time

import peer
from smb2_client import *

MIB = 1 << 20
IOCTL, OPLOCK_BREAK = 11, 18
QUERY_NETWORK_INTERFACE_INFO = 0x001401FC
RDMA_CAPABLE = 2
NO_FILE = b'\xff' * 16
UNASKED = (1 << 64) - 1  # the MessageId of a break


# ---- MD4 (RFC 1320), AES-128 and its CMAC (RFC 4493): Python has neither for sure

def md4(data):
    length = len(data)
    data += b'\x80' + b'\0' * ((55 - length) % 64) + struct.pack('<Q', 8 * length)
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476]
    order = (range(16), [i % 4 * 4 + i // 4 for i in range(16)], [int(f'{i:04b}'[::-1], 2) for i in range(16)])
    shifts = ((3, 7, 11, 19), (3, 5, 9, 13), (3, 9, 11, 15))
    mix = (lambda x, y, z: x & y | ~x & z, lambda x, y, z: x & y | x & z | y & z, lambda x, y, z: x ^ y ^ z)
    for at in range(0, len(data), 64):
        words = struct.unpack('<16I', data[at:at + 64])
        a, b, c, d = state
        for n in range(3):
            for i, word in enumerate(order[n]):
                a = (a + mix[n](b, c, d) + words[word] + (0, 0x5A827999, 0x6ED9EBA1)[n]) & 0xFFFFFFFF
                shift = shifts[n][i % 4]
                a, b, c, d = d, (a << shift | a >> (32 - shift)) & 0xFFFFFFFF, b, c
        state = [(x + y) & 0xFFFFFFFF for x, y in zip(state, (a, b, c, d))]
    return struct.pack('<4I', *state)


def double(byte):
    return byte << 1 ^ (0x11B if byte & 0x80 else 0)


def make_sbox():
    """By the powers of 3 and of its inverse, 0xF6."""
    box, p, q = [0x63] * 256, 1, 1
    for _ in range(255):
        p ^= double(p)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q = q & 0xFF ^ (0x09 if q & 0x80 else 0)
        box[p] = 0x63
        for turn in range(5):
            box[p] ^= (q << turn | q >> (8 - turn)) & 0xFF
    return box


SBOX = make_sbox()


class Aes:
    def __init__(self, key):
        words, rcon = [list(key[i:i + 4]) for i in range(0, 16, 4)], 1
        for i in range(4, 44):
            word = words[i - 1]
            if i % 4 == 0:
                word = [SBOX[b] for b in word[1:] + word[:1]]
                word[0] ^= rcon
                rcon = double(rcon)
            words.append([a ^ b for a, b in zip(words[i - 4], word)])
        self.keys = [sum(words[i:i + 4], []) for i in range(0, 44, 4)]

    def encrypt(self, block):
        state = [a ^ b for a, b in zip(block, self.keys[0])]
        for n in range(1, 11):
            state = [SBOX[state[5 * i % 16]] for i in range(16)]
            if n < 10:
                mixed = []
                for i in range(0, 16, 4):
                    column = state[i:i + 4]
                    every = column[0] ^ column[1] ^ column[2] ^ column[3]
                    mixed += [column[j] ^ every ^ double(column[j] ^ column[(j + 1) % 4]) for j in range(4)]
                state = mixed
            state = [a ^ b for a, b in zip(state, self.keys[n])]
        return bytes(state)


def cmac(key, data):
    aes = Aes(key)

    def shifted(block):
        number = int.from_bytes(block, 'big') << 1
        return ((number & ((1 << 128) - 1)) ^ (0x87 if number >> 128 else 0)).to_bytes(16, 'big')

    subkey = shifted(aes.encrypt(b'\0' * 16))
    whole = max(0, len(data) - 1) // 16 * 16
    last = data[whole:]
    if len(last) < 16:
        subkey = shifted(subkey)
        last = (last + b'\x80').ljust(16, b'\0')
    state = b'\0' * 16
    for at in range(0, whole, 16):
        state = aes.encrypt(bytes(a ^ b for a, b in zip(state, data[at:at + 16])))
    return aes.encrypt(bytes(a ^ b ^ c for a, b, c in zip(state, last, subkey)))


def check_ciphers():
    """By the vectors of the RFCs."""
    assert md4(b'abc').hex() == 'a448017aaf21d8525fc10ae87aa6729d'
    key = bytes.fromhex('2b7e151628aed2a6abf7158809cf4f3c')
    assert cmac(key, b'').hex() == 'bb1d6929e95937287fa37d129b756746'
    assert cmac(key, bytes.fromhex('6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411')
                ).hex() == 'dfa66747de9ae63030ca32611497c827'


def signature(key, message):
    return cmac(key, message[:48] + b'\0' * 16 + message[64:])


# ---- NTLMv2 without a key exchange: the base key is the session key

def hmac_md5(key, data):
    return hmac.new(key, data, 'md5').digest()


def ntlmv2(challenge, user, password):
    """The AUTHENTICATE message for a CHALLENGE, and the session key."""
    expect(challenge[:12] == b'NTLMSSP\0\2\0\0\0', f'no challenge: {challenge[:12].hex()}')
    nonce = challenge[24:32]
    length, at = struct.unpack('<HxxI', challenge[40:48])
    target = challenge[at:at + length]
    owner = hmac_md5(md4(password.encode('utf-16le')), user.upper().encode('utf-16le'))
    blob = (struct.pack('<BBHIQ', 1, 1, 0, 0, int((time.time() + 11644473600) * 10000000)) + os.urandom(8) + b'\0' * 4 +
            target + b'\0' * 4)
    proof = hmac_md5(owner, nonce + blob)
    fields, payload = b'', b''
    for part in b'\0' * 24, proof + blob, b'', user.encode('utf-16le'), b'', b'':  # as in ntlmssp_guest
        fields += struct.pack('<HHI', len(part), len(part), 64 + len(payload))
        payload += part
    return (b'NTLMSSP\0' + struct.pack('<I', 3) + fields + struct.pack('<I', 0x00088205) + payload,
            hmac_md5(owner, proof))


# ---- connections

class Tcp(peer.Stream):
    """What Peer is for SMB Direct."""

    def __init__(self, host, port):
        super().__init__(socket.create_connection((host, port), peer.LIMIT))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.memory = Memory()
        self.messages = collections.deque()

    def send_upper(self, octets):
        self.raw(struct.pack('>I', len(octets)) + octets)

    def pump(self):
        self.messages.append(Message(self.read(struct.unpack('>I', self.read(4))[0]), []))


class Connection(Client):
    """One of the session's."""

    def __init__(self, name, kind, test):
        # Not Client's, which would connect by SMB Direct.
        self.dialect, self.channel, self.host = test.dialect, 0 if kind == 'tcp' else 2, test.host
        self.name, self.test = name, test
        self.peer = Tcp(test.host, test.port) if kind == 'tcp' else Peer(test.host, test.port + 5000)
        self.next_mid, self.credits = 0, 1
        self.session = self.tree = 0
        self.waiting, self.replies = {}, {}
        self.interims = self.finals = 0
        self.interim_of = set()
        self.breaks = collections.deque()
        self.preauth = b'\0' * 64

    def post(self, command, body, charge=1, on_final=None, mid=None, key=None, flags=0, **kw):
        if command == NEGOTIATE:
            # Capabilities: LARGE_MTU, MULTI_CHANNEL. The ClientGuid tells the server that connections belong together.
            body = body[:8] + struct.pack('<I16s', 12, self.test.guid) + body[28:]
        if command == TREE_CONNECT and self.dialect == 0x0311:
            key = self.key  # it vouches for the negotiation
        if mid is None:
            mid = self.take_mid(charge, command, on_final)
        message = self.header(command, charge, mid=mid, flags=flags | (SIGNED if key else 0), **kw) + body
        if key:
            message = message[:48] + signature(key, message) + message[64:]
        if command in (NEGOTIATE, SESSION_SETUP):
            self.preauth = hashlib.sha512(self.preauth + message).digest()
        self.peer.send_upper(message)
        return mid

    def take_reply(self, reply):
        if reply.command == OPLOCK_BREAK and reply.mid == UNASKED:
            self.breaks.append(reply)
            return True
        if reply.command == NEGOTIATE or reply.command == SESSION_SETUP and reply.status == MORE_PROCESSING:
            self.preauth = hashlib.sha512(self.preauth + reply.octets).digest()
        return super().take_reply(reply)

    def log_on(self, first):
        """With `first` it is a binding, whose requests are signed by the session's key, its last reply by its own."""
        binding = {}
        if first:
            self.session = first.session
            binding = {'key': self.test.key}
        blob = ntlmssp_negotiate()
        for status in MORE_PROCESSING, OK:
            body = struct.pack('<HBBIIHHQ', 25, 1 if first else 0, 1, 0, 0, 88, len(blob), 0) + blob
            reply = self.call(SESSION_SETUP, body, status, **binding)
            expect(not first or reply.session == first.session, 'another session')
            self.session = reply.session
            if status == MORE_PROCESSING:
                at, length = struct.unpack('<HH', reply.octets[68:72])
                blob, base = ntlmv2(reply.octets[at:at + length], self.test.user, self.test.password)
        expect(reply.octets[66:68] == b'\0\0', f'SessionFlags {reply.octets[66:68].hex()}: a guest?')
        label, context = ((b'SMBSigningKey\0', self.preauth) if self.dialect == 0x0311 else
                          (b'SMB2AESCMAC\0', b'SmbSign\0'))
        self.key = hmac.new(base, b'\0\0\0\1' + label + b'\0' + context + b'\0\0\0\x80', 'sha256').digest()[:16]
        expect(reply.flags & SIGNED and reply.octets[48:64] == signature(self.key, reply.octets),
               'the last reply of the log-on is not signed by the key that was agreed on')
        if not first:
            self.test.key = self.key

    def interfaces(self):
        """{address: capabilities}"""
        # Its buffer is empty, but for the byte that a variable part has at least.
        body = struct.pack('<HHI16sIIIIIIII', 57, 0, QUERY_NETWORK_INTERFACE_INFO, NO_FILE, 120, 0, 0, 120, 0, 65536,
                           1, 0) + b'\0'
        reply = self.call(IOCTL, body)
        at, length = struct.unpack('<II', reply.octets[96:104])
        octets, found = reply.octets[at:at + length], {}
        while octets:
            following, _, capabilities, _, speed, family = struct.unpack('<IIIIQH', octets[:26])
            expect(speed > 0, 'a linkspeed of 0')
            address = octets[28:32] if family == 2 else octets[32:48]
            found[socket.inet_ntop(socket.AF_INET if family == 2 else socket.AF_INET6, address)] = capabilities
            octets = octets[following:] if following else b''
        return found

    def create_to_hold(self, name, lease):
        """(FileId, the lease's key or None)"""
        body = self.create_body(name)
        if not lease:
            reply = self.call(CREATE, body[:3] + b'\x09' + body[4:])
            expect(reply.octets[66] == 9, f'no batch oplock, but {reply.octets[66]}')
            return reply.octets[128:144], None
        key = os.urandom(16)
        context = struct.pack('<IHHHHI4sI', 0, 16, 4, 0, 24, 32, b'RqLs', 0) + key + struct.pack('<IIQ', 7, 0, 0)
        body += b'\0' * (-len(body) % 8)
        body = body[:3] + b'\xff' + body[4:48] + struct.pack('<II', 64 + len(body), len(context)) + body[56:] + context
        reply = self.call(CREATE, body)
        at, = struct.unpack('<I', reply.octets[144:148])
        expect(reply.octets[66] == 0xFF and at and reply.octets[at + 40:at + 44] == b'\7\0\0\0', 'no lease')
        return reply.octets[128:144], key


# ---- what is done with them

class Test:
    def __init__(self, host, port, user, password, dialect='0x0302'):
        self.host, self.port, self.user, self.password = host, int(port), user, password
        self.dialect = int(dialect, 0)
        self.guid = os.urandom(16)
        self.key = None  # the session's, that of its first connection
        self.all = {}
        self.held = None

    def connect(self, name, kind):
        c = Connection(name, kind, self)
        c.negotiate()
        first = next(iter(self.all.values()), None)
        c.log_on(first)
        if first:
            c.tree = first.tree
        else:
            c.connect_tree('share')
        self.all[name] = c
        return 'bound' if first else 'logged on'

    def knock(self, count):
        def leave(_mid):
            raise peer.Ended()
        for number in range(int(count)):
            c = Connection('knock', 'rdma', self)
            if number % 3:
                c.wait = leave
            try:
                c.negotiate()
            except peer.Ended:
                pass
            (c.peer.sock.close, c.peer.reset)[number % 2]()
        return ''

    def interfaces(self, name, address):
        found = self.all[name].interfaces()
        expect(found.get(address, 0) & RDMA_CAPABLE, f'{address} is not said to be one of RDMA, of {found}')
        return str(found)

    def cross(self, rdma, other):
        rdma, other = self.all[rdma], self.all[other]
        file_id = other.create('crossed')
        data = random.randbytes(MIB)
        Transfer(rdma, WRITE, file_id, 0, data=data).post().finish()
        expect(other.read_inline(file_id, 0, MIB) == data, 'written by channel, and other bytes are read inline')
        data = random.randbytes(MIB)
        other.write_inline(file_id, 0, data)
        Transfer(rdma, READ, file_id, 0, MIB).post().finish(expected=data)
        rdma.close(file_id)
        other.delete('crossed')
        return ''

    def alternate(self, count, *names):
        connections = [self.all[name] for name in names]
        data = bytearray(random.randbytes(MIB))
        file_id = connections[0].create('alternated')
        connections[0].write_inline(file_id, 0, bytes(data))
        moved = {READ: 0, WRITE: 0}
        for number in range(int(count) // len(connections)):
            # One by one anywhere; or on all connections at once, each in a part of its own.
            at_once = number % 3 == 0
            part = MIB // len(connections) if at_once else MIB
            ops = []
            for index, c in enumerate(connections):
                command = random.choice((READ, WRITE))
                length = random.choice((1, 4096, 30000, random.randrange(1, min(part, MIB // 2))))
                at = random.randrange(part - length) + (index * part if at_once else 0)
                if command == WRITE:
                    data[at:at + length] = random.randbytes(length)
                if c.channel:
                    moved[command] += length
                piece = bytes(data[at:at + length])
                op = Transfer(c, command, file_id, at, length, data=piece if command == WRITE else None).post()
                ops.append((op, piece if command == READ else None))
                if not at_once:
                    op.wait()
            for op, expected in ops:
                op.finish(expected=expected)
        for c in connections:
            expect(c.read_inline(file_id, 0, MIB) == data, f'in the end it differs, as {c.name} reads it')
        connections[-1].close(file_id)
        connections[0].delete('alternated')
        return f'{moved[READ]} {moved[WRITE]}'

    def open(self, name, kind):
        c = self.all[name]
        file_id = c.create('held')
        c.write_inline(file_id, 0, b'held')
        c.close(file_id)
        self.held = c.create_to_hold('held', kind == 'lease')
        return ''

    def broken(self, name=None):
        file_id, lease = self.held
        end = time.monotonic() + 20
        socks = {c.peer.sock: c for c in self.all.values()}
        while not any(c.breaks for c in socks.values()):
            ready = select.select(list(socks), [], [], max(0, end - time.monotonic()))[0]
            expect(ready, 'no break in 20 s')
            for sock in ready:
                socks[sock].pump()
        came = next(c for c in socks.values() if c.breaks)
        octets = came.breaks.popleft().octets
        if lease:
            size, _, flags, key, old, new = struct.unpack('<HHI16sII', octets[64:96])
            expect((size, flags, key, old) == (44, 1, lease, 7) and new != 7, f'the break {octets[64:].hex()}')
            body = struct.pack('<HHI16sIQ', 36, 0, 0, lease, new, 0)
        else:
            size, level = struct.unpack('<HB', octets[64:67])
            expect((size, octets[72:88]) == (24, file_id) and level in (0, 1), f'the break {octets[64:].hex()}')
            body = struct.pack('<HBBI16s', 24, level, 0, 0, file_id)
        answers = self.all[name] if name else came
        answers.call(OPLOCK_BREAK, body)
        answers.close(file_id)
        expect(not any(c.breaks for c in socks.values()), 'a second break')
        return came.name

    def leave(self, name):
        self.all.pop(name).leave()
        return ''

    def ended(self):
        for c in self.all.values():
            c.peer.sock.settimeout(20)
            try:
                while True:
                    c.pump()
            except TimeoutError as error:
                raise Wrong(f'{c.name} is still open after 20 s') from error
            except (peer.Ended, ConnectionError):
                pass
            c.peer.sock.close()
        self.all.clear()
        return ''


def main():
    check_ciphers()
    test = Test(*sys.argv[1:])
    for line in sys.stdin:
        step, *arguments = line.split()
        try:
            answer = f'ok {getattr(test, step)(*arguments)}'
        except (Wrong, Refused, peer.Ended, OSError) as error:
            answer = f'wrong {error if str(error) else repr(error)}'
        print(answer, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
