// The server's side of the SMB2 channel translation: the byte vectors of facts/smb2-channel.md section 10 in
// literal comparison, and what is refused.
#include "smb2_support.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using smb2::ServerLimits;

namespace {

constexpr const char* kW1 =
    "fe534d4240000100000000000900090000000000000000000700000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000000000000000100000000000102030405060708a1a2a3a4a5a6a7a802000000002000007000100000"
    "00000000b0"
    "adde007f0000c3b2a10000200000";
constexpr const char* kW2 =
    "fe534d4240000100000000000900090000000000000000000700000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310070000020000000000100000000000102030405060708a1a2a3a4a5a6a7a800000000000000000000000000"
    "000000";
constexpr const char* kW3 =
    "fe534d4240000100000000000900090001000000000000000700000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000011000000002000000000000000000000";
constexpr const char* kR1 =
    "fe534d4240000100000000000800090000000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000020000000000000000000000102030405060708a1a2a3a4a5a6a7a800000000020000000000000070"
    "00100000b0"
    "adde007f0000c3b2a10000200000";
constexpr const char* kR2 =
    "fe534d4240000100000000000800090000000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000020000000000000000000000102030405060708a1a2a3a4a5a6a7a800000000000000000000000000"
    "00000000";
constexpr const char* kR3 =
    "fe534d4240000100000000000800090001000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000011005000002000000000000000000000";
constexpr const char* kR4 =
    "fe534d4240000100000000000800090001000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000011005000000000000020000000000000";
constexpr const char* kR5 =
    "fe534d4240000100110000c00800090001000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000090000000000000000";
constexpr const char* kR6 =
    "fe534d42400000000301000008000900030000000000000008000000000000000800000000000000887766554433221100000000"
    "000000000000"
    "000000000000090000000000000021";
constexpr const char* kR7 =
    "fe534d42400001000000000008000000030000000000000008000000000000000800000000000000887766554433221100000000"
    "000000000000"
    "00000000000011005000000000000020000000000000";
constexpr const char* kM1 =
    "fe534d4240000100000000000800090000000000000000000900000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000001027000000300000000000000102030405060708a1a2a3a4a5a6a7a800000000020000000000000070"
    "0020000010"
    "000000000000111111110010000000000080000000002222222200200000";
constexpr const char* kB1 =
    "fe534d4240000100000000000900090000000000000000000700000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000000000000000100000000000102030405060708a1a2a3a4a5a6a7a800000000000000000000000000"
    "000000";
constexpr const char* kB2 =
    "fe534d4240000100000000000800090000000000000000000800000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000031000000ffffffff00000000000000000102030405060708a1a2a3a4a5a6a7a800000000000000000000000000"
    "00000000";
constexpr uint32_t kToken = 0x00a1b2c3;
constexpr uint64_t kAddress = 0x7f00deadb000;

struct Bench {
    ServerChannels server;
    RemoteMemory memory;
    explicit Bench(uint16_t dialect = 0x0311, const ServerLimits& limits = {}) : server(limits) {
        if (dialect) answer(negotiate_reply(dialect));
        memory.add(kToken, kAddress, pattern(8192, 1));
    }
    Handed hand(std::span<const std::byte> request) { return hand_to_program(server, request, &memory); }
    Answered answer(std::span<const std::byte> reply, Random* random = nullptr) {
        return answer_client(server, reply, &memory, random);
    }
};

// Refused, for this reason, and the error reply carries this token.
void check_refused(Bench& b, const Bytes& request, const char* why, std::optional<uint32_t> token) {
    INFO(why);
    const bool write = get(request, 12, 2) == kWrite;
    const auto handed = b.hand(request);
    REQUIRE(handed.translated);
    CHECK(handed.refusal == why);
    Bytes wanted(request.begin(), request.begin() + 112);
    if (write) put(wanted, 66, 2, 0);
    put(wanted, 68, 4, write ? 0 : 0xffffffff);
    for (size_t i = write ? 96 : 100; i < (write ? 108u : 112u); ++i) wanted[i] = {};
    if (!write) wanted.push_back({});
    CHECK(to_hex(handed.message) == to_hex(wanted));
    const uint64_t id = get(request, 24, 8);
    CHECK(b.server.outstanding() == token.has_value());
    const Bytes error = error_reply(write ? kWrite : kRead, id, kInvalidParameter);
    const auto answered = b.answer(error);
    CHECK(!answered.walked);
    CHECK(answered.message == error);
    CHECK(answered.token == token);
    CHECK(b.server.outstanding() == 0);
}

}  // namespace

TEST_CASE("vectors W1 to W3: a WRITE", "[smb2:3.3.5.13]") {
    Bench b;
    const auto handed = b.hand(from_hex(kW1));
    CHECK(handed.translated);
    CHECK(handed.message.size() == 0x2070);
    CHECK(to_hex(std::span(handed.message).first(112)) == kW2);
    CHECK(std::ranges::equal(std::span(handed.message).subspan(112), b.memory.bytes(kToken)));
    CHECK(handed.fetched == std::vector<Descriptor>{{kAddress, kToken, 8192}});
    const auto answered = b.answer(from_hex(kW3));
    CHECK(to_hex(answered.message) == kW3);
    CHECK(answered.token == kToken);
    CHECK(b.server.outstanding() == 0);
    CHECK(!b.answer(from_hex(kW3)).token);  // once
}

TEST_CASE("vectors R1 to R4: a READ", "[smb2:3.3.5.12]") {
    Random random(4);
    for (Random* portions : {static_cast<Random*>(nullptr), &random}) {
        Bench b;
        const auto handed = b.hand(from_hex(kR1));
        CHECK(to_hex(handed.message) == kR2);
        const Bytes data = pattern(8192, 2);
        const auto answered = b.answer(joined(from_hex(kR3), data), portions);
        CHECK(to_hex(answered.message) == kR4);
        CHECK(answered.token == kToken);
        CHECK(b.memory.bytes(kToken) == data);
        CHECK(b.server.outstanding() == 0);
    }
}

TEST_CASE("vector R5: an error carries the token") {
    Bench b;
    b.hand(from_hex(kR1));
    const auto answered = b.answer(from_hex(kR5));
    CHECK(to_hex(answered.message) == kR5);
    CHECK(answered.token == kToken);
    CHECK(b.server.outstanding() == 0);
}

TEST_CASE("vectors R6 and R7: interim and final reply; CANCEL passes") {
    Bench b;
    b.hand(from_hex(kR1));
    const auto interim = b.answer(from_hex(kR6));
    CHECK(to_hex(interim.message) == kR6);
    CHECK(!interim.token);
    CHECK(b.server.outstanding() == 1);
    Bytes cancel = smb2_message(68, kCancel, 8, kAsyncFlag);
    put(cancel, 64, 2, 4);
    const auto handed = b.hand(cancel);
    CHECK(!handed.translated);
    CHECK(handed.message == cancel);
    CHECK(b.server.outstanding() == 1);

    Bytes final_reply = joined(from_hex(kR7), pattern(8192, 3));
    put(final_reply, 68, 4, 8192);  // as the program sends it
    put(final_reply, 72, 4, 0);
    const auto answered = b.answer(final_reply);
    CHECK(to_hex(answered.message) == kR7);
    CHECK(answered.token == kToken);
    CHECK(b.memory.bytes(kToken) == pattern(8192, 3));

    b.hand(from_hex(kR1));  // cancelled in the end
    b.answer(from_hex(kR6));
    CHECK(b.answer(error_reply(kRead, 8, kCancelled, kAsyncFlag)).token == kToken);
    CHECK(b.server.outstanding() == 0);
}

TEST_CASE("vector M1: two descriptors, a short READ") {
    Bench b;
    b.memory.add(0x11111111, 0x1000, Bytes(4096));
    b.memory.add(0x22222222, 0x80000000, Bytes(8192));
    const auto handed = b.hand(from_hex(kM1));
    CHECK(get(handed.message, 68, 4) == 10000);
    CHECK(handed.message.size() == 113);
    const Bytes data = pattern(5000, 4);
    const auto answered = b.answer(read_reply(9, data));
    CHECK(answered.pushed ==
          std::vector<Descriptor>{{0x1000, 0x11111111, 4096}, {0x80000000, 0x22222222, 904}});
    CHECK(answered.token == 0x11111111u);
    CHECK(get(answered.message, 72, 4) == 5000);
    CHECK(get(answered.message, 68, 4) == 0);
    CHECK(answered.message.size() == 80);
    Bytes rest(data.begin() + 4096, data.end());
    rest.resize(8192);
    CHECK(b.memory.bytes(0x22222222) == rest);

    Ask ask{.write = true, .id = 10, .amount = 5000};  // and the WRITE of as much
    ask.descriptors = {{0x1000, 0x11111111, 4096}, {5, 6, 0}, {0x80000000, 0x22222222, 8192}};
    const auto written = b.hand(channel_request(ask));
    CHECK(written.fetched ==
          std::vector<Descriptor>{{0x1000, 0x11111111, 4096}, {0x80000000, 0x22222222, 904}});
    CHECK(std::ranges::equal(std::span(written.message).subspan(112), data));
}

TEST_CASE("vectors B1 and B2: the makers of refusals") {
    Bench b;
    Bytes w1 = from_hex(kW1), r1 = from_hex(kR1);
    put(w1, 124, 4, 8191);
    put(r1, 124, 4, 8191);
    CHECK(to_hex(b.hand(w1).message) == kB1);
    CHECK(to_hex(b.hand(r1).message) == kB2);
    CHECK(b.server.outstanding() == 2);
    // Even if a program should answer it with data, none of them go anywhere.
    const auto answered = b.answer(joined(from_hex(kR3), pattern(8192, 5)));
    CHECK(!answered.walked);
    CHECK(answered.token == kToken);
}

TEST_CASE("what is refused, why, and whether the token is given back", "[smb2:3.3.5.12][smb2:3.3.5.13]") {
    for (const bool write : {false, true}) {
        Bench b;
        const auto with = [&](auto change) {
            Bytes request = from_hex(write ? kW1 : kR1);
            change(request);
            return request;
        };
        const size_t at = write ? 96 : 100, amount = write ? 100 : 68;
        const char* kind = "the channel is of an unknown kind, or RDMA transform, which was not negotiated";
        check_refused(b, with([&](Bytes& r) { put(r, at, 4, 3); }), kind, {});
        check_refused(b, with([&](Bytes& r) { put(r, at, 4, 0x80000001); }), kind, {});
        check_refused(b, with([&](Bytes& r) { put(r, amount, 4, 0); }), "it asks for no bytes", kToken);
        const char* more = "it asks for more bytes than were negotiated";
        check_refused(b, with([&](Bytes& r) { put(r, amount, 4, 0x800001); }), more, kToken);
        check_refused(b, with([&](Bytes& r) { put(r, amount, 4, 0xffffffff); }), more, kToken);
        const char* place = "its Buffer Descriptors are not where they may be";
        check_refused(b, with([&](Bytes& r) { put(r, at + 8, 2, 111); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 8, 2, 113); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 8, 2, 0xffff); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 8, 2, 0); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 10, 2, 0); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 10, 2, 15); }), place, {});
        check_refused(b, with([&](Bytes& r) { put(r, at + 10, 2, 32); }), place, {});
        const char* room = "its Buffer Descriptors have less room than it asks for";
        check_refused(b, with([&](Bytes& r) { put(r, 124, 4, 8191); }), room, kToken);
        check_refused(b, with([&](Bytes& r) { put(r, 124, 4, 8191), put(r, at, 4, 1); }), room, {});
    }
    Bench b;
    for (const auto& [where, value] : {std::pair{66, 112}, {68, 1}}) {
        Bytes request = from_hex(kW1);
        put(request, static_cast<size_t>(where), 2, static_cast<uint64_t>(value));
        check_refused(b, request, "a WRITE by channel has data of its own", kToken);
    }
    b.answer(negotiate_reply(0x0311, 8u << 20, 8191));
    check_refused(b, from_hex(kW1), "it asks for more bytes than were negotiated", kToken);
    CHECK(b.hand(from_hex(kR1)).refusal.empty());  // of a READ the program decides
}

TEST_CASE("what is refused for dialect and device") {
    Bench unknown(0);
    check_refused(unknown, from_hex(kR1), "no dialect was negotiated yet", kToken);
    Bench old(0x0300);
    check_refused(old, from_hex(kR1), "dialect 3.0 has no SMB2_CHANNEL_RDMA_V1_INVALIDATE", {});
    check_refused(old, from_hex(kW1), "dialect 3.0 has no SMB2_CHANNEL_RDMA_V1_INVALIDATE", {});
    for (const bool write : {false, true}) {  // channel 1 is what it has; no token
        const auto handed = old.hand(channel_request({.write = write, .channel = 1}));
        CHECK(handed.refusal.empty());
        CHECK(old.server.outstanding() == 1);
        CHECK(!old.answer(write ? write_reply(8, 8192) : read_reply(8, pattern(8192, 1))).token);
    }
    Bench plain(0x0311, {.can_invalidate = false});
    check_refused(plain, from_hex(kR1), "the RDMA device cannot send with invalidate", {});
    Bench one_way(0x0302, {.can_read = false});
    check_refused(one_way, from_hex(kW1), "the peer serves no RDMA Read", kToken);
    CHECK(one_way.hand(from_hex(kR1)).refusal.empty());
}

TEST_CASE("a full table refuses: by requests and by descriptors") {
    const char* full = "too many requests with channels are outstanding";
    Bench b(0x0311, {.max_requests = 2, .max_descriptors = 64});
    CHECK(b.hand(channel_request({.write = true, .id = 1})).refusal.empty());
    CHECK(b.hand(channel_request({.id = 2})).refusal.empty());
    CHECK(b.hand(channel_request({.id = 3})).refusal == full);
    CHECK(b.hand(channel_request({.write = true, .id = 4})).refusal == full);
    CHECK(b.server.outstanding() == 2);
    CHECK(b.answer(write_reply(1, 8192)).token == kToken);
    CHECK(b.hand(channel_request({.id = 5})).refusal.empty());

    Bench d(0x0311, {.max_requests = 8, .max_descriptors = 3});
    Ask two{
        .id = 1, .amount = 8192, .descriptors = {{kAddress, kToken, 4096}, {kAddress + 4096, kToken, 4096}}};
    CHECK(d.hand(channel_request(two)).refusal.empty());
    two.id = 2;
    CHECK(d.hand(channel_request(two)).refusal == full);
    CHECK(d.hand(channel_request({.id = 3})).refusal.empty());
    two.write = true;  // keeps none
    two.id = 4;
    CHECK(d.hand(channel_request(two)).refusal.empty());
    CHECK(d.server.outstanding() == 4);
    CHECK(d.answer(error_reply(kRead, 2, kInvalidParameter)).token == kToken);  // of the refused one too
    CHECK(d.answer(read_reply(1, pattern(8192, 1))).token == kToken);
    two.write = false;
    two.id = 5;
    CHECK(d.hand(channel_request(two)).refusal.empty());
}

TEST_CASE("signed: a WRITE goes to the program as it is, a READ ends the connection") {
    Bench b;
    const Bytes write = channel_request({.write = true, .flags = kSignedFlag});
    const auto handed = b.hand(write);
    CHECK(!handed.translated);
    CHECK(!handed.error);
    CHECK(handed.message == write);
    CHECK(b.server.outstanding() == 0);
    const Error ended{Reason::channel_signed, ECONNRESET};
    CHECK(b.hand(channel_request({.flags = kSignedFlag})).error == ended);
    Bytes served = write;  // the program would take it
    put(served, 66, 2, 112);
    CHECK(b.hand(served).error == ended);
    CHECK(b.hand(compound({close_request(1), channel_request({.flags = kSignedFlag})})).error == ended);
}

TEST_CASE("what has no channel passes") {
    Bench b;
    const Bytes data = pattern(70000, 1);
    Bytes encrypted = pattern(300, 2);
    put(encrypted, 0, 4, 0x424d53fd);
    for (const Bytes& m : {inline_read(1, 8192), inline_write(2, data), inline_read(3, 4096, kSignedFlag),
                           close_request(4), encrypted, pattern(3, 5), Bytes{},
                           compound({close_request(5), inline_read(6, 100), inline_write(7, data)})}) {
        const auto handed = b.hand(m);
        CHECK(!handed.translated);
        CHECK(!handed.error);
        CHECK(handed.message == m);
    }
    CHECK(b.server.outstanding() == 0);
    const Bytes reply = read_reply(1, data);
    b.hand(from_hex(kR1));
    for (const Bytes& m : {reply, encrypted, Bytes{}, error_reply(18, ~uint64_t{0}, 0)}) {
        const auto answered = b.answer(m);
        CHECK(!answered.walked);
        CHECK(answered.message == m);
        CHECK(!answered.token);
    }
    CHECK(b.server.outstanding() == 1);
}

TEST_CASE("replies in another order, and a MessageId that is used twice") {
    Bench b;
    for (uint64_t id = 0; id < 20; ++id) {
        b.memory.add(100 + static_cast<uint32_t>(id), 0, Bytes(8192));
        b.hand(channel_request({.id = id, .descriptors = {{0, 100 + static_cast<uint32_t>(id), 8192}}}));
    }
    const auto again = b.hand(channel_request({.id = 7, .descriptors = {{0, 999, 8192}}}));
    CHECK(again.translated);  // for the program to see
    CHECK(b.server.outstanding() == 20);
    for (uint64_t k = 0; k < 20; ++k) {
        const uint64_t id = (k * 7 + 3) % 20;
        CHECK(b.answer(read_reply(id, pattern(8192, id))).token == 100 + id);
        CHECK(b.memory.bytes(100 + static_cast<uint32_t>(id)) == pattern(8192, id));
    }
    CHECK(b.server.outstanding() == 0);
}

TEST_CASE("replies that do not fit their requests are refused") {
    const Error ended{Reason::channel_reply, ECONNRESET};
    const auto answer = [&](const Bytes& reply) {
        Bench b;
        b.hand(from_hex(kR1));
        return b.answer(reply).error;
    };
    const auto with = [](size_t at, size_t size, uint64_t value) {
        Bytes reply = read_reply(8, pattern(8192, 1));
        put(reply, at, size, value);
        return reply;
    };
    CHECK(!answer(with(68, 4, 8191)));  // bytes behind the data are dropped
    CHECK(answer(read_reply(8, pattern(8193, 1))) == ended);
    CHECK(answer(with(68, 4, 8193)) == ended);
    CHECK(answer(with(68, 4, 0xffffffff)) == ended);
    CHECK(answer(with(66, 1, 81)) == ended);
    CHECK(answer(with(66, 1, 79)) == ended);
    CHECK(answer(with(64, 2, 9)) == ended);
    Bytes cut = read_reply(8, {});
    cut.resize(79);
    CHECK(answer(cut) == ended);
    CHECK(!answer(read_reply(8, {})));
    CHECK(!answer(read_reply(8, pattern(100, 1), 0x80000005)));  // STATUS_BUFFER_OVERFLOW has data

    Bench b;  // data that lie further behind
    b.hand(from_hex(kR1));
    Bytes far = read_reply(8, pattern(300, 1));
    put(far, 66, 1, 96);
    put(far, 68, 4, 284);
    put(far, 76, 4, 1);
    const auto answered = b.answer(far);
    CHECK(get(answered.message, 66, 1) == 80);
    CHECK(get(answered.message, 72, 4) == 284);
    CHECK(get(answered.message, 76, 4) == 0);
    CHECK(std::ranges::equal(std::span(far).subspan(96), std::span(b.memory.bytes(kToken)).first(284)));
}
