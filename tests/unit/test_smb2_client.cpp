// The client's side of the SMB2 channel translation: vectors C1 to C4 of facts/smb2-channel.md, and what goes
// inline.
#include "smb2/client_channels.hpp"

#include "smb2_support.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using smb2::ClientChannels;
using smb2::ClientLimits;

namespace {

constexpr const char* kC1 =
    "fe534d4240001000000000000800010000000000000000000a00000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000000100000000000000000000102030405060708a1a2a3a4a5a6a7a800000000000000000000000000"
    "00000000";
// With channel 1 at offset 100 where the fact sheet has 2: we let nobody invalidate.
constexpr const char* kC2 =
    "fe534d4240001000000000000800010000000000000000000a00000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "00000000000000310000000000100000000000000000000102030405060708a1a2a3a4a5a6a7a800000000010000000000000070"
    "00100000"
    "003412ff7f00005500000000001000";
constexpr const char* kC3 =
    "fe534d4240001000000000000800100001000000000000000a00000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000011005000000000000000100000000000";
constexpr const char* kC4 =
    "fe534d4240001000000000000800100001000000000000000a00000000000000fffe000005000000887766554433221100000000"
    "0000000000"
    "0000000000000011005000000010000000000000000000";

constexpr Error kNeeded{Reason::channel_needed, EMSGSIZE}, kMisfit{Reason::channel_reply, ECONNRESET};
using Ask = ClientChannels::RequestLook::Kind;
using Answer = ClientChannels::ReplyLook::Kind;

ClientLimits limits() {
    ClientLimits l;
    l.max_message_out = 1 << 20;
    l.max_message_in = (8 << 20) + 65536;
    return l;
}

struct Bench {
    ClientChannels client;
    explicit Bench(uint16_t dialect = 0x0311, const ClientLimits& l = limits()) : client(l) {
        if (dialect) reply(negotiate_reply(dialect));
    }
    Result<ClientChannels::RequestLook> look(const Bytes& m) const {
        return client.look_at_request(look_part(m), static_cast<uint32_t>(m.size()));
    }
    // What becomes of it: "pass", "read 5", "write 5" or "needed".
    std::string fate(const Bytes& m) const {
        const auto seen = look(m);
        if (!seen) return seen.error() == kNeeded ? "needed" : "?";
        if (seen->kind == Ask::pass) return "pass";
        return (seen->kind == Ask::read ? "read " : "write ") + std::to_string(seen->amount);
    }
    std::string build(const Bytes& m, std::vector<Descriptor> buffer, uint32_t cookie) {
        return to_hex(client.build_request(look_part(m), buffer, cookie));
    }
    Result<ClientChannels::ReplyLook> reply(const Bytes& m) {
        return client.look_at_reply(look_part(m), static_cast<uint32_t>(m.size()));
    }
};

}  // namespace

TEST_CASE("vectors C1 to C4: a READ of 1 MiB", "[smb2:3.2.4.6][smb2:3.2.5.11]") {
    Bench b;
    CHECK(b.fate(from_hex(kC1)) == "read 1048576");
    CHECK(b.build(from_hex(kC1), {{0x7fff12340000, 0x55, 1048576}}, 31) == kC2);
    CHECK(b.client.outstanding() == 1);
    const auto answer = b.reply(from_hex(kC3));
    REQUIRE(answer);
    CHECK(answer->kind == Answer::data);
    CHECK(answer->cookie == 31);
    CHECK(answer->amount == 1048576);
    CHECK(to_hex(answer->header) == kC4);
    CHECK(b.client.outstanding() == 0);
    CHECK(b.reply(from_hex(kC3))->kind == Answer::pass);  // once
}

TEST_CASE("a WRITE, from a buffer of several pieces", "[smb2:3.2.4.7][smb2:3.2.5.12]") {
    Bench b(0x0300);
    Bytes request = inline_write(77, pattern(9000, 1), 0, 0x123456789a);
    put(request, 108, 4, 1);  // WRITE_THROUGH stays
    CHECK(b.fate(request) == "write 9000");
    const std::vector<Descriptor> pieces = {{0x1000, 1, 4096}, {0x9000, 2, 4904}};
    Bytes wanted = channel_request({.write = true,
                                    .id = 77,
                                    .amount = 9000,
                                    .channel = 1,
                                    .descriptors = pieces,
                                    .file_offset = 0x123456789a});
    put(wanted, 108, 4, 1);
    CHECK(b.build(request, pieces, 5) == to_hex(wanted));
    CHECK(b.reply(interim_reply(kWrite, 77))->kind == Answer::pass);  // the payload must stay
    CHECK(b.client.outstanding() == 1);
    const auto answer = b.reply(write_reply(77, 9000, kAsyncFlag));
    CHECK(answer->kind == Answer::release);
    CHECK(answer->cookie == 5);
    CHECK(b.client.outstanding() == 0);
}

TEST_CASE("which transfers go by channel: threshold, size, dialect") {
    const auto write = [](size_t size) { return inline_write(1, pattern(size, 1)); };
    Bench b;
    CHECK(b.fate(inline_read(1, 4095)) == "pass");
    CHECK(b.fate(inline_read(1, 4096)) == "read 4096");
    CHECK(b.fate(write(4095)) == "pass");
    CHECK(b.fate(write(4096)) == "write 4096");
    CHECK(b.fate(inline_read(1, 8 << 20)) == "read 8388608");
    CHECK(b.fate(inline_read(1, (8 << 20) + 1)) ==
          "pass");  // beyond MaxReadWriteSize, but the answer has room
    CHECK(b.fate(inline_read(1, 0xffffffff)) == "needed");
    CHECK(b.fate(inline_read(1, 0)) == "pass");

    ClientLimits only_must = limits();
    only_must.threshold = UINT32_MAX;
    only_must.max_message_in = 100'000;
    Bench m(0x0311, only_must);
    CHECK(m.fate(inline_read(1, 99'920)) == "pass");
    CHECK(m.fate(inline_read(1, 99'921)) == "read 99921");
    CHECK(m.fate(write((1 << 20) - 112)) == "pass");
    CHECK(m.fate(write((1 << 20) - 111)) == "write 1048465");

    for (const uint16_t dialect : {0x0000, 0x0202, 0x0210, 0x02ff}) {
        Bench old(dialect);
        CHECK(old.fate(inline_read(1, 65536)) == "pass");
        CHECK(old.fate(write(65536)) == "pass");
        CHECK(old.fate(write(1 << 20)) == "needed");
        CHECK(old.fate(inline_read(1, 9 << 20)) == "needed");
    }
    ClientLimits every = limits();
    every.threshold = 0;
    Bench all(0x0311, every);
    CHECK(all.fate(inline_read(1, 1)) == "read 1");
    CHECK(all.fate(inline_read(1, 0)) == "pass");
    ClientLimits none = limits();
    none.allowed = false;
    Bench off(0x0311, none);
    CHECK(off.fate(inline_read(1, 65536)) == "pass");
    CHECK(off.fate(write(1 << 20)) == "needed");
    ClientLimits few = limits();
    few.max_requests = 1;
    Bench full(0x0311, few);
    full.build(inline_read(1, 65536), {{0, 1, 65536}}, 0);
    CHECK(full.fate(inline_read(2, 65536)) == "pass");
    CHECK(full.fate(write(1 << 20)) == "needed");
}

TEST_CASE("what cannot go by channel goes inline, or fails when it is too large") {
    Bench b;
    const Bytes big = pattern(1 << 20, 1), small = pattern(65536, 1);
    CHECK(b.fate(inline_read(1, 65536, kSignedFlag)) == "pass");
    CHECK(b.fate(inline_write(1, small, kSignedFlag)) == "pass");
    CHECK(b.fate(inline_write(1, big, kSignedFlag)) == "needed");
    CHECK(b.fate(inline_read(1, 9 << 20, kSignedFlag)) == "needed");
    CHECK(b.fate(inline_read(1, 65536, kRelatedFlag)) == "pass");
    CHECK(b.fate(compound({inline_read(1, 65536), close_request(2)})) == "pass");
    CHECK(b.fate(compound({inline_write(1, big), close_request(2)})) == "needed");
    CHECK(b.fate(compound({close_request(2), inline_write(1, big)})) == "needed");
    CHECK(b.fate(channel_request({})) == "pass");  // it has one of its own
    Bytes odd = inline_write(1, small);
    put(odd, 66, 2, 120);
    CHECK(b.fate(odd) == "pass");
    Bytes lying = inline_write(1, small);
    put(lying, 68, 4, 65537);
    CHECK(b.fate(lying) == "pass");
    CHECK(b.fate(joined(inline_write(1, small), Bytes(8))) == "pass");
    Bytes encrypted(2000);
    put(encrypted, 0, 4, 0x424d53fd);
    CHECK(b.fate(encrypted) == "pass");
    encrypted.resize((1 << 20) + 1);
    CHECK(b.fate(encrypted) == "needed");
    CHECK(b.fate(close_request(1)) == "pass");
    CHECK(b.fate({}) == "pass");
    CHECK(b.fate(pattern(100, 1)) == "pass");
}

TEST_CASE("a pipe has no channel") {  // ksmbd looks for data behind the request there, and finds none
    constexpr uint8_t kDisk = 1, kPipe = 2;
    const auto in_tree = [](Bytes bytes, uint32_t tree, uint64_t session) {
        put(bytes, 36, 4, tree);
        put(bytes, 40, 8, session);
        return bytes;
    };
    // smbclient's largest
    const Bytes read = inline_read(1, 4280), write = inline_write(1, pattern(4280, 1));
    Bench b;
    b.reply(tree_connected(kDisk, 1, 70));
    b.reply(tree_connected(kPipe, 2, 70));
    b.reply(tree_connected(kPipe, 1, 71));  // trees are numbered for each session
    CHECK(b.fate(in_tree(write, 1, 70)) == "write 4280");
    CHECK(b.fate(in_tree(write, 2, 70)) == "pass");
    CHECK(b.fate(in_tree(read, 2, 70)) == "pass");
    CHECK(b.fate(in_tree(write, 1, 71)) == "pass");
    CHECK(b.fate(in_tree(inline_write(1, pattern(1 << 20, 1)), 1, 71)) == "needed");
    b.reply(tree_connected(kDisk, 2, 70));  // the number was free again
    CHECK(b.fate(in_tree(read, 2, 70)) == "read 4280");
    b.reply(tree_connected(kPipe, 2, 70, 0xc00000cc));
    CHECK(b.fate(in_tree(read, 2, 70)) == "read 4280");
    for (uint32_t tree = 100; tree < 1100; ++tree) b.reply(tree_connected(kPipe, tree, 70));
    CHECK(b.fate(in_tree(read, 1099, 70)) == "pass");  // of very many, the latest are known
    CHECK(b.fate(in_tree(read, 1, 70)) == "read 4280");
}

TEST_CASE("replies to a READ by channel") {
    const auto answer = [](const Bytes& reply) {
        Bench b;
        b.build(inline_read(10, 5000), {{0, 1, 5000}}, 3);
        const auto seen = b.reply(reply);
        CHECK(b.client.outstanding() == 0);
        return seen;
    };
    const auto reply = [](uint32_t remaining, uint32_t status = 0) {
        Bytes bytes = read_reply(10, {}, status);
        put(bytes, 72, 4, remaining);
        return bytes;
    };
    CHECK(answer(reply(5000))->amount == 5000);
    CHECK(answer(reply(77))->amount == 77);  // short
    CHECK(answer(reply(77, 0x80000005))->amount == 77);
    CHECK(get(answer(reply(77, 0x80000005))->header, 8, 4) == 0x80000005);
    CHECK(answer(reply(0))->kind == Answer::data);
    CHECK(answer(reply(0))->amount == 0);
    CHECK(answer(reply(5001)).error() == kMisfit);
    CHECK(answer(reply(0xffffffff)).error() == kMisfit);
    const auto error = answer(error_reply(kRead, 10, kEndOfFile));  // gives the buffer back
    CHECK(error->kind == Answer::release);
    CHECK(error->cookie == 3);
    CHECK(answer(read_reply(10, pattern(5000, 1)))->kind == Answer::release);  // inline after all
    Bytes cut = reply(10), chained = reply(10), other = reply(10);
    cut.resize(79);
    CHECK(answer(cut).error() == kMisfit);
    put(other, 64, 2, 9);
    CHECK(answer(other).error() == kMisfit);
    Bench b;
    b.build(inline_read(10, 5000), {{0, 1, 5000}}, 3);
    put(chained, 20, 4, 80);
    CHECK(b.reply(chained).error() == kMisfit);
    CHECK(b.reply(read_reply(11, pattern(100, 1)))->kind == Answer::pass);
    CHECK(b.reply(pattern(200, 1))->kind == Answer::pass);
    CHECK(b.reply({})->kind == Answer::pass);
    CHECK(b.client.outstanding() == 1);
}

TEST_CASE("many at once, answered in another order") {
    Bench b;
    for (uint32_t id = 0; id < 50; ++id) b.build(inline_read(id, 8192), {{id, id, 8192}}, 1000 + id);
    for (uint32_t k = 0; k < 50; ++k) {
        const uint32_t id = (k * 11 + 4) % 50;
        CHECK(b.reply(interim_reply(kRead, id))->kind == Answer::pass);
        Bytes reply = read_reply(id, {}, 0, kAsyncFlag);
        put(reply, 72, 4, id + 1);
        const auto answer = b.reply(reply);
        CHECK((answer->cookie == 1000 + id && answer->amount == id + 1));
    }
    CHECK(b.client.outstanding() == 0);
}
