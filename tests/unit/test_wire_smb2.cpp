// The layouts of SMB2 that channels touch, against plain offsets.
#include <memory>

#include "smb2_support.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using namespace smbdirect::wire::smb2;

TEST_CASE("READ and WRITE have their fields where they belong", "[smb2:2.2.19][smb2:2.2.21]") {
    Random random(1);
    bool same = true;
    for (int i = 0; i < 20000; ++i) {
        Bytes bytes = pattern(112 + random.below(20), random.next());
        const bool write = random.chance(50);
        const auto t = parse_transfer(bytes, write ? Command::write : Command::read);
        const size_t at = write ? 96 : 100;
        same &= t && t->write == write && t->data_offset == (write ? get(bytes, 66, 2) : 0) &&
                t->length == get(bytes, 68, 4) && static_cast<uint32_t>(t->channel) == get(bytes, at, 4) &&
                t->remaining_bytes == get(bytes, at + 4, 4) &&
                t->channel_info_offset == get(bytes, at + 8, 2) &&
                t->channel_info_length == get(bytes, at + 10, 2);
        Bytes other = bytes;  // writing what was read changes nothing
        set_transfer(other, *t);
        same &= other == bytes;
        Transfer none;
        none.write = write;
        set_transfer(other, none);  // and writing zeros nothing but these fields
        if (write) put(bytes, 66, 2, 0);
        put(bytes, 68, 4, 0);
        put(bytes, at, 4, 0);
        put(bytes, at + 4, 8, 0);
        same &= other == bytes;
    }
    CHECK(same);
}

TEST_CASE("a reply to READ", "[smb2:2.2.20]") {
    Bytes bytes = pattern(85, 3);
    const auto reply = parse_read_reply(bytes);
    REQUIRE(reply);
    CHECK(reply->structure_size == get(bytes, 64, 2));
    CHECK(reply->data_offset == get(bytes, 66, 1));
    CHECK(reply->data_length == get(bytes, 68, 4));
    CHECK(reply->data_remaining == get(bytes, 72, 4));
    Bytes other = bytes;
    set_read_reply(other, *reply);
    put(bytes, 67, 1, 0);
    put(bytes, 76, 4, 0);
    CHECK(other == bytes);
    set_next_command(other, 0x01020304);
    put(bytes, 20, 4, 0x01020304);
    CHECK(other == bytes);
}

TEST_CASE("a header is one only with its signature and its size", "[smb2:2.2.1]") {
    Bytes bytes = smb2_message(64, kWrite, 0x1122334455667788, 0x80000009, 0xc0000011);
    put(bytes, 20, 4, 0x50607080);
    const auto header = parse_header(bytes);
    REQUIRE(header);
    CHECK(header->status == 0xc0000011);
    CHECK(header->command == Command::write);
    CHECK(header->flags == 0x80000009);
    CHECK(header->next_command == 0x50607080);
    CHECK(header->message_id == 0x1122334455667788);
    CHECK(header->tree_id == 5);
    CHECK(header->session_id == 0x1122334455667788);
    for (const size_t at : {0u, 3u, 4u, 5u}) {
        Bytes wrong = bytes;
        wrong[at] ^= std::byte{1};
        CHECK(!parse_header(wrong));
    }
}

TEST_CASE("nothing outside the input is read") {  // means something under AddressSanitizer
    for (size_t size = 0; size < 140; ++size) {
        const Bytes full = size < 64 ? pattern(140, size) : negotiate_reply(0x0311);
        const auto bytes = std::make_unique<std::byte[]>(size);
        std::copy_n(full.begin(), size, bytes.get());
        const std::span<const std::byte> view(bytes.get(), size);
        CHECK(parse_header(view).has_value() == (size >= 64));
        CHECK(parse_transfer(view, Command::read).has_value() == (size >= 112));
        CHECK(parse_transfer(view, Command::write).has_value() == (size >= 112));
        CHECK(parse_read_reply(view).has_value() == (size >= 80));
        CHECK(parse_negotiate_reply(view).has_value() == (size >= 128));
        CHECK(parse_share_type(view).has_value() == (size >= 67));
        CHECK((protocol_id(view) != 0) == (size >= 4));
    }
}

TEST_CASE("what NEGOTIATE settles", "[smb2:2.2.4]") {
    smb2::Negotiated negotiated;
    CHECK(!negotiated.is_version_3());
    negotiated.learn(negotiate_reply(0x0302, 1 << 20, 2 << 20));
    CHECK(negotiated.dialect == 0x0302);
    CHECK(negotiated.max_read_size == 1 << 20);
    CHECK(negotiated.max_write_size == 2 << 20);
    CHECK(negotiated.is_version_3());
    Bytes failed = negotiate_reply(0x0311), request = failed, other = failed;
    put(failed, 8, 4, kInvalidParameter);
    put(request, 16, 4, 0);
    put(other, 12, 2, 1);
    for (const Bytes& m : {failed, request, other, Bytes{}}) negotiated.learn(m);
    CHECK(negotiated.dialect == 0x0302);
    for (const uint16_t dialect : {0x0202, 0x0210, 0x02ff}) {
        negotiated.learn(negotiate_reply(dialect));
        CHECK(negotiated.dialect == dialect);
        CHECK(!negotiated.is_version_3());
    }
}

TEST_CASE("why a large transfer went inline") {
    using smb2::Unused;
    smb2::Negotiated three, two;
    three.learn(negotiate_reply(0x0311));
    two.learn(negotiate_reply(0x0210));
    const auto why = [](const Bytes& m, const smb2::Negotiated& n) {
        return smb2::why_unused(look_part(m), static_cast<uint32_t>(m.size()), n);
    };
    const Bytes data = pattern(4096, 1);
    CHECK(why(inline_read(1, 4096), three) == Unused::none);  // the client's own choice
    CHECK(why(inline_read(1, 4096, kSignedFlag), three) == Unused::signing);
    CHECK(why(inline_write(1, data, kSignedFlag), three) == Unused::signing);
    CHECK(why(inline_read(1, 4095, kSignedFlag), three) == Unused::none);
    CHECK(why(inline_write(1, data), two) == Unused::dialect);
    CHECK(why(close_request(1), two) == Unused::none);
    CHECK(why(channel_request({}), two) == Unused::none);
    Bytes encrypted(4096);
    put(encrypted, 0, 4, 0x424d53fd);
    CHECK(why(encrypted, three) == Unused::encryption);
    encrypted.resize(4095);
    CHECK(why(encrypted, three) == Unused::none);
}
