"""An SMB2 client over SMB Direct over iWARP: what channel_peer.py is made of.

Memory:   buffers with STags that the server's RDMA Writes are placed in and its RDMA Reads are served from
Peer:     one connection of SMB Direct; takes what the server sends, FPDU by FPDU, and checks it against the rules
Client:   SMB2 on it: negotiation, a guest's session, requests one by one, pipelined or compound

Wrong is raised for what a server must not do, Refused where it touches memory that it may not touch.
"""
import collections
import os
import random
import select
import socket
import struct

import peer

NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, CLOSE, READ, WRITE, CANCEL = 0, 1, 3, 5, 6, 8, 9, 12
SERVER_TO_REDIR, ASYNC, RELATED, SIGNED = 1, 2, 4, 8

OK = 0
PENDING = 0x103
END_OF_FILE = 0xC0000011
BUFFER_OVERFLOW = 0x80000005
INVALID_PARAMETER = 0xC000000D
ACCESS_DENIED = 0xC0000022
NAME_DELETED = 0xC00000C9
MORE_PROCESSING = 0xC0000016
CANCELLED = 0xC0000120
FILE_CLOSED = 0xC0000128
SESSION_DELETED = 0xC0000203

SAME_FILE = b'\xff' * 16  # of the compound's element before
UNKNOWN = 1 << 31         # a length that the test does not check


class Wrong(Exception):
    """The server did what it must not do."""


class Refused(Exception):
    """The server touched memory that it may not touch."""


def expect(good, text):
    if not good:
        raise Wrong(text)


# ---- memory

class Region:
    """A buffer with an STag: `rights` is 'r' if the server may read it, 'w' if it may write it."""

    def __init__(self, stag, base, data, rights):
        self.stag, self.base, self.data, self.rights = stag, base, data, rights
        self.alive = True
        self.written = self.read = 0  # bytes, by the server

    def descriptor(self, start=0, length=None):
        return (self.base + start, self.stag, len(self.data) - start if length is None else length)


class Memory:
    def __init__(self):
        self.regions = {}

    def register(self, data, rights):
        stag = 0
        while stag == 0 or stag in self.regions:
            stag = random.getrandbits(32)
        # The last address never wraps, and is not aligned.
        region = self.regions[stag] = Region(stag, random.getrandbits(63) | 1, data, rights)
        return region

    def forget(self, region):
        region.alive = False
        self.regions.pop(region.stag, None)

    def invalidate(self, stag):
        region = self.regions.get(stag)
        expect(region and region.alive, f'an invalidate of STag {stag:#x}, which is not valid')
        region.alive = False

    def at(self, stag, to, length, right):
        """Where it lies, as a memoryview."""
        region = self.regions.get(stag)
        what = f'{"RDMA Read" if right == "r" else "RDMA Write"} of {length} bytes at {to:#x} of STag {stag:#x}'
        if not region:
            raise Refused(f'{what}: no such STag')
        if not region.alive:
            raise Refused(f'{what}: the STag was invalidated')
        if right not in region.rights:
            raise Refused(f'{what}: not permitted')
        start = to - region.base
        if start < 0 or start + length > len(region.data):
            raise Refused(f'{what}: outside of its {len(region.data)} bytes at {region.base:#x}')
        return region, memoryview(region.data)[start:start + length]


# ---- SMB Direct on iWARP

Message = collections.namedtuple('Message', 'octets invalidated')
ReadRequest = collections.namedtuple('ReadRequest', 'sink to length stag source')


class Peer(peer.Stream):
    receive_size = 8192
    fragmented_size = 1 << 20

    def __init__(self, host, port, ird=16, crc=False, segment=60000):
        sock = socket.create_connection((host, port), peer.LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock)
        self.memory = Memory()
        self.ird, self.segment = ird, segment
        self.write = self.response_to = None   # the open tagged message: (STag, next TO)
        self.part, self.part_offset = b'', 0   # of the Send that is being received
        self.upper, self.upper_left, self.upper_invalidated = [], 0, []
        self.send_msn = self.read_msn = 1      # of the server
        self.messages = collections.deque()
        self.reads = collections.deque()       # that were not answered
        self.answers = True
        self.most_reads = self.all_reads = self.all_writes = 0
        self.credits = self.given = 0          # SMB Direct's: ours, and the server's
        self.hold_credits = False
        self.received = 0                      # messages of SMB Direct
        self.start(crc)

    def start(self, crc):
        self.crc = False
        self.raw(peer.request(flags=0x50 if crc else 0x10, revision=2, private=struct.pack('>HH', self.ird, 0)))
        answer = self.read_mpa()
        expect(answer[:16] == b'MPA ID Rep Frame' and answer[16] & 0xB0 == 0x10, f'the MPA Reply is {answer.hex()}')
        self.crc = bool(answer[16] & 0x40)
        expect(self.crc or not crc, 'no CRC though it was asked for')
        ord_, = struct.unpack('>H', answer[22:24])
        expect(ord_ <= self.ird, f'an ORD of {ord_}, though the IRD is {self.ird}')
        self.ird = ord_
        self.send(peer.negotiate_request(receive=self.receive_size, fragmented=self.fragmented_size))
        while not self.messages:
            self.pump(raw=True)
        answer = self.messages.popleft().octets
        expect(len(answer) == 32, f'a negotiate response of {len(answer)} bytes')
        (_, _, version, _, wanted, granted, status, self.max_transfer, _, self.send_size,
         self.send_fragmented) = struct.unpack('<HHHHHHIIIII', answer)
        expect(status == 0 and version == 0x100 and wanted and granted, f'the negotiate response {answer.hex()}')
        self.wanted, self.credits = wanted, granted
        self.send_size = min(self.send_size, 8136)
        self.send_message(b'')

    # -- out

    def frame(self, head, payload=b''):
        """An FPDU; the CRC is left out where none was agreed on, since it is slow here."""
        length = len(head) + len(payload)
        if self.crc:
            self.raw(peer.fpdu(head + bytes(payload)))
        else:
            self.raw(b''.join((struct.pack('>H', length), head, payload, b'\0' * (-(2 + length) % 4 + 4))))

    def send(self, message, **kw):
        self.frame(peer.untagged(message, msn=self.msn, **kw))
        self.msn += 1

    def send_message(self, payload, remaining=0, flags=0):
        """One message of SMB Direct; always with as many credits as the server wants."""
        granted = 0 if self.hold_credits else max(0, self.wanted - self.given)
        while self.credits == 0 or (self.credits == 1 and granted == 0 and payload):
            self.pump()
            granted = 0 if self.hold_credits else max(0, self.wanted - self.given)
        self.credits -= 1
        self.given += granted
        self.send(peer.data(payload, credits=255, granted=granted, remaining=remaining, flags=flags))

    def send_upper(self, octets):
        expect(len(octets) <= self.send_fragmented, f'the test wants to send {len(octets)} bytes')
        size = self.send_size - 24
        for at in range(0, len(octets), size):
            self.send_message(octets[at:at + size], max(0, len(octets) - at - size))

    def respond(self, request, count=None, stag=None, shift=0):
        """Answers an RDMA Read, or `count` bytes of it; shift: to a wrong place."""
        region, source = None, b''
        if request.length:
            region, source = self.memory.at(request.stag, request.source, request.length, 'r')
        end = len(source) if count is None else count
        stag = request.sink if stag is None else stag
        at = 0
        while True:
            part = source[at:min(at + self.segment, end)]
            last = at + len(part) >= len(source)
            self.frame(peer.tagged(b'', stag, request.to + at + shift, opcode=2, last=last), part)
            at += len(part)
            if at >= end:
                break
        if region:
            region.read += end

    def terminate(self):
        """As a card does after a protection fault; then the end is waited for."""
        try:
            self.frame(peer.TERMINATE)
            self.sock.shutdown(socket.SHUT_WR)
            self.wait_for_end()
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()

    # -- in

    def fill(self, view):
        while view:
            count = self.sock.recv_into(view)
            if not count:
                raise peer.Ended()
            view = view[count:]

    def pump(self, raw=False):
        """Takes one FPDU; raw: what is in a Send is no Data Transfer message."""
        head = self.read(16)
        length, ddp, rdmap = struct.unpack('>HBB', head[:4])
        expect(ddp & 3 == 1 and rdmap >> 6 == 1, f'the header of a segment: {head.hex()}')
        opcode, last = rdmap & 0xF, bool(ddp & 0x40)
        expect(bool(ddp & 0x80) == (opcode in (0, 2)), f'opcode {opcode} in a segment with T={ddp >> 7}')
        expect(length >= (14 if ddp & 0x80 else 18), f'a segment of {length} bytes')
        if ddp & 0x80:
            expect(opcode == 0, 'a Read Response, though nothing was read')
            stag, to = struct.unpack('>IQ', head[4:])
            payload = self.take_write(stag, to, length - 14, last)
            region = payload[0]
            self.fill(payload[1])
            self.trailer(head, payload[1], length)
            self.all_writes += last
            if region:
                region.written += length - 14
            return
        head += self.read(4)
        stag, queue, msn, offset = struct.unpack('>IIII', head[4:])
        payload = self.read(length - 18)
        self.trailer(head, payload, length)
        if opcode == 1:
            expect((queue, msn, offset, len(payload)) == (1, self.read_msn, 0, 28), 'a malformed Read Request')
            self.read_msn += 1
            self.take_read(ReadRequest(*struct.unpack('>IQIIQ', payload)))
        elif opcode == 7:
            raise Wrong(f'the server sent Terminate {payload[:4].hex()}')
        else:
            expect(opcode in (3, 4, 5, 6) and queue == 0, f'opcode {opcode} on queue {queue}')
            expect(msn == self.send_msn and offset == len(self.part), 'a Send out of sequence')
            self.part += payload
            expect(len(self.part) <= (32 if raw else self.receive_size), f'a Send of {len(self.part)} bytes')
            if last:
                octets, self.part = self.part, b''
                self.send_msn += 1
                invalidated = [stag] if opcode in (4, 6) else []
                if invalidated:
                    self.memory.invalidate(stag)
                if raw:
                    self.messages.append(Message(octets, invalidated))
                else:
                    self.take_data(octets, invalidated)

    def trailer(self, head, payload, length):
        rest = self.read(-(2 + length) % 4 + 4)
        if self.crc:
            octets = head + bytes(payload) + rest
            expect(peer.crc32c(octets[:-4]) == octets[-4:], 'a wrong CRC')

    def take_write(self, stag, to, length, last):
        if self.write:
            expect((stag, to) == self.write, f'RDMA Write {stag:#x} {to:#x} amidst another, {self.write}')
        self.write = None if last else (stag, to + length)
        return self.memory.at(stag, to, length, 'w') if length else (None, memoryview(b''))

    def take_read(self, request):
        self.all_reads += 1
        if request.length:
            self.memory.at(request.stag, request.source, request.length, 'r')
        self.reads.append(request)
        self.most_reads = max(self.most_reads, len(self.reads))
        expect(len(self.reads) <= self.ird, f'{len(self.reads)} RDMA Reads at once, though {self.ird} were agreed on')
        if self.answers:
            self.answer_all()

    def answer_all(self):
        while self.reads:
            self.respond(self.reads.popleft())

    def take_data(self, octets, invalidated):
        expect(len(octets) >= 20, f'an SMB Direct message of {len(octets)} bytes')
        wanted, granted, flags, _, remaining, offset, length = struct.unpack('<HHHHIII', octets[:20])
        expect(self.given > 0, 'an SMB Direct message without a credit')
        self.wanted = wanted
        self.given -= 1
        self.received += 1
        self.credits += granted
        if length:
            expect(offset >= 24 and offset % 8 == 0 and offset + length <= len(octets),
                   f'an SMB Direct header {octets[:24].hex()}')
            expect(not self.upper or self.upper_left == length + remaining, 'a wrong RemainingDataLength')
            self.upper.append(octets[offset:offset + length])
            self.upper_left = remaining
            self.upper_invalidated += invalidated
            if remaining == 0:
                message = b''.join(self.upper)
                expect(len(message) <= self.fragmented_size, f'a message of {len(message)} bytes')
                self.messages.append(Message(message, self.upper_invalidated))
                self.upper, self.upper_invalidated = [], []
        else:
            expect(not invalidated, 'an invalidate by an empty message')
        if not self.hold_credits and self.credits and (flags & 1 or self.given < self.wanted // 2):
            self.send_message(b'')


# ---- SMB2

class Reply:
    """An element of a message of the server; `invalidated` is of the whole message."""

    def __init__(self, octets, invalidated):
        self.octets, self.invalidated = octets, invalidated
        self.charge, = struct.unpack('<H', octets[6:8])
        self.status, self.command, self.granted, self.flags, self.next = struct.unpack('<IHHII', octets[8:24])
        self.mid, = struct.unpack('<Q', octets[24:32])
        self.tree, self.session = struct.unpack('<IQ', octets[36:48])
        self.body = octets[64:]


def ntlmssp_negotiate():
    return b'NTLMSSP\0' + struct.pack('<II', 1, 0x00088205) + b'\0' * 16


def ntlmssp_guest():
    """Of a user that does not exist: Samba's `map to guest = Bad User` makes a guest of him."""
    user, response = 'channel-peer'.encode('utf-16le'), os.urandom(24)
    fields, payload = b'', b''
    for part in b'', response, b'', user, b'', b'':  # LM response, NT response, domain, user, workstation, session key
        fields += struct.pack('<HHI', len(part), len(part), 64 + len(payload))
        payload += part
    return b'NTLMSSP\0' + struct.pack('<I', 3) + fields + struct.pack('<I', 0x00088205) + payload


class Client:
    def __init__(self, host, port, dialect=0x0311, channel=2, share='share', steps=3, **kw):
        self.dialect, self.channel, self.host = dialect, channel, host
        self.peer = Peer(host, port, **kw)
        self.next_mid, self.credits = 0, 1
        self.session = self.tree = 0
        self.waiting = {}  # MessageId: (command, what to do at the final reply)
        self.replies = {}
        self.interims = self.finals = 0
        self.interim_of = set()
        for step in (self.negotiate, self.set_up_session, lambda: self.connect_tree(share))[:steps]:
            step()

    # -- messages

    def header(self, command, charge=1, flags=0, mid=None, session=None, tree=None, following=0, signature=b'\0' * 16):
        wish = 512 if self.credits < 4096 else charge
        return (b'\xfeSMB' + struct.pack('<HHIHHIIQIIQ', 64, charge, 0, command, wish, flags, following, mid, 0xFEFF,
                                         self.tree if tree is None else tree,
                                         self.session if session is None else session) + signature)

    def take_mid(self, charge, command, on_final=None):
        while self.credits < charge:
            self.pump()
        mid = self.next_mid
        self.credits -= charge
        self.next_mid += charge
        self.waiting[mid] = (command, on_final)
        return mid

    def post(self, command, body, charge=1, on_final=None, mid=None, **kw):
        """Sends a request; its MessageId. mid: an own one, for what no client should do."""
        if mid is None:
            mid = self.take_mid(charge, command, on_final)
        self.peer.send_upper(self.header(command, charge, mid=mid, **kw) + body)
        return mid

    def post_compound(self, elements, related=True):
        """elements: (command, body, charge, on_final)"""
        out, mids = b'', []
        for number, (command, body, charge, on_final) in enumerate(elements):
            mid = self.take_mid(charge, command, on_final)
            mids.append(mid)
            following = 0
            if number + 1 < len(elements):
                body += b'\0' * (-len(body) % 8)
                following = 64 + len(body)
            kw = {'flags': RELATED, 'tree': 0xFFFFFFFF, 'session': 0xFFFFFFFFFFFFFFFF} if number and related else {}
            out += self.header(command, charge, mid=mid, following=following, **kw) + body
        self.peer.send_upper(out)
        return mids

    def pump(self):
        """Takes one FPDU and what came whole by it."""
        self.peer.pump()
        while self.peer.messages:
            self.take(self.peer.messages.popleft())

    def take(self, message):
        octets, final = message.octets, False
        while True:
            expect(len(octets) >= 66 and octets[:4] == b'\xfeSMB', f'a message that is not SMB2: {octets[:80].hex()}')
            following, = struct.unpack('<I', octets[20:24])
            expect(following == 0 or following % 8 == 0 and 64 < following < len(octets), f'NextCommand {following}')
            reply = Reply(octets[:following] if following else octets, message.invalidated)
            final |= self.take_reply(reply)
            if not following:
                break
            octets = octets[following:]
        expect(final or not message.invalidated, 'an interim reply that invalidates')

    def take_reply(self, reply):
        expect(reply.mid in self.waiting, f'a reply to MessageId {reply.mid} (command {reply.command}, status '
               f'{reply.status:#x}), for which none is due')
        command, on_final = self.waiting[reply.mid]
        expect(reply.command == command and reply.flags & SERVER_TO_REDIR,
               f'a reply of command {reply.command} to {command}')
        self.credits += reply.granted
        if reply.status == PENDING and reply.flags & ASYNC:
            expect(reply.mid not in self.interim_of, 'a second interim reply')
            self.interims += 1
            self.interim_of.add(reply.mid)
            return False
        self.finals += 1
        self.interim_of.discard(reply.mid)
        del self.waiting[reply.mid]
        self.replies[reply.mid] = reply
        if on_final:
            on_final(reply)
        return True

    def pump_until_quiet(self, seconds):
        while select.select([self.peer.sock], [], [], seconds)[0]:
            self.pump()

    def wait(self, mid):
        while mid not in self.replies:
            self.pump()
        return self.replies.pop(mid)

    def call(self, command, body, status=OK, **kw):
        reply = self.wait(self.post(command, body, **kw))
        expect(reply.status == status, f'command {command}: status {reply.status:#010x}, not {status:#010x}')
        return reply

    # -- the way to a file

    def negotiate(self):
        dialects = [self.dialect]
        body = struct.pack('<HHHHI16s', 36, len(dialects), 1, 0, 4, os.urandom(16))
        if self.dialect == 0x0311:
            at = (64 + 36 + 2 * len(dialects) + 7) & ~7
            body += struct.pack('<IHH', at, 1, 0) + struct.pack('<H', self.dialect)
            body += b'\0' * (at - 64 - len(body))
            body += struct.pack('<HHIHHH', 1, 38, 0, 1, 32, 1) + os.urandom(32)  # preauth integrity: SHA-512, salt
        else:
            body += b'\0' * 8 + struct.pack('<H', self.dialect)
        reply = self.call(NEGOTIATE, body)
        dialect, = struct.unpack('<H', reply.octets[68:70])
        expect(dialect == self.dialect, f'dialect {dialect:#x}')
        self.max_trans, self.max_read, self.max_write = struct.unpack('<III', reply.octets[92:104])

    def set_up_session(self):
        for blob, status in (ntlmssp_negotiate(), MORE_PROCESSING), (ntlmssp_guest(), OK):
            body = struct.pack('<HBBIIHHQ', 25, 0, 1, 0, 0, 88, len(blob), 0) + blob
            self.session = self.call(SESSION_SETUP, body, status).session

    def connect_tree(self, share):
        name = f'\\\\{self.host}\\{share}'.encode('utf-16le')
        self.tree = self.call(TREE_CONNECT, struct.pack('<HHHH', 9, 0, 72, len(name)) + name).tree

    @staticmethod
    def create_body(name, disposition=3, access=0x12019F, options=0x40):
        """disposition: 1 open, 2 create, 3 open or create, 5 overwrite"""
        name = name.encode('utf-16le')
        return struct.pack('<HBBIQQIIIIIHHII', 57, 0, 0, 2, 0, 0, access, 0x80, 7, disposition, options, 120, len(name),
                           0, 0) + name

    def create(self, name, **kw):
        return self.call(CREATE, self.create_body(name, **kw)).octets[128:144]

    @staticmethod
    def close_body(file_id=SAME_FILE):
        return struct.pack('<HHI16s', 24, 0, 0, file_id)

    def close(self, file_id):
        self.call(CLOSE, self.close_body(file_id))

    def delete(self, name):
        self.close(self.create(name, disposition=1, access=0x00110080, options=0x1040))

    # -- inline

    @staticmethod
    def read_body(file_id, offset, length, minimum=0):
        return struct.pack('<HBBIQ16sIIIHH', 49, 0, 0, length, offset, file_id, minimum, 0, 0, 0, 0) + b'\0'

    @staticmethod
    def write_body(file_id, offset, data):
        return struct.pack('<HHIQ16sIIHHI', 49, 112, len(data), offset, file_id, 0, 0, 0, 0, 0) + data

    def read_inline(self, file_id, offset, length):
        data = b''
        while len(data) < length:
            count = min(length - len(data), 524288)
            reply = self.call(READ, self.read_body(file_id, offset + len(data), count), charge=charge_of(count))
            data += inline_data(reply)
        return data

    def write_inline(self, file_id, offset, data):
        for at in range(0, len(data), 524288):
            part = data[at:at + 524288]
            reply = self.call(WRITE, self.write_body(file_id, offset + at, part), charge=charge_of(len(part)))
            expect(reply.octets[68:72] == struct.pack('<I', len(part)), 'an inline WRITE that is short')
            expect(not reply.invalidated, 'an invalidate by the reply to an inline request')

    def leave(self):
        """Nothing may be left over."""
        expect(not self.waiting, f'replies that did not come: {sorted(self.waiting)}')
        self.peer.sock.close()


def charge_of(length):
    return max(1, (length + 65535) // 65536)


def inline_data(reply):
    expect(not reply.invalidated, 'an invalidate by the reply to an inline request')
    offset, length, remaining = struct.unpack('<BxII', reply.octets[66:76])
    expect(offset == 80 and remaining == 0 and len(reply.octets) >= 80 + length, 'a malformed inline READ reply')
    return reply.octets[80:80 + length]


# ---- READ and WRITE by channel

def channel_body(command, file_id, offset, amount, descriptors, channel, gap=0, minimum=0, info_offset=None,
                 info_length=None, length=None, remaining=None, data_offset=0, tail=b''):
    """Everything may be overridden, for what no client should send. gap: before the descriptors; tail: after them."""
    info = b''.join(struct.pack('<QII', *one) for one in descriptors)
    where = 112 + gap if info_offset is None else info_offset
    size = len(info) if info_length is None else info_length
    if command == READ:
        body = struct.pack('<HBBIQ16sIIIHH', 49, 0, 0, amount if length is None else length, offset, file_id, minimum,
                           channel, 0 if remaining is None else remaining, where, size)
    else:
        body = struct.pack('<HHIQ16sIIHHI', 49, data_offset, 0 if length is None else length, offset, file_id, channel,
                           amount if remaining is None else remaining, where, size, 0)
    return body + b'\xee' * gap + info + tail


class Transfer:
    """One READ or WRITE by channel; `sizes` are those of its descriptors. Channel 0: inline, to try the test itself."""

    def __init__(self, client, command, file_id, offset, amount=None, sizes=None, data=None, descriptors=None,
                 regions=None, **kw):
        self.client, self.command, self.offset = client, command, offset
        self.data = data
        self.amount = amount = len(data) if amount is None else amount
        self.channel = kw.pop('channel', client.channel)
        self.charge = kw.pop('charge', charge_of(amount))
        self.reply = None
        memory = client.peer.memory
        if regions is None:
            sizes, regions, at = sizes or [amount], [], 0
            for size in sizes:
                content = (data or b'')[at:at + size].ljust(size, b'\xaa')
                regions.append(memory.register(bytearray(content), 'r' if command == WRITE else 'w'))
                at += size
        self.regions = regions
        self.descriptors = descriptors or [region.descriptor() for region in regions]
        if self.channel == 0:
            self.body = (client.write_body(file_id, offset, data) if command == WRITE else
                         client.read_body(file_id, offset, amount, kw.get('minimum', 0)))
        else:
            self.body = channel_body(command, file_id, offset, amount, self.descriptors, self.channel, **kw)

    def element(self):
        return self.command, self.body, self.charge, self.on_final

    def post(self, **kw):
        self.mid = self.client.post(self.command, self.body, charge=self.charge, on_final=self.on_final, **kw)
        return self

    def on_final(self, reply):
        """At once, not when somebody asks: after its reply a server touches nothing."""
        self.reply = reply
        self.seen_alive = [region.alive for region in self.regions]
        for region in self.regions:
            region.alive = False

    def wait(self):
        while self.reply is None:
            self.client.pump()
        self.client.replies.pop(self.reply.mid, None)
        for region in self.regions:
            self.client.peer.memory.forget(region)
        return self.reply

    def octets(self):
        """What a READ has found."""
        if self.channel == 0:
            return inline_data(self.reply)
        return b''.join(region.data for region in self.regions)[:struct.unpack('<I', self.reply.octets[72:76])[0]]

    def check_invalidated(self, first_of_compound=True, refused=False):
        """Channel 2 invalidates the first token and nothing else, on errors too; refused: as if it were no channel."""
        expected = ([self.descriptors[0][1]] if self.channel == 2 and self.client.dialect != 0x300 and not refused and
                    first_of_compound else [])
        found = self.reply.invalidated
        expect(not first_of_compound or found == expected, f'invalidated were {[hex(t) for t in found]}, not '
               f'{[hex(t) for t in expected]} (status {self.reply.status:#010x})')

    def finish(self, status=OK, got=UNKNOWN, expected=None, **kw):
        """Checks the reply and each byte; `got`: how many a READ has found."""
        reply = self.wait()
        what = (f'{"READ" if self.command == READ else "WRITE"} of {self.amount} bytes at {self.offset}, '
                f'channel {self.channel}')
        expect(reply.status == status, f'{what}: status {reply.status:#010x}, not {status:#010x}')
        if self.channel == 0:
            self.finish_inline(what, got, expected)
            return reply
        self.check_invalidated(**kw)
        written = sum(region.written for region in self.regions)
        read = sum(region.read for region in self.regions)
        if status not in (OK, BUFFER_OVERFLOW):
            expect(written == 0, f'{what}: failed, but {written} bytes were placed')
            expect(len(reply.octets) >= 72 and reply.octets[64:66] == b'\x09\0', f'{what}: a malformed error')
        elif self.command == WRITE:
            count, left = struct.unpack('<II', reply.octets[68:76])
            expect(reply.octets[64:66] == b'\x11\0' and len(reply.octets) >= 80, f'{what}: a malformed reply')
            expect(count == self.amount, f'{what}: Count {count}')
            expect(left == 0, f'{what}: Remaining {left}')
            expect(read == self.amount, f'{what}: {read} bytes were fetched')
        else:
            size, offset, length, remaining, flags = struct.unpack('<HBxIII', reply.octets[64:80])
            expect(size == 17 and offset == 80, f'{what}: StructureSize {size}, DataOffset {offset}')
            # Of a compound's elements but the last, the alignment is in there.
            expect(len(reply.octets) == 80, f'{what}: a reply of {len(reply.octets)} bytes')
            expect(length == 0, f'{what}: DataLength {length}')
            expect(flags == 0, f'{what}: Flags {flags:#x}')
            got = self.amount if got == UNKNOWN else got
            expect(remaining == got, f'{what}: DataRemaining {remaining}, not {got}')
            expect(written == got, f'{what}: {written} bytes were placed, not {got}')
            if expected is not None:
                found = b''.join(region.data for region in self.regions)
                if found[:got] != expected[:got]:
                    raise Wrong(f'{what}: {difference(found[:got], expected[:got])}')
                expect(not found[got:].strip(b'\xaa'), f'{what}: bytes behind the {got} that were read have changed')
        return reply

    def finish_inline(self, what, got, expected):
        if self.reply.status not in (OK, BUFFER_OVERFLOW):
            return
        if self.command == WRITE:
            expect(self.reply.octets[68:72] == struct.pack('<I', self.amount), f'{what}: short')
            return
        data = inline_data(self.reply)
        got = self.amount if got == UNKNOWN else got
        expect(len(data) == got, f'{what}: {len(data)} bytes, not {got}')
        expect(expected is None or data == expected[:got], f'{what}: other bytes')


def difference(found, expected):
    at = next(i for i in range(len(found)) if found[i] != expected[i])
    return f'other bytes from {at} on: {found[at:at + 8].hex()}, not {expected[at:at + 8].hex()}'
