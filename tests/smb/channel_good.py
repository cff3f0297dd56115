"""The well-behaved client of channel_peer.py: what any server with RDMA channels must do for it."""
import os
import random
import struct
import time
import uuid

import peer
from smb2_client import *

MIB = 1 << 20


def octets(length):
    return random.randbytes(length)


class Good:
    def __init__(self, args):
        self.args = args
        self.c = Client(args.host, args.port, args.dialect, args.channel, ird=args.ird, crc=args.crc,
                        segment=args.segment)
        self.most = MIB if args.small or args.channel == 0 else 8 * MIB
        self.names = []
        self.inline = args.channel == 0
        if self.inline:
            self.most = 512 * 1024

    def file(self, content=None):
        name = f'chan.{os.getpid()}.{len(self.names)}'
        self.names.append(name)
        file_id = self.c.create(name)
        if content is not None:
            self.c.write_inline(file_id, 0, content)
        return name, file_id

    def on_disk(self, name, content):
        if self.args.share:
            with open(os.path.join(self.args.share, name), 'rb') as file:
                found = file.read()
            expect(found == content, f'{name} on disk has {len(found)} bytes, not the {len(content)} that were written')

    def write(self, file_id, offset, data, **kw):
        return Transfer(self.c, WRITE, file_id, offset, data=data, **kw).post()

    def read(self, file_id, offset, amount, **kw):
        return Transfer(self.c, READ, file_id, offset, amount, **kw).post()

    def there_and_back(self, length, **kw):
        data = octets(length)
        name, file_id = self.file()
        self.write(file_id, 0, data, **kw).finish()
        self.read(file_id, 0, length, **kw).finish(expected=data)
        expect(self.c.read_inline(file_id, 0, min(length, 65536)) == data[:65536], 'read inline, it differs')
        self.on_disk(name, data)
        self.c.close(file_id)

    # -- the tests, in this order

    def sizes(self):
        for length in 1, 4095, 4096, 8192, 65536, 65537, MIB, 8 * MIB:
            if length <= self.most:
                self.there_and_back(length)

    def from_inline(self):
        data = octets(300001)
        _, file_id = self.file(data)
        self.read(file_id, 0, len(data)).finish(expected=data)
        self.read(file_id, 77777, 100000).finish(expected=data[77777:])

    def offsets(self):
        """WRITEs over one another."""
        content = bytearray(octets(200000))
        name, file_id = self.file(bytes(content))
        for offset, length in (5, 70001), (199999, 1), (65535, 65538), (0, 1):
            data = octets(length)
            content[offset:offset + length] = data
            self.write(file_id, offset, data).finish()
        self.read(file_id, 0, len(content)).finish(expected=content)
        self.on_disk(name, content)

    def descriptors(self):
        odd = [1, 4095, 3, 8191, 65537, 7]
        self.there_and_back(sum(odd), sizes=odd)
        self.there_and_back(self.most // 2, sizes=[self.most // 6 + 1, self.most // 6 + 3, self.most // 6])
        # More room than is used: in the last one, and whole ones.
        self.there_and_back(8000, sizes=[1000, 5000, 9000])
        self.there_and_back(8192, sizes=[8192, 100, 1])

    def info_offsets(self):
        for gap in 8, 17, 400, 30000:
            self.there_and_back(9000, sizes=[5001, 3999], gap=gap)
        self.there_and_back(9000, tail=b'\xdd' * 333)
        self.there_and_back(9000, sizes=[4500, 4500], gap=3, tail=b'\xdd')

    def read_hint(self):
        """RemainingBytes of a READ is a hint and nothing else."""
        data = octets(9000)
        _, file_id = self.file(data)
        for hint in 1, 9000, 0xFFFFFFFF:
            self.read(file_id, 0, 9000, **({} if self.inline else {'remaining': hint})).finish(expected=data)

    def parts_of_one_buffer(self):
        """Descriptors in one registered buffer, backwards; the reply invalidates the one token they share."""
        if self.inline:
            return
        data = octets(30000)
        _, file_id = self.file()
        region = self.c.peer.memory.register(bytearray(data[20000:] + data[10000:20000] + data[:10000]), 'r')
        parts = [region.descriptor(20000, 10000), region.descriptor(10000, 10000), region.descriptor(0, 10000)]
        self.write(file_id, 0, data, regions=[region], descriptors=parts).finish()
        expect(self.c.read_inline(file_id, 0, 30000) == data, 'WRITE from parts of one buffer: read inline, it differs')
        region = self.c.peer.memory.register(bytearray(30000), 'w')
        parts = [region.descriptor(20000, 10000), region.descriptor(10000, 10000), region.descriptor(0, 10000)]
        self.read(file_id, 0, 30000, regions=[region], descriptors=parts).finish()
        expect(region.data[20000:] + region.data[10000:20000] + region.data[:10000] == data,
               'READ to parts of one buffer: it differs')

    def long_descriptor(self):
        """It says more than is registered, and more than 2 GiB in all; only what is used counts."""
        if self.inline:
            return
        data = octets(5000)
        _, file_id = self.file(data)
        for command, right in (READ, 'w'), (WRITE, 'r'):
            region = self.c.peer.memory.register(bytearray(data), right)
            two = [region.descriptor(length=0xFFFFFFFF), region.descriptor(length=0xFFFFFFFF)]
            Transfer(self.c, command, file_id, 0, 5000, regions=[region], descriptors=two).post().finish()
        expect(self.c.read_inline(file_id, 0, 5000) == data, 'read inline, it differs')

    def many_descriptors(self):
        """As many as the two bytes of the length can say; the request takes many fragments."""
        sizes = [1 + i % 9 for i in range(4095)]
        self.there_and_back(sum(sizes), sizes=sizes)
        sizes = [1 + i * 7 % 401 for i in range(1000)]
        self.there_and_back(sum(sizes) - 5, sizes=sizes)

    def pipelined(self):
        sizes = [1 + (i * 262147 + i * i * 3001) % (self.most // 4) for i in range(16)]
        starts = [sum(sizes[:i]) for i in range(16)]
        data = octets(sum(sizes))
        pieces = [data[start:start + size] for start, size in zip(starts, sizes)]
        name, file_id = self.file()
        for op in [self.write(file_id, start, piece) for start, piece in zip(starts, pieces)]:
            op.finish()
        for op, piece in [(self.read(file_id, start, len(piece)), piece) for start, piece in zip(starts, pieces)]:
            op.finish(expected=piece)
        self.on_disk(name, data)
        # Everything at once, and inline requests in between.
        _, other = self.file()
        ops = []
        for start, piece in zip(starts, pieces):
            ops.append((self.write(other, start, piece, sizes=[len(piece) // 2 + 1, len(piece)]), None))
            ops.append((self.read(file_id, start, len(piece)), piece))
            if not self.inline:
                ops.append((Transfer(self.c, READ, file_id, start, min(1000, len(piece)), channel=0).post(), piece))
                ops.append((Transfer(self.c, WRITE, other, start, data=piece[:1000], channel=0).post(), None))
        for op, piece in ops:
            op.finish(**({'expected': piece} if piece else {}))
        self.read(other, 0, 300000).finish(expected=data[:300000])

    def late_answers(self):
        """RDMA Reads that are answered when many are due."""
        if self.inline:
            return
        data = octets(16 * 20000)
        _, file_id = self.file()
        self.c.peer.answers = False
        ops = [self.write(file_id, 20000 * i, data[20000 * i:20000 * (i + 1)], sizes=[9999, 10001]) for i in range(16)]
        self.c.pump_until_quiet(0.3)
        expect(self.c.peer.reads, 'no RDMA Read for 16 WRITEs')
        # The server is not deaf meanwhile.
        received = self.c.peer.received
        self.c.peer.send_message(b'', flags=1)
        while self.c.peer.received == received:
            self.c.pump()
        self.c.peer.answers = True
        self.c.peer.answer_all()
        for op in ops:
            op.finish()
        self.read(file_id, 0, len(data)).finish(expected=data)

    def slow_reader(self):
        """What the server places finds the socket full for a while."""
        length = self.most // 4
        data = octets(length)
        _, file_id = self.file()
        self.write(file_id, 0, data).finish()
        ops = [self.read(file_id, 0, length) for _ in range(16)]
        time.sleep(1.5)
        for op in ops:
            op.finish(expected=data)

    def late_credits(self):
        """The server has more to say than it has SMB Direct credits for."""
        data = octets(30000)
        _, file_id = self.file(data)
        self.c.peer.hold_credits = True
        ops = []
        while self.c.peer.credits > 2 and self.c.credits > 2 and len(ops) < 600:
            ops.append(self.read(file_id, len(ops), 4096))
            if len(ops) % 100 == 0:
                self.c.pump_until_quiet(0.1)
        self.c.pump_until_quiet(0.3)
        self.c.peer.hold_credits = False
        self.c.peer.send_message(b'')
        for op in ops:
            op.finish(expected=data[op.offset:])

    def small_fragments(self):
        whole = self.c.peer.send_size, self.c.peer.segment
        for size, segment in (1, 1), (7, 3), (111, 1000), (112, 4095), (127, 65521):
            self.c.peer.send_size, self.c.peer.segment = 24 + size, segment
            data = octets(9001)
            name = f'chan.{os.getpid()}.fragments.{size}'
            self.names.append(name)
            self.compound(name, Transfer(self.c, WRITE, SAME_FILE, 0, data=data, sizes=[9000, 3])).finish()
            file_id = self.c.create(name)
            self.read(file_id, 0, 9001, sizes=[1, 9000]).finish(expected=data)
            self.write(file_id, 1, data, sizes=[1, 9000]).finish()
            self.on_disk(name, data[:1] + data)
            self.c.close(file_id)
        self.c.peer.send_size, self.c.peer.segment = whole

    def end_of_file(self):
        data = octets(10000)
        _, file_id = self.file(data)
        self.read(file_id, 0, 65536).finish(got=10000, expected=data)
        self.read(file_id, 6000, 9000, sizes=[1000, 2000, 6000]).finish(got=4000, expected=data[6000:])
        self.read(file_id, 9999, 8192).finish(got=1, expected=data[9999:])
        self.read(file_id, 0, 20000, minimum=10000).finish(got=10000, expected=data)
        self.read(file_id, 10000, 8192).finish(END_OF_FILE)
        self.read(file_id, 1 << 40, 1).finish(END_OF_FILE)
        self.read(file_id, 9000, 8192, minimum=1001).finish(END_OF_FILE)

    def closed_file(self):
        data = octets(50000)
        _, file_id = self.file(data)
        self.c.close(file_id)
        self.read(file_id, 0, 50000).finish(FILE_CLOSED)
        self.write(file_id, 0, data).finish(FILE_CLOSED)
        self.read(file_id, 0, 10, sizes=[3, 7]).finish(FILE_CLOSED)

    def refused_by_the_program(self):
        """Each error invalidates as a success does."""
        data = octets(50000)
        name, file_id = self.file(data)
        for offset in 1 << 63, (1 << 64) - 1, (1 << 63) - 10:
            for op in self.read(file_id, offset, 8192), self.write(file_id, offset, data):
                status = op.wait().status
                expect(status >= 0xC0000000, f'at offset {offset:#x}: {status:#010x}')
                op.finish(status)
        readable = self.c.create(name, disposition=1, access=0x00120089)
        self.write(readable, 0, data).finish(ACCESS_DENIED)
        writable = self.c.create(name, disposition=1, access=0x00120116)
        self.read(writable, 0, 50000).finish(ACCESS_DENIED)
        for command, kw in (READ, {'amount': 50000}), (WRITE, {'data': data}):
            Transfer(self.c, command, file_id, 0, **kw).post(session=self.c.session ^ 0x10101).finish(SESSION_DELETED)
            Transfer(self.c, command, file_id, 0, **kw).post(tree=self.c.tree ^ 0x10101).finish(NAME_DELETED)
        self.on_disk(name, data)

    def pipe(self):
        """A READ may find more than it has asked for; then its status is BUFFER_OVERFLOW, and its data count."""
        c = self.c
        tree = c.tree
        c.connect_tree('IPC$')
        file_id = c.create('srvsvc', disposition=1)
        interface = '4b324fc8-1670-01d3-1278-5a47bf6ee188', 3
        ndr = '8a885d04-1ceb-11c9-9fe8-08002b104860', 2
        syntaxes = b''.join(uuid.UUID(name).bytes_le + struct.pack('<I', version) for name, version in (interface, ndr))
        bind = struct.pack('<HHIIHBB', 4280, 4280, 0, 1, 0, 1, 0) + syntaxes
        bind = struct.pack('<BBBBIHHI', 5, 0, 11, 3, 0x10, 16 + len(bind), 0, 1) + bind
        self.write(file_id, 0, bind).finish()
        first = self.read(file_id, 0, 16)
        first.finish(BUFFER_OVERFLOW if first.wait().status == BUFFER_OVERFLOW else OK)
        head = first.octets()
        expect(head[:4] == b'\5\0\x0c\3', f'a bind_ack that begins with {head.hex()}')
        length, = struct.unpack('<H', head[8:10])
        self.read(file_id, 0, 4096).finish(got=length - 16)
        c.close(file_id)
        c.tree = tree

    def token_again(self):
        """With V1 the client's key stays what it is [MS-SMB2] 3.3.5.12; it may be used again."""
        if self.args.channel != 1:
            return
        data = octets(9000)
        _, file_id = self.file(data)
        region = self.c.peer.memory.register(bytearray(9000), 'w')
        for offset in 0, 100, 200:
            region.alive, region.written = True, 0
            self.c.peer.memory.regions[region.stag] = region
            self.read(file_id, offset, 8000, regions=[region]).finish()
            expect(region.data[:8000] == data[offset:offset + 8000], 'with a token again: it differs')

    def compounds(self):
        for length in 1, 5003, min(self.most, MIB):
            data = octets(length)
            name = f'chan.{os.getpid()}.compound.{length}'
            op = Transfer(self.c, WRITE, SAME_FILE, 0, data=data, sizes=[length, 16])
            self.compound(name, op).finish(refused=self.inline)
            self.on_disk(name, data)
            self.compound(name, Transfer(self.c, READ, SAME_FILE, 0, length)).finish(expected=data)
            self.compound(name, Transfer(self.c, READ, SAME_FILE, length, 100)).finish(END_OF_FILE)
            self.names.append(name)

    def compound(self, name, *ops, status=OK):
        """CREATE, these, CLOSE."""
        elements = [(CREATE, self.c.create_body(name), 1, None)]
        elements += [op.element() for op in ops]
        elements.append((CLOSE, self.c.close_body(), 1, None))
        mids = self.c.post_compound(elements)
        first, last = self.c.wait(mids[0]), self.c.wait(mids[-1])
        expect(first.status == OK and last.status == OK, f'CREATE and CLOSE: {first.status:#010x}, {last.status:#010x}')
        return ops[0]

    def compounds_of_several(self):
        """One message invalidates one token: the first."""
        data = octets(40000)
        name = f'chan.{os.getpid()}.several'
        self.names.append(name)
        ops = [Transfer(self.c, WRITE, SAME_FILE, start, data=data[start:start + 10000], sizes=[3333, 6667])
               for start in range(0, 40000, 10000)]
        self.compound(name, *ops)
        # smbd may send what is done before the rest: then each message invalidates one.
        invalidated = set()
        for op in ops:
            op.finish(first_of_compound=op is ops[0])
            invalidated |= set(op.reply.invalidated)
        expect(invalidated <= {op.descriptors[0][1] for op in ops}, 'an invalidate of what is no first descriptor')
        expect(self.args.channel == 2 or not invalidated, 'an invalidate')
        file_id = self.c.create(name)
        self.on_disk(name, data)
        # Not related, each with its file; also inline ones among them.
        reads = [Transfer(self.c, READ, file_id, start, 10000, sizes=[9000, 2000]) for start in range(0, 40000, 10000)]
        inline = Transfer(self.c, READ, file_id, 123, 4567, channel=0)
        reads.insert(1, inline)
        self.c.post_compound([op.element() for op in reads], related=False)
        for op in reads:
            op.wait()
            if op is inline:
                expect(inline_data_of_compound(op.reply) == data[123:4690], 'an inline READ of a compound differs')
            else:
                op.finish(first_of_compound=op is reads[0], expected=data[op.offset:])

    def compound_of_a_missing_file(self):
        op = Transfer(self.c, WRITE, SAME_FILE, 0, data=octets(5000))
        create = CREATE, self.c.create_body('there/is/none', disposition=1), 1, None
        mids = self.c.post_compound([create, op.element()])
        status = self.c.wait(mids[0]).status
        expect(status >= 0xC0000000, f'CREATE of a file in no directory: {status:#010x}')
        op.finish(status)

    def long_compound(self):
        """No channel in it: it is as it ever was. Its first element is shorter than a READ."""
        data = octets(250000)
        _, file_id = self.file(b'x')
        name = f'chan.{os.getpid()}.long'
        self.names.append(name)
        mids = self.c.post_compound([(CLOSE, self.c.close_body(file_id), 1, None)], related=False)
        self.c.wait(mids[0])
        _, file_id = self.file(b'x')
        elements = [(CLOSE, self.c.close_body(file_id), 1, None), (CREATE, self.c.create_body(name), 1, None)]
        body = self.c.write_body(SAME_FILE, 0, data)
        elements += [(WRITE, body, charge_of(len(data)), None), (CLOSE, self.c.close_body(), 1, None)]
        flags = [0, 0, RELATED, RELATED]
        mids = self.mixed_compound(elements, flags)
        for mid in mids:
            status = self.c.wait(mid).status
            expect(status == OK, f'a long compound without a channel: {status:#010x}')
        self.on_disk(name, data)

    def mixed_compound(self, elements, flags):
        out, mids = b'', []
        for number, ((command, body, charge, on_final), flag) in enumerate(zip(elements, flags)):
            mids.append(self.c.take_mid(charge, command, on_final))
            following = 0
            if number + 1 < len(elements):
                body += b'\0' * (-len(body) % 8)
                following = 64 + len(body)
            kw = {'tree': 0xFFFFFFFF, 'session': 0xFFFFFFFFFFFFFFFF} if flag & RELATED else {}
            out += self.c.header(command, charge, mid=mids[-1], following=following, flags=flag, **kw) + body
        self.c.peer.send_upper(out)
        return mids

    def cancelled(self):
        data = octets(self.most // 2)
        _, file_id = self.file(data)
        for command, kw in (READ, {'amount': len(data)}), (WRITE, {'data': data}):
            op = Transfer(self.c, command, file_id, 0, **kw).post()
            self.c.peer.send_upper(self.c.header(CANCEL, 0, mid=op.mid) + struct.pack('<HH', 4, 0))
            status = op.wait().status
            expect(status in (OK, CANCELLED), f'after a CANCEL: {status:#010x}')
            op.finish(status)

    TESTS = (sizes, from_inline, offsets, descriptors, info_offsets, read_hint, parts_of_one_buffer, long_descriptor,
             many_descriptors, pipelined, late_answers, late_credits, slow_reader, small_fragments, end_of_file,
             closed_file, refused_by_the_program, pipe, token_again, compounds, compounds_of_several,
             compound_of_a_missing_file, long_compound, cancelled)

    def run(self):
        if self.args.dialect == 0x0210 and not self.inline and not self.served_under_2():
            return
        expect(self.c.peer.max_transfer >= 8 * MIB, f'a MaxReadWriteSize of {self.c.peer.max_transfer}')
        for test in self.TESTS:
            if self.args.only and test.__name__ not in self.args.only:
                continue
            started = time.monotonic()
            try:
                test(self)
            except (peer.Ended, OSError) as error:
                raise Wrong(f'{test.__name__}: the connection ended: {error!r}') from error
            except (Wrong, Refused) as error:
                raise type(error)(f'{test.__name__}: {error}') from error
            if self.args.verbose:
                print(f'{test.__name__:28} {time.monotonic() - started:.2f} s')
        for name in self.names:
            self.c.delete(name)
        self.c.leave()
        p = self.c.peer
        print(f'dialect {self.args.dialect:#06x}, channel {self.args.channel}: {self.c.finals} replies, '
              f'{self.c.interims} interim; {p.all_reads} RDMA Reads, at most {p.most_reads} at once, '
              f'{p.all_writes} Writes')

    def served_under_2(self):
        """Dialects 2.x have no channels: a server refuses them, or does them all the same; never anything else."""
        data = octets(9000)
        _, file_id = self.file(data)
        op = self.read(file_id, 0, len(data))
        if op.wait().status == OK:
            op.finish(expected=data)
            return True
        op.finish(INVALID_PARAMETER, refused=not op.reply.invalidated)
        op = self.write(file_id, 0, data)
        op.finish(INVALID_PARAMETER, refused=not op.wait().invalidated)
        expect(self.c.read_inline(file_id, 0, 9000) == data, 'a WRITE that was refused has written')
        print(f'dialect {self.args.dialect:#06x}, channel {self.args.channel}: refused')
        return False


def inline_data_of_compound(reply):
    offset, length = struct.unpack('<BxI', reply.octets[66:72])
    return reply.octets[offset:offset + length]
