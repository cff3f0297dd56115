// A peer that breaks the rules of MPA, DDP and RDMAP, or goes at any moment. The stream must end, with a
// Terminate where one can be sent, every buffer must come back, and nothing outside what was posted may
// change.
#include <dirent.h>
#include <sys/ioctl.h>

#include "raw_peer.hpp"
#include "support/catch.hpp"

using namespace fabric_test;
namespace violation = wire::violation;

namespace {

size_t open_descriptors() {
    size_t count = 0;
    DIR* directory = opendir("/proc/self/fd");
    while (readdir(directory)) ++count;
    closedir(directory);
    return count;
}

// An established responder with three receives of 100 bytes, a region to write and one to read, and a
// scripted initiator.
struct Victim {
    Pair pair;
    RawPeer peer{pair.loop};
    bool crc;
    std::unique_ptr<Memory> receives, writable, readable, invalidatable;

    explicit Victim(bool with_crc = false) : pair(Kind::iwarp, {.crc = iwarp::Crc::off}), crc(with_crc) {
        peer.connect(pair.address());
        peer.send(hex(request_key + (crc ? "40" : "00") + "01 0000"));
        REQUIRE(pair.until([&] { return pair.acceptor.endpoint != nullptr; }));
        pair.server.endpoint = std::move(pair.acceptor.endpoint);
        receives = std::make_unique<Memory>(*pair.server.endpoint, 300);
        writable = std::make_unique<Memory>(*pair.server.endpoint, 1000, access_remote_write);
        readable = std::make_unique<Memory>(*pair.server.endpoint, 1000, access_remote_read);
        readable->fill(5);
        for (uint64_t i = 0; i < 3; ++i) {
            REQUIRE(pair.server.receive(i, {receives->sge(i * 100, 40), receives->sge(i * 100 + 40, 60)}));
        }
        REQUIRE(pair.server->accept({.ird = 2, .ord = 2}, &pair.server));
        REQUIRE(peer.receive(20).size() == 20);
        REQUIRE(pair.until([&] { return pair.server.established; }));
    }
    Node& node() { return pair.server; }
    Bytes frame(const wire::Segment& segment, const Bytes& payload = {}) {
        return fpdu(segment, payload, crc);
    }
    uint32_t stag() const { return writable->region.rkey; }
    uint64_t base() const { return writable->region.remote_offset; }

    // A good message first, so that a Terminate may be sent (RFC 5044 7.1.2 rule 4).
    void open() { peer.send(frame(send_segment(1), Bytes(10, std::byte{1}))); }
    void expect(const wire::Violation& why, Reason reason = Reason::ddp_violation) {
        const Bytes terminate = peer.receive(24 + 22, 1000);
        REQUIRE(terminate.size() >= 24);
        CHECK(to_hex(std::span(terminate).subspan(2, 2)) == "4147");
        CHECK(wire::parse_terminate(std::span(terminate).subspan<20, 4>()) == why);
        CHECK(peer.ending() == "fin");
        ended(reason);
    }
    void ended(Reason reason, int errnum = ECONNRESET) {
        REQUIRE(pair.until([&] { return node().end.has_value(); }));
        CHECK(reason_name(node().end->reason) == std::string(reason_name(reason)));
        CHECK(node().end->errnum == errnum);
        CHECK(node().count(Opcode::receive) == 3);  // each came back once
    }
};

Bytes tampered(Bytes bytes, size_t at) {
    bytes[at] ^= std::byte{0x10};
    return bytes;
}

}  // namespace

TEST_CASE("violations of an established stream are answered with a Terminate") {
    Victim v(GENERATE(false, true));
    v.open();
    const Bytes ten(10, std::byte{7});
    auto bad = send_segment(2);
    struct Row {
        const char* name;
        Bytes bytes;
        wire::Violation why;
        Reason reason = Reason::ddp_violation;
    };
    const auto other_queue = [&](uint32_t queue) {
        auto s = bad;
        s.queue = queue;
        return v.frame(s, ten);
    };
    const auto invalidate = [&](uint32_t key) {
        auto s = bad;
        s.opcode = wire::Rdmap::send_invalidate;
        s.stag = key;
        return v.frame(s, ten);
    };
    auto changed = send_segment(2, 10);
    changed.opcode = wire::Rdmap::send_invalidate;
    const auto read = [&](uint32_t msn, uint32_t length, uint32_t stag, uint64_t offset) {
        return read_request(msn, {1, 0, length, stag, offset}, v.crc);
    };
    const uint32_t readable = v.readable->region.rkey;
    const uint64_t read_base = v.readable->region.remote_offset;
    const auto access = Reason::remote_access_violation;
    auto response = write_segment(1, 0);
    response.opcode = wire::Rdmap::read_response;
    const std::vector<Row> rows = {
        {"length below any header", hex("000d 4143 00000000"), violation::mpa_length},
        {"length below the untagged header", hex("0011 4143 00000000"), violation::mpa_length},
        {"DDP version", hex("0020 4043 00000000"), violation::untagged_version},
        {"RDMAP version", hex("0020 4103 00000000"), violation::rdmap_version},
        {"opcode", hex("0020 414f 00000000"), violation::rdmap_opcode},
        {"tagged send", hex("0020 c143 00000000"), violation::rdmap_opcode},
        {"queue", other_queue(1), violation::untagged_queue},
        {"queue", other_queue(77), violation::untagged_queue},
        {"MSN again", v.frame(send_segment(1), ten), violation::untagged_msn},
        {"MSN ahead", v.frame(send_segment(3), ten), violation::untagged_msn},
        {"MO", v.frame(send_segment(2, 4), ten), violation::untagged_offset},
        {"MO of a continuation", v.frame(send_segment(2, 0, false), ten) + v.frame(send_segment(2, 11), ten),
         violation::untagged_offset},
        {"opcode of a continuation", v.frame(send_segment(2, 0, false), ten) + v.frame(changed, ten),
         violation::rdmap_opcode},
        {"too long", v.frame(bad, Bytes(101)), violation::untagged_too_long, Reason::receive_overrun},
        {"too long in the second",
         v.frame(send_segment(2, 0, false), Bytes(60)) + v.frame(send_segment(2, 60), Bytes(41)),
         violation::untagged_too_long, Reason::receive_overrun},
        {"huge offset", v.frame(send_segment(2, 0xffffffff), ten), violation::untagged_offset},
        {"invalidate nothing", invalidate(0), violation::rdmap_cannot_invalidate, access},
        {"invalidate local memory", invalidate(v.receives->region.rkey), violation::rdmap_cannot_invalidate,
         access},
        {"invalidate another key", invalidate(v.stag() ^ 1), violation::rdmap_cannot_invalidate, access},
        {"write to another key", v.frame(write_segment(v.stag() ^ 1, v.base()), ten), violation::tagged_stag,
         access},
        {"write to another index", v.frame(write_segment(v.stag() ^ 0x100, v.base()), ten),
         violation::tagged_stag, access},
        {"write beyond", v.frame(write_segment(v.stag(), v.base() + 991), ten), violation::tagged_bounds,
         access},
        {"write before", v.frame(write_segment(v.stag(), v.base() - 1), ten), violation::tagged_bounds,
         access},
        {"write around 2^64", v.frame(write_segment(v.stag(), ~uint64_t{0} - 4), ten),
         violation::tagged_bounds, access},
        {"write to what may be read", v.frame(write_segment(readable, read_base), ten),
         violation::rdmap_access, access},
        {"continuation elsewhere",
         v.frame(write_segment(v.stag(), v.base(), false), ten) +
             v.frame(write_segment(v.stag(), v.base() + 11), ten),
         violation::tagged_bounds},
        {"continuation of another",
         v.frame(write_segment(v.stag(), v.base(), false), ten) +
             v.frame(write_segment(readable, v.base() + 10), ten),
         violation::tagged_stag},
        {"response to nothing", v.frame(response, ten), violation::rdmap_opcode},
        {"read MSN", read(2, 10, readable, read_base), violation::untagged_msn},
        {"read of another key", read(1, 10, readable ^ 1, read_base), violation::rdmap_stag, access},
        {"read beyond", read(1, 10, readable, read_base + 991), violation::rdmap_bounds, access},
        {"read of 4 GiB", read(1, 0xffffffff, readable, read_base), violation::rdmap_bounds, access},
        {"read of what may be written", read(1, 10, v.stag(), v.base()), violation::rdmap_access, access},
    };
    // An index, not a row: the keys are others in every run of this body.
    const size_t index = GENERATE(range(size_t{0}, size_t{33}));
    REQUIRE(rows.size() == 33);
    const Row& row = rows[index];
    CAPTURE(row.name, v.crc);
    v.peer.send(row.bytes);
    v.expect(row.why, row.reason);
    // Only the two placements that began well have left a trace, in what was opened for them.
    CHECK(std::all_of(v.writable->bytes.begin() + 10, v.writable->bytes.end(),
                      [](std::byte b) { return b == std::byte{0}; }));
    CHECK(std::all_of(v.receives->bytes.begin() + 200, v.receives->bytes.end(),
                      [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("a wrong CRC ends the stream before anything is delivered") {
    Victim v(true);
    v.open();
    const Bytes good = v.frame(send_segment(2), Bytes(13, std::byte{7}));
    const size_t at = GENERATE(5u, 25u, 34u, 36u, 39u);  // header, payload, pad, CRC
    v.peer.send(tampered(good, at));
    REQUIRE(v.pair.until([&] { return v.node().end.has_value(); }));
    CHECK(v.node().end->errnum == ECONNRESET);
    CHECK(v.node().count(Opcode::receive) == 3);
    CHECK(v.node().find(Opcode::receive, 1)->status == Status::flushed);
    if (at > 20) v.expect(violation::mpa_crc, Reason::crc_error);
}

TEST_CASE("the first FPDU may be wrong as well, and is then not answered") {
    Victim v;
    v.peer.send(v.frame(send_segment(9), Bytes(10)));
    CHECK(v.peer.receive(1, 500).empty());
    v.ended(Reason::ddp_violation);
}

TEST_CASE("a Terminate ends the stream whatever its control word says") {
    Victim v;
    v.open();
    const wire::Segment segment{.last = true, .opcode = wire::Rdmap::terminate, .queue = 2, .msn = 1};
    v.peer.send(v.frame(segment, GENERATE(hex("12050000"), hex("21050001"), Bytes(4), Bytes(52))));
    v.ended(Reason::remote_terminate);
    CHECK(v.peer.ending() == "fin");
}

TEST_CASE("more reads at once than agreed") {
    Victim v;
    v.open();
    Bytes all;
    // One write, so that none is answered in between.
    for (uint32_t msn = 1; msn <= 3; ++msn) {
        all = all + read_request(msn, {9, 0, 100, v.readable->region.rkey, v.readable->region.remote_offset});
    }
    v.peer.send(all);
    const Bytes terminate = v.peer.receive(1000);
    v.ended(Reason::ddp_violation);
    CHECK(terminate.size() >= 24);
}

TEST_CASE("reads are answered, zero-length ones too") {
    Victim v(true);
    v.open();
    v.peer.send(read_request(1, {0xdeadbe00, 7, 0, 0xdeadbe00, 9}, true));
    auto expected = write_segment(0xdeadbe00, 7);
    expected.opcode = wire::Rdmap::read_response;
    CHECK(to_hex(v.peer.receive(20)) == to_hex(fpdu(expected, {}, true)));
    v.peer.send(read_request(
        2, {0x42, 1000, 99, v.readable->region.rkey, v.readable->region.remote_offset + 1}, true));
    expected = write_segment(0x42, 1000);
    expected.opcode = wire::Rdmap::read_response;
    const Bytes payload(v.readable->bytes.begin() + 1, v.readable->bytes.begin() + 100);
    CHECK(to_hex(v.peer.receive(16 + 99 + 1 + 4)) == to_hex(fpdu(expected, payload, true)));
}

TEST_CASE("a half received segment stops at deregistration") {
    Victim v;
    v.open();
    const Bytes write = v.frame(write_segment(v.stag(), v.base()), Bytes(800, std::byte{0xaa}));
    v.peer.send(Bytes(write.begin(), write.begin() + 416));
    REQUIRE(v.pair.until([&] { return v.writable->bytes[399] == std::byte{0xaa}; }));
    v.node()->deregister_memory(v.writable->region);
    v.peer.send(Bytes(write.begin() + 416, write.end()));
    v.expect(violation::tagged_stag, Reason::remote_access_violation);
    CHECK(v.writable->bytes[400] == std::byte{0});
}

TEST_CASE("a read stops at deregistration, without touching the memory again") {
    Victim v;
    v.open();
    auto large = std::make_unique<Memory>(*v.node().endpoint, 8u << 20, access_remote_read);
    large->fill(1);
    v.peer.send(read_request(1, {1, 0, 8u << 20, large->region.rkey, large->region.remote_offset}));
    // Until the socket is full.
    int arrived = 0;
    REQUIRE(v.pair.until([&] { return ioctl(v.peer.fd(), FIONREAD, &arrived) == 0 && arrived > 100'000; }));
    settle(v.pair.loop);
    const Bytes copy(large->bytes.begin(), large->bytes.begin() + 65536);
    v.node()->deregister_memory(large->region);
    std::fill(large->bytes.begin(), large->bytes.end(), std::byte{0xff});
    large.reset();  // memory checkers see what is touched now
    const Bytes all = v.peer.receive(9u << 20);
    CHECK(all.size() < 8u << 20);
    CHECK(v.peer.ending() == "fin");
    v.ended(Reason::remote_access_violation);
    CHECK(std::memcmp(all.data() + 16, copy.data(), 30'000) == 0);
    const auto ffs = std::search_n(all.begin(), all.end(), 1000, std::byte{0xff});
    CHECK(ffs == all.end());
}

TEST_CASE("the peer goes, in any state") {
    Victim v(GENERATE(false, true));
    const Bytes message = v.frame(send_segment(1), Bytes(50));
    const size_t sent = GENERATE(0u, 1u, 4u, 10u, 20u, 45u, 70u, 72u, 75u, 76u);
    const bool reset = GENERATE(true, false);
    v.peer.send(Bytes(message.begin(), message.begin() + static_cast<long>(std::min(sent, message.size()))));
    settle(v.pair.loop, 3);
    if (reset) {
        v.peer.reset();
        v.ended(Reason::peer_reset);
    } else {
        v.peer.shutdown();
        const bool clean = sent == 0 || sent >= message.size();
        v.ended(clean ? Reason::peer_closed : Reason::ddp_violation, clean ? 0 : ECONNRESET);
        CHECK(v.peer.ending() == "fin");
    }
}

TEST_CASE("a message cut between its segments is no orderly end") {
    Victim v;
    v.peer.send(v.frame(send_segment(1, 0, false), Bytes(10)));
    v.peer.shutdown();
    v.ended(Reason::ddp_violation);
}

TEST_CASE("segments of one tagged and one untagged message may interleave") {
    Victim v(true);
    v.peer.send(v.frame(write_segment(v.stag(), v.base(), false), Bytes(10, std::byte{1})));
    v.peer.send(v.frame(send_segment(1, 0, false), Bytes(41, std::byte{2})));
    v.peer.send(v.frame(write_segment(v.stag(), v.base() + 10), Bytes(10, std::byte{3})));
    v.peer.send(v.frame(send_segment(1, 41), Bytes(59, std::byte{4})));
    REQUIRE(v.pair.until([&] { return v.node().count(Opcode::receive) == 1; }));
    CHECK(v.node().completions[0].byte_length == 100);
    CHECK(v.writable->bytes[19] == std::byte{3});
    CHECK(v.receives->bytes[40] == std::byte{2});
    CHECK(v.receives->bytes[99] == std::byte{4});
}

TEST_CASE("a read sink takes the response that is due and nothing else") {
    Pair pair(Kind::iwarp, {.crc = iwarp::Crc::off});
    RawPeer peer(pair.loop);
    pair.client.endpoint = pair.fabric->connect({.remote = peer.listen()}, &pair.client).value();
    REQUIRE(peer.accept());
    peer.receive(24);
    peer.send(hex(reply_key + "00 01 0000"));
    REQUIRE(pair.until([&] { return pair.client.established; }));
    Memory sink(*pair.client.endpoint, 200);
    REQUIRE(pair.client.remote(Opcode::rdma_read, 1, sink.sge(50, 100), {.rkey = 5, .remote_offset = 6}));
    pair.client->flush();
    const Bytes request = peer.receive(52);
    REQUIRE(request.size() == 52);
    const auto read = wire::parse_read_request(std::span(request).subspan<20, 28>());
    CHECK((read.length == 100 && read.source_stag == 5 && read.source_offset == 6 && read.sink_stag != 0));
    auto response = write_segment(read.sink_stag, read.sink_offset);
    response.opcode = wire::Rdmap::read_response;
    auto first = response;
    first.last = false;
    bool good = false;
    switch (GENERATE(range(0, 8))) {
        case 0:
            peer.send(fpdu(response, Bytes(101, std::byte{1})));
            break;  // too long
        case 1:
            peer.send(fpdu(response, Bytes(99, std::byte{1})));
            break;  // too short
        case 2:
            response.stag ^= 1;
            peer.send(fpdu(response, Bytes(100)));
            break;
        case 3:
            response.offset += 1;
            peer.send(fpdu(response, Bytes(100)));
            break;
        case 4:
            peer.send(fpdu(first, Bytes(100)));
            break;  // whole, but not the last
        case 5:
            response.opcode = wire::Rdmap::write;
            peer.send(fpdu(response, Bytes(100)));
            break;  // sinks are no targets
        case 6:
            peer.send(fpdu(first, Bytes(60, std::byte{1})));
            response.offset += 60;
            peer.send(fpdu(response, Bytes(40, std::byte{2})));
            good = true;
            break;
        case 7:
            peer.send(fpdu(first, Bytes(60, std::byte{1})));
            peer.send(fpdu(response, Bytes(40, std::byte{2})));  // the same place again
            break;
    }
    REQUIRE(pair.until([&] { return pair.client.completions.size() == 1; }));
    CHECK(pair.client.completions[0].status == (good ? Status::success : Status::flushed));
    CHECK(pair.client.end.has_value() == !good);
    CHECK(sink.bytes[49] == std::byte{0});
    CHECK(sink.bytes[150] == std::byte{0});
    if (good) CHECK((sink.bytes[109] == std::byte{1} && sink.bytes[149] == std::byte{2}));
}

TEST_CASE("an orderly end does not wait for ever for a read that nobody answers") {
    Pair pair(Kind::iwarp, {.crc = iwarp::Crc::off, .close_timeout = 50'000'000});
    RawPeer peer(pair.loop);
    pair.client.endpoint = pair.fabric->connect({.remote = peer.listen()}, &pair.client).value();
    REQUIRE(peer.accept());
    peer.receive(24);
    peer.send(hex(reply_key + "00 01 0000"));
    REQUIRE(pair.until([&] { return pair.client.established; }));
    Memory sink(*pair.client.endpoint, 200);
    REQUIRE(pair.client.remote(Opcode::rdma_read, 1, sink.sge(), {.rkey = 5, .remote_offset = 6}));
    pair.client->disconnect();
    REQUIRE(peer.receive(52).size() == 52);
    REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
    CHECK(*pair.client.end == Error{Reason::local_close, ETIMEDOUT});
    CHECK(pair.client.completions[0].status == Status::flushed);
    CHECK(peer.ending() == "rst");
}

TEST_CASE("an abrupt Terminate still reaches us when we write at the same time") {
    Victim v;
    v.open();
    const wire::Segment segment{.last = true, .opcode = wire::Rdmap::terminate, .queue = 2, .msn = 1};
    v.peer.send(v.frame(segment, hex("12050000")));
    v.peer.close();
    Memory source(*v.node().endpoint, 1000);
    for (int i = 0; i < 3; ++i) {
        if (v.node().send(1, {source.sge()})) v.node()->flush();
    }
    v.ended(Reason::remote_terminate);
}

TEST_CASE("nothing leaks, however connections end") {
    EventLoop loop;
    const size_t before = open_descriptors();
    {
        auto fabric = make_iwarp_fabric(loop, {.linger = 50'000'000});
        Acceptor acceptor;
        std::vector<std::unique_ptr<Node>> nodes;
        acceptor.on = [&](std::unique_ptr<Endpoint> endpoint, const PrivateData&) {
            nodes.push_back(std::make_unique<Node>());
            nodes.back()->endpoint = std::move(endpoint);
            (void)nodes.back()->endpoint->accept({}, nodes.back().get());
        };
        auto listener = fabric->listen({.address = loopback()}, &acceptor).value();
        for (int i = 0; i < 150; ++i) {
            nodes.push_back(std::make_unique<Node>());
            Node& node = *nodes.back();
            node.endpoint = fabric->connect({.remote = listener->local_address()}, &node).value();
            if (i % 5 == 4) node.endpoint.reset();
        }
        REQUIRE(run_until(loop, [&] {
            return std::count_if(nodes.begin(), nodes.end(), [](const auto& n) { return n->established; }) >=
                   240;
        }));
        for (size_t i = 0; i < nodes.size(); ++i) {
            if (!nodes[i]->endpoint) continue;
            if (i % 3 == 0) nodes[i]->endpoint->disconnect();
            if (i % 3 == 1) nodes[i]->endpoint->abort();
        }
        settle(loop, 30);
        nodes.clear();
        listener.reset();
        run_until(
            loop, [&] { return open_descriptors() <= before; }, 1000);
        CHECK(open_descriptors() == before);
    }
}
