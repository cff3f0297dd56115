#!/usr/bin/python3
"""A client that moves its payload by SMB2 RDMA channels, over SMB Direct on iWARP; and one that abuses them.

  channel_peer.py good HOST PORT [OPTION...]   is well-behaved: files there and back, each byte and each reply checked
  channel_peer.py bad CASE HOST PORT           misbehaves in one way; the table is at the end, `cases` prints the names
  channel_peer.py victim fetch | place | idle HOST PORT   says "ready" amid transfers and waits for the connection's end
      --dialect 0x0311 | 0x0302 | 0x0300 | 0x0210
      --channel 2 | 1       SMB2_CHANNEL_RDMA_V1_INVALIDATE or SMB2_CHANNEL_RDMA_V1; 0: inline, to try this test itself
      --share DIRECTORY     where the share lies, to compare files there too
      --ird N, --segment BYTES, --crc   of the iWARP connection
      --small               nothing above 1 MiB

Exits with 0 if all is as it must be; else says what was wrong.
"""
import argparse
import os
import random
import select
import sys
import time

import peer
from channel_good import MIB, Good, octets
from smb2_client import *


class Bad:
    """A connection for a case, and the file that it reads and writes."""
    length = 65536

    def __init__(self, args, **kw):
        self.args = args
        self.name = f'bad.{os.getpid()}'
        self.data = octets(self.length)
        self.c = self.connect(**kw)
        self.file_id = self.c.create(self.name)
        self.c.write_inline(self.file_id, 0, self.data)

    def connect(self, dialect=None, channel=None, **kw):
        kw.setdefault('ird', self.args.ird)
        return Client(self.args.host, self.args.port, dialect or self.args.dialect, channel or self.args.channel, **kw)

    def op(self, command, amount=8192, **kw):
        if command == WRITE and 'data' not in kw and 'regions' not in kw:
            kw['data'] = self.data[:amount]
        return Transfer(self.c, command, self.file_id, 0, amount, **kw)

    def buffer(self, command, length=8192):
        return self.c.peer.memory.register(bytearray(length), 'r' if command == WRITE else 'w')

    def still_well(self, unchanged=True):
        """The same connection serves on."""
        if self.c.dialect == 0x300:
            self.c.channel = 1
        op = Transfer(self.c, READ, self.file_id, 0, self.length).post()
        op.finish(expected=self.data if unchanged else None)

    def refused(self, command, invalidates, **kw):
        op = self.op(command, **kw).post()
        op.finish(INVALID_PARAMETER, refused=not invalidates)
        expect(sum(region.read for region in op.regions) == 0, 'a request was refused whose data were fetched')
        self.still_well()

    def ended(self, *ops, what='the server', errors=False):
        """Until the connection ends. No success may come for these; errors: nor need it end, if they fail."""
        self.c.peer.sock.settimeout(20)
        try:
            while not (errors and ops and all(op.reply for op in ops)):
                self.c.pump()
            ended = False
        except (peer.Ended, ConnectionError):
            ended = True
        except TimeoutError as error:
            raise Wrong(f'{what} has not ended the connection in 20 s') from error
        except Wrong as error:
            if 'sent Terminate' not in str(error):
                raise
            self.c.peer.terminate()
            ended = True
        for op in ops:
            if op.reply and op.reply.status < 0xC0000000:
                raise Wrong(f'a reply with status {op.reply.status:#010x}')
        return ended

    def trapped(self, *ops):
        """The server goes where it was sent: a card would break off. An error instead is right as well."""
        self.c.peer.sock.settimeout(20)
        try:
            ended = self.ended(*ops, errors=True)
        except Refused as refusal:
            if self.args.verbose:
                print(f'refused: {refusal}')
            self.c.peer.terminate()
            for op in ops:
                expect(op.reply is None or op.reply.status != OK, 'a success before that')
            return
        if not ended:
            self.still_well(unchanged=False)

    def post_until_stuck(self, make, count, deaf=False):
        """As many as the server takes; deaf: as it takes while nothing is read from it."""
        while self.c.credits < count:
            before = self.c.credits
            self.c.read_inline(self.file_id, 0, 1)
            if self.c.credits <= before:
                break
        self.c.peer.sock.settimeout(3)
        posted = 0
        try:
            while posted < count and self.c.credits > 0 and not (deaf and self.c.peer.credits < 2):
                make().post()
                posted += 1
        except TimeoutError:
            pass
        if self.args.verbose:
            print(f'{posted} posted, {len(self.c.peer.reads)} RDMA Reads are due')
        return posted

    def finish(self, deletes=True):
        """Whatever was done, the server is there."""
        try:
            self.c.peer.sock.close()
        except OSError:
            pass
        last = self.connect()
        if last.dialect == 0x300:
            last.channel = 1
        file_id = last.create(self.name)
        Transfer(last, READ, file_id, 0, 4096).post().finish()
        last.close(file_id)
        if deletes:
            last.delete(self.name)
        last.leave()


def refused(invalidates, commands=(READ, WRITE), **kw):
    def act(b):
        for command in commands:
            b.refused(command, invalidates, **kw)
    return act


def with_descriptors(make, amount=8192, invalidates=True, **kw):
    """make: of a buffer of 8192 bytes the descriptors; a request that is refused."""
    def act(b):
        for command in READ, WRITE:
            region = b.buffer(command)
            b.refused(command, invalidates, amount=amount, regions=[region], descriptors=make(region), **kw)
    return act


def empty_among(b):
    """An empty descriptor among others with room enough: served or refused, but never half."""
    for command in READ, WRITE:
        for sizes in (0, 8192), (4096, 0, 4096), (8192, 0):
            op = b.op(command, sizes=list(sizes)).post()
            status = op.wait().status
            expect(status in (OK, INVALID_PARAMETER), f'status {status:#010x}')
            op.finish(status, expected=b.data)
            b.still_well()


def unsigned_wrap(b):
    """Lengths whose sum is small in 32 bits."""
    for command in READ, WRITE:
        region = b.buffer(command)
        if command == WRITE:
            region.data[:] = b.data[:8192]
        huge = [region.descriptor(length=0xFFFFFFFF), region.descriptor(length=1), region.descriptor(length=100)]
        b.op(command, regions=[region], descriptors=huge).post().finish()
        b.still_well()


def no_invalidate_in_300(b):
    for command in READ, WRITE:
        b.refused(command, False, channel=2)


def trap(command, make):
    """make: of a buffer of 8192 bytes the descriptors, which lead astray."""
    def act(b):
        region = b.buffer(command)
        b.trapped(b.op(command, regions=[region], descriptors=make(b, region)).post())
    return act


def wrong_stag(_b, region):
    return [(region.base, region.stag ^ 0x5A5A5A5A, 8192)]


def second_wrong(_b, region):
    return [region.descriptor(0, 4096), (region.base, region.stag ^ 1, 4096)]


def past_end(_b, region):
    return [region.descriptor(1, 8192)]


def before_start(_b, region):
    return [(region.base - 1, region.stag, 8192)]


def wraps(_b, region):
    return [(0xFFFFFFFFFFFFF000, region.stag, 8192)]


def no_right(_b, region):
    region.rights = ''
    return [region.descriptor()]


def reused(command):
    def act(b):
        expect(b.args.channel == 2, 'this case is about channel 2')
        region = b.buffer(command)
        if command == WRITE:
            region.data[:] = b.data[:8192]
        op = b.op(command, regions=[region]).post()
        op.finish()
        # It is dead because the server has invalidated it; now it is named again.
        b.c.peer.memory.regions[region.stag] = region
        b.trapped(b.op(command, regions=[region]).post())
    return act


def amid_read(then, amount=1 * MIB):
    """The server's RDMA Read is due; `then` happens."""
    def act(b):
        b.c.peer.answers = False
        op = b.op(WRITE, amount, data=octets(amount)).post()
        while not b.c.peer.reads:
            b.c.pump()
        then(b, b.c.peer.reads.popleft(), op)
    return act


def leave(b, _read, _op):
    b.c.peer.sock.close()


def reset(b, _read, _op):
    b.c.peer.reset()


def half_then(then):
    def act(b, read, op):
        b.c.peer.respond(read, read.length // 2 + 1)
        time.sleep(0.2)
        then(b, read, op)
    return act


def terminate(b, _read, _op):
    b.c.peer.terminate()


def answer_wrongly(frames, may_succeed=False):
    def act(b, read, op):
        try:
            for frame in frames(b, read):
                b.c.peer.frame(*frame)
        except ConnectionError:
            pass
        b.ended(*([] if may_succeed else [op]))
    return act


def short_response(_b, read):
    return [(peer.tagged(b'', read.sink, read.to, opcode=2), b'x' * 1000)]


def long_response(_b, read):
    at, end = 0, read.length + 100
    while at < end:
        part = min(60000, end - at)
        yield peer.tagged(b'', read.sink, read.to + at, opcode=2, last=at + part == end), b'x' * part
        at += part


def wrong_sink(_b, read):
    return [(peer.tagged(b'', read.sink ^ 0x777, read.to, opcode=2, last=False), b'x' * 1000)]


def wrong_place(_b, read):
    return [(peer.tagged(b'', read.sink, read.to + 4096, opcode=2, last=False), b'x' * 1000)]


def write_instead(_b, read):
    """The sink is no buffer for RDMA Writes."""
    return [(peer.tagged(b'', read.sink, read.to, opcode=0, last=False), b'x' * 1000)]


def twice(b, read):
    b.c.peer.respond(read)
    b.c.peer.reads.clear()  # the others are never answered
    return [(peer.tagged(b'', read.sink, read.to, opcode=2, last=True), b'x' * 1000)]


def amid_write(then, amount=8 * MIB):
    """The server's RDMA Writes are under way."""
    def act(b):
        for at in range(0, amount, MIB):
            Transfer(b.c, WRITE, b.file_id, at, data=octets(MIB)).post().finish()
        ops = [b.op(READ, amount).post() for _ in range(4)]
        while not any(region.written for op in ops for region in op.regions):
            b.c.pump()
        then(b, None, ops[0])
    return act


def leave_at_once(b):
    """Before anything has come back."""
    for _ in range(20):
        b.op(READ, b.length).post()
        b.op(WRITE, b.length).post()
    b.c.peer.sock.close()


def leave_anytime(b):
    """At any moment of some transfers, in three ways."""
    for number in range(45):
        c = b.connect()
        file_id = c.create(b.name)
        for _ in range(random.randrange(1, 6)):
            length = random.choice((5000, 300000, MIB))
            Transfer(c, READ, file_id, 0, length).post()
            Transfer(c, WRITE, file_id, b.length, data=(b.data * 16)[:length]).post()
        frames = random.randrange(80)
        while frames and select.select([c.peer.sock], [], [], 0.05)[0]:
            c.pump()
            frames -= 1
        (c.peer.sock.close, c.peer.reset, c.peer.terminate)[number % 3]()


def before(steps):
    """A channel is asked for before there is a dialect, a session or a tree."""
    def act(b):
        for command in READ, WRITE:
            c = b.connect(steps=steps)
            b.c.peer.sock.close()
            b.c = c
            op = b.op(command).post()
            b.ended(op, errors=True)
            expect(all(region.written == 0 for region in op.regions), 'something was placed')
    return act


def thousands(then, count=4000, command=WRITE, amount=4096):
    """Requests whose RDMA Reads are never answered, or whose replies are never read."""
    def act(b):
        b.c.peer.answers = False
        shared = bytearray(amount)
        most = b.post_until_stuck(lambda: b.op(command, amount, regions=[b.c.peer.memory.register(
            shared, 'r' if command == WRITE else 'w')]), count, deaf=command == READ)
        expect(most >= 4, f'only {most} requests were taken')
        time.sleep(1)
        then(b, None, None)
    return act


def overlapping(b):
    """Descriptors that share bytes: they are read twice, and written twice, the later wins."""
    region = b.buffer(WRITE)
    region.data[:] = content = octets(8192)
    parts = [region.descriptor(0, 5000), region.descriptor(2000, 5000), region.descriptor(0, 100)]
    b.op(WRITE, 10100, regions=[region], descriptors=parts).post().finish()
    written = bytes(content[:5000] + content[2000:7000] + content[:100])
    expect(b.c.read_inline(b.file_id, 0, 10100) == written, 'WRITE: it differs')
    b.data = written + b.data[10100:]
    region = b.buffer(READ)
    parts = [region.descriptor(0, 5000), region.descriptor(2000, 5000), region.descriptor(100, 100)]
    b.op(READ, 10100, regions=[region], descriptors=parts).post().finish()
    due = bytearray(8192)
    due[0:5000] = written[:5000]
    due[2000:7000] = written[5000:10000]
    due[100:200] = written[10000:]
    expect(region.data == due, 'READ: it differs')
    b.still_well()


def signed(command, may_fail=False, **kw):
    """It cannot be translated, and what the program would answer is no reply to it."""
    def act(b):
        op = b.op(command, **kw).post(flags=SIGNED, signature=octets(16))
        ended = b.ended(op, errors=may_fail)
        expect(all(region.written == 0 and region.read == 0 for region in op.regions), 'its data went by RDMA')
        if not ended:
            b.still_well()
    return act


def duplicate_message_id(b):
    for command in WRITE, READ:
        first = b.op(command, b.length).post()
        second = b.op(command, b.length)
        try:
            second.post(mid=first.mid)
            b.ended(second)
        except Wrong as error:  # the first one's reply may still come
            if 'for which none is due' not in str(error):
                raise
            raise Wrong(f'a MessageId that was used twice had two replies: {error}') from error
        except ConnectionError:
            pass
        if command == WRITE:
            again(b)


def compound_broken(b):
    """A channel behind a NextCommand that leads nowhere good."""
    for following in 65, 8, 1 << 20, 0xFFFFFFF8:
        op = b.op(READ)
        mids = [b.c.take_mid(1, WRITE), b.c.take_mid(1, READ, op.on_final)]
        body = b.c.write_body(b.file_id, 0, b.data[:8])
        b.c.peer.send_upper(b.c.header(WRITE, 1, mid=mids[0], following=following) + body +
                            b.c.header(READ, 1, mid=mids[1]) + op.body)
        b.ended(op)
        again(b)


def compound_unaligned(b):
    """smbd takes elements at any place."""
    for length in 1, 2, 5:
        op = b.op(READ)
        mids = [b.c.take_mid(1, WRITE), b.c.take_mid(1, READ, op.on_final)]
        body = b.c.write_body(b.file_id, 0, b.data[:length])
        message = (b.c.header(WRITE, 1, mid=mids[0], following=64 + len(body)) + body +
                   b.c.header(READ, 1, mid=mids[1]) + op.body)
        if not served_or_ended(b, op, lambda: b.c.peer.send_upper(message)):
            return


def compound_signed(b):
    """One element with a channel can be translated, the other cannot."""
    for command, flags in (WRITE, (0, SIGNED)), (WRITE, (SIGNED, 0)), (READ, (0, SIGNED)), (READ, (SIGNED, 0)):
        ops = [b.op(command), b.op(READ)]
        mids = [b.c.take_mid(1, op.command, op.on_final) for op in ops]
        first = ops[0].body + b'\0' * (-len(ops[0].body) % 8)
        b.c.peer.send_upper(b.c.header(command, 1, mid=mids[0], following=64 + len(first), flags=flags[0]) + first +
                            b.c.header(READ, 1, mid=mids[1], flags=flags[1]) + ops[1].body)
        signed_op = ops[0] if flags[0] else ops[1]
        ended = b.ended(signed_op, errors=True)
        expect(ended or signed_op.command == WRITE, 'a signed READ did not end the connection')
        if not ended:
            while not all(op.reply for op in ops):
                b.c.pump()
            for op in ops:
                expect(op.reply.status >= 0xC0000000 or op is not signed_op, f'status {op.reply.status:#010x}')
        again(b)


def again(b):
    b.c.peer.sock.close()
    b.c = b.connect()
    b.file_id = b.c.create(b.name)


def served_or_ended(b, op, post):
    """False: the connection was ended; there is another one now."""
    try:
        post()
        while op.reply is None:
            b.c.pump()
    except (peer.Ended, ConnectionError):
        again(b)
        return False
    if op.reply.status == OK:
        op.finish(first_of_compound=False)
    else:
        expect(op.reply.status >= 0xC0000000, f'status {op.reply.status:#010x}')
    return True


def cut(b):
    """Requests that end too early, at any place; also while a fragment of theirs is still due."""
    for command in READ, WRITE:
        for length in list(range(66, 128)):
            op = b.op(command)
            mid = b.c.take_mid(1, command, op.on_final)
            b.c.peer.send_upper((b.c.header(command, 1, mid=mid) + op.body)[:length])
            if b.ended(op, errors=True):
                again(b)
        for then in leave, reset:
            op = b.op(command)
            mid = b.c.take_mid(1, command, op.on_final)
            b.c.peer.send_message((b.c.header(command, 1, mid=mid) + op.body)[:120], remaining=8)
            then(b, None, op)
            again(b)


def descriptors_without_end(b):
    """Hundreds of thousands of them: a server may refuse some, if it serves the others."""
    refused = 0
    sizes = [2] * 4095
    ops = [b.op(READ, 8190, sizes=sizes).post() for _ in range(40)]
    for op in ops:
        if op.wait().status == INVALID_PARAMETER:
            refused += 1
            op.finish(INVALID_PARAMETER)
        else:
            op.finish(expected=b.data)
    if b.args.verbose:
        print(f'{refused} of {len(ops)} were refused')
    b.still_well()


def compound_large(b):
    """Longer than anyone collects, and a channel at its end: served, refused or ended, but not passed on as it is."""
    for position in 'last', 'first':
        filler = (WRITE, b.c.write_body(b.file_id, 0, b.data + octets(200000)), charge_of(265536), None)
        op = b.op(READ, sizes=[5000, 5000])
        elements = [filler, op.element()] if position == 'last' else [op.element(), filler]
        served_or_ended(b, op, lambda: b.c.post_compound(elements, related=False))


def no_reads(b):
    """A peer that serves no RDMA Read cannot be asked for data."""
    op = b.op(WRITE).post()
    try:
        while op.reply is None:
            b.c.pump()
        op.finish(INVALID_PARAMETER)
        b.still_well()
    except (peer.Ended, ConnectionError):
        pass
    expect(b.c.peer.all_reads == 0, 'an RDMA Read, though the IRD is 0')


HUGE = 0xFFFFFFFF
CASES = {
    # refused by an error of the program; the connection goes on
    'descriptor-empty': with_descriptors(lambda region: [region.descriptor(length=0)]),
    'amount-zero': with_descriptors(lambda region: [region.descriptor()], amount=0),
    'amount-huge': with_descriptors(lambda region: [region.descriptor(length=HUGE)], amount=HUGE, charge=1),
    'amount-over-max': with_descriptors(lambda region: [region.descriptor(length=HUGE)], amount=8 * MIB + 1,
                                        charge=129),
    'amount-2-gib': with_descriptors(lambda region: [region.descriptor(length=HUGE)], amount=1 << 31, charge=1),
    'descriptors-too-small': with_descriptors(lambda region: [region.descriptor(0, 8000),
                                                              region.descriptor(8000, 191)]),
    'descriptor-too-small': with_descriptors(lambda region: [region.descriptor(0, 8191)]),
    'info-offset-0': refused(False, info_offset=0),
    'info-offset-in-body': refused(False, info_offset=96),
    'info-offset-111': refused(False, info_offset=111),
    'info-offset-at-end': refused(False, info_offset=113),
    'info-offset-outside': refused(False, info_offset=0xFFF0),
    'info-length-0': refused(False, info_length=0),
    'info-length-15': refused(False, info_length=15),
    'info-length-17': refused(False, info_length=17, tail=b'\0' * 16),
    'info-length-outside': refused(False, info_length=32),
    'info-length-largest': refused(False, info_length=0xFFF0),
    'channel-3': refused(False, channel=3),
    'channel-7': refused(False, channel=7),
    'channel-huge': refused(False, channel=0x02000001),
    'channel-2-under-3.0': no_invalidate_in_300,
    'write-with-data': refused(True, commands=(WRITE,), data_offset=112, length=16),
    'write-with-length': refused(True, commands=(WRITE,), length=8192),
    # served
    'overlapping': overlapping,
    'descriptor-empty-among': empty_among,
    'descriptors-wrap': unsigned_wrap,
    # served, refused or ended, but in no case otherwise
    'compound-large': compound_large,
    'compound-unaligned': compound_unaligned,
    'compound-signed': compound_signed,
    'cut': cut,
    'descriptors-without-end': descriptors_without_end,
    'no-reads': no_reads,
    # where the server is led astray
    'token-wrong-read': trap(READ, wrong_stag),
    'token-wrong-write': trap(WRITE, wrong_stag),
    'token-second-wrong-read': trap(READ, second_wrong),
    'token-second-wrong-write': trap(WRITE, second_wrong),
    'token-reused-read': reused(READ),
    'token-reused-write': reused(WRITE),
    'past-end-read': trap(READ, past_end),
    'past-end-write': trap(WRITE, past_end),
    'before-start-read': trap(READ, before_start),
    'before-start-write': trap(WRITE, before_start),
    'wraps-read': trap(READ, wraps),
    'wraps-write': trap(WRITE, wraps),
    'no-right-read': trap(READ, no_right),
    'no-right-write': trap(WRITE, no_right),
    # the connection goes
    'leave-at-once': leave_at_once,
    'leave-amid-read': amid_read(leave),
    'reset-amid-read': amid_read(reset),
    'terminate-amid-read': amid_read(terminate),
    'leave-half-answered': amid_read(half_then(leave)),
    'reset-half-answered': amid_read(half_then(reset)),
    'leave-amid-write': amid_write(leave),
    'reset-amid-write': amid_write(reset),
    'terminate-amid-write': amid_write(terminate),
    'leave-thousands-of-writes': thousands(leave),
    'reset-thousands-of-large-writes': thousands(reset, amount=1 * MIB),
    'leave-unread-replies': thousands(leave, command=READ, amount=65536),
    'reset-unread-large-replies': thousands(reset, command=READ, amount=1 * MIB),
    'leave-anytime': leave_anytime,
    # the server ends it
    'response-short': amid_read(answer_wrongly(short_response)),
    'response-long': amid_read(answer_wrongly(long_response)),
    'response-wrong-sink': amid_read(answer_wrongly(wrong_sink)),
    'response-wrong-place': amid_read(answer_wrongly(wrong_place)),
    'response-is-write': amid_read(answer_wrongly(write_instead)),
    'response-twice': amid_read(answer_wrongly(twice, may_succeed=True), amount=9000),
    'signed-read': signed(READ),
    'signed-write-with-offset': signed(WRITE, data_offset=112),
    'signed-write': signed(WRITE, may_fail=True),
    'before-negotiate': before(0),
    'before-session': before(1),
    'before-tree': before(2),
    'duplicate-message-id': duplicate_message_id,
    'compound-broken': compound_broken,
}
SPECIAL = {'channel-2-under-3.0': {'dialect': 0x0300}, 'no-reads': {'ird': 0}}


def bad(args):
    b = Bad(args, **SPECIAL.get(args.case, {}))
    CASES[args.case](b)
    b.finish()
    print(f'{args.case}: well')


def victim(args):
    """Its server's program is killed when it has said "ready"; the connection ends then, and soon."""
    b = Bad(args)
    for at in range(0, 8 * MIB, MIB):
        Transfer(b.c, WRITE, b.file_id, at, data=octets(MIB)).post().finish()
    b.c.peer.answers = args.state != 'fetch'
    if args.state == 'place':
        for _ in range(4):
            b.op(READ, 8 * MIB).post()
    elif args.state == 'fetch':
        for _ in range(8):
            b.op(WRITE, MIB, data=octets(MIB)).post()
        b.c.pump_until_quiet(0.3)
    print('ready', flush=True)
    if args.state != 'idle':
        time.sleep(2)
    b.c.peer.sock.settimeout(20)
    try:
        # Who never answered would be waited for, for half a minute.
        b.c.peer.answers = True
        b.c.peer.answer_all()
        while True:
            b.c.pump()
    except (peer.Ended, ConnectionError):
        print('ended')


def main():
    if sys.argv[1:] == ['cases']:
        print('\n'.join(CASES))
        return 0
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest='kind', required=True)
    for kind in kinds.add_parser('good'), kinds.add_parser('bad'), kinds.add_parser('victim'):
        if kind.prog.endswith('bad'):
            kind.add_argument('case', choices=CASES, metavar='CASE')
        elif kind.prog.endswith('victim'):
            kind.add_argument('state', choices=('idle', 'fetch', 'place'))
        else:
            kind.add_argument('--only', nargs='+')
        kind.add_argument('host')
        kind.add_argument('port', type=int)
        kind.add_argument('--dialect', type=lambda text: int(text, 16), default=0x0311)
        kind.add_argument('--channel', type=int, default=2)
        kind.add_argument('--share')
        kind.add_argument('--ird', type=int, default=16)
        kind.add_argument('--segment', type=int, default=60000)
        kind.add_argument('--crc', action='store_true')
        kind.add_argument('--small', action='store_true')
        kind.add_argument('--verbose', action='store_true')
    args = parser.parse_args()
    what = {'good': f'dialect {args.dialect:#06x}, channel {args.channel}', 'bad': getattr(args, 'case', ''),
            'victim': getattr(args, 'state', '')}[args.kind]
    try:
        {'good': lambda: Good(args).run(), 'bad': lambda: bad(args), 'victim': lambda: victim(args)}[args.kind]()
    except (Wrong, Refused) as error:
        print(f'{what}: {error}')
        return 1
    except (peer.Ended, OSError) as error:
        print(f'{what}: the connection ended, or nothing came: {error!r}')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
