// Layouts of MPA, DDP and RDMAP against bytes that siw and the RFCs have shown.
#include "fabric/iwarp/transmitter.hpp"
#include "raw_peer.hpp"
#include "support/catch.hpp"

using namespace fabric_test;
using namespace smbdirect::wire;

TEST_CASE("MPA frames as cifs.ko and ksmbd send them over siw") {
    const Bytes request = hex(request_key + "10 02 000c 0020 0000 20000000 01000000");
    size_t size = 0;
    auto frame = parse_mpa(MpaKind::request, request, &size);
    REQUIRE(frame);
    CHECK(size == 32);
    CHECK(frame->revision == 2);
    CHECK((frame->enhanced && !frame->crc && !frame->markers && !frame->reject && !frame->peer_to_peer));
    CHECK(frame->ird == 32);
    CHECK(frame->ord == 0);
    CHECK(to_hex(frame->private_data) == "2000000001000000");
    Bytes built(mpa_max_frame);
    built.resize(build_mpa(*frame, built));
    CHECK(built == request);

    const Bytes reply = hex(reply_key + "58 02 000c 8001 8008 00000001 00000008");
    frame = parse_mpa(MpaKind::reply, reply, &size);
    REQUIRE(frame);
    CHECK((frame->crc && frame->enhanced && frame->peer_to_peer && frame->rtr_write && !frame->rtr_read));
    CHECK(frame->ird == 1);
    CHECK(frame->ord == 8);
    built.assign(mpa_max_frame, {});
    built.resize(build_mpa(*frame, built));
    // siw's private flag 0x08 is not ours to send.
    CHECK(to_hex(built) == reply_key + "5002000c80018008" + "0000000100000008");
}

TEST_CASE("MPA frames are judged as early as they can be") {
    const Bytes request = hex(request_key + "10 02 0008 8020 c001 01020304");
    for (size_t n = 0; n < request.size(); ++n) {
        CHECK(parse_mpa(MpaKind::request, std::span(request).first(n), nullptr).error() ==
              MpaError::incomplete);
    }
    CHECK(parse_mpa(MpaKind::reply, request, nullptr).error() == MpaError::other_kind);
    CHECK(parse_mpa(MpaKind::request, ascii("G"), nullptr).error() == MpaError::wrong_key);
    CHECK(parse_mpa(MpaKind::request, ascii("MPA ID Rxx"), nullptr).error() == MpaError::wrong_key);
    CHECK(parse_mpa(MpaKind::request, hex(request_key + "00 01 0201"), nullptr).error() ==
          MpaError::too_long);
    CHECK(parse_mpa(MpaKind::request, hex(request_key + "10 02 0003 000000"), nullptr).error() ==
          MpaError::words_missing);
    // S in revision 1 is a reserved bit; the private data is the upper layer's alone.
    const Bytes old = hex(request_key + "10 01 0004 8020c001");
    const auto frame = parse_mpa(MpaKind::request, old, nullptr);
    REQUIRE(frame);
    CHECK_FALSE(frame->enhanced);
    CHECK(frame->private_data.size() == 4);
    // Without A the other bits mean nothing.
    const Bytes loose = hex(request_key + "10 02 0004 4020c001");
    CHECK_FALSE(parse_mpa(MpaKind::request, loose, nullptr)->rtr_write);
}

TEST_CASE("CRC32C vectors") {
    // RFC 5044 figure 5 (a leading marker included), and siw's ready-to-receive Write.
    const Bytes figure = hex("00000000 002a4143 00000000 00000000 00000001 00000000") + Bytes(24);
    const Bytes rtr = hex("000ec140 00000001 0000000000000000");
    for (const auto& [bytes, expected] : {std::pair{figure, "52239983"}, std::pair{rtr, "ebd34c5f"}}) {
        iwarp::Crc32c whole, pieces;
        whole.add(bytes.data(), bytes.size());
        pieces.add(bytes.data(), 7);
        pieces.add(bytes.data() + 7, 0);
        pieces.add(bytes.data() + 7, bytes.size() - 7);
        Bytes out(4);
        whole.store(out.data());
        CHECK(to_hex(out) == expected);
        CHECK(pieces.matches(out.data()));
    }
}

TEST_CASE("segment headers") {
    Segment send = send_segment(1);
    send.payload_length = 20;
    Bytes out(20);
    CHECK(build_segment(send, out.data()) == 20);
    CHECK(to_hex(out) == "0026414300000000000000000000000100000000");  // siw's first data FPDU
    const auto size = fpdu_header_size(std::span(out).first<4>());
    REQUIRE(size);
    CHECK(*size == 20);
    const Segment parsed = parse_segment(out);
    CHECK((parsed.last && !parsed.tagged && parsed.is_send() && !parsed.invalidates()));
    CHECK(parsed.payload_length == 20);
    CHECK(parsed.msn == 1);

    Segment write = write_segment(0x11223344, 0x0102030405060708, false);
    write.payload_length = 1;
    out.assign(16, {});
    CHECK(build_segment(write, out.data()) == 16);
    CHECK(to_hex(out) == "000f8140112233440102030405060708");
    CHECK(*fpdu_header_size(std::span(out).first<4>()) == 16);
    CHECK(parse_segment(out).offset == 0x0102030405060708);

    Bytes request(read_request_size);
    build_read_request({1, 2, 3, 4, 5}, request.data());
    CHECK(to_hex(request) == "00000001000000000000000200000003000000040000000000000005");
    const auto back = parse_read_request(std::span(request).first<read_request_size>());
    CHECK((back.sink_stag == 1 && back.sink_offset == 2 && back.length == 3 && back.source_stag == 4 &&
           back.source_offset == 5));
}

TEST_CASE("what can never become a valid FPDU is refused after four bytes") {
    const auto judge = [](const std::string& text) {
        const Bytes bytes = hex(text);
        return fpdu_header_size(std::span(bytes).first<4>());
    };
    CHECK(judge("000d c140").error() == violation::mpa_length);  // shorter than any header
    CHECK(judge("0011 4143").error() == violation::mpa_length);  // shorter than an untagged one
    CHECK(judge("002d 4141").error() == violation::mpa_length);  // Read Request: exactly 46
    CHECK(judge("002f 4141").error() == violation::rdmap_stream);
    CHECK(judge("002e 0141").error() == violation::rdmap_stream);      // ... in one segment
    CHECK(judge("0015 4147").error() == violation::mpa_length);        // Terminate: at least 22
    CHECK(judge("0020 4043").error() == violation::untagged_version);  // DV 0
    CHECK(judge("0020 c240").error() == violation::tagged_version);
    CHECK(judge("0020 4103").error() == violation::rdmap_version);  // RV 0
    CHECK(judge("0020 c143").error() == violation::rdmap_opcode);   // T against opcode
    CHECK(judge("0020 4140").error() == violation::rdmap_opcode);
    for (int opcode = 8; opcode < 16; ++opcode) {
        CHECK(judge("0030 414" + std::string(1, "0123456789abcdef"[opcode])).error() ==
              violation::rdmap_opcode);
    }
    CHECK(*judge("ffff 4143") == 20);  // siw goes beyond RFC 5044's ceiling
    CHECK(*judge("0012 4d73") == 20);  // reserved bits are ignored
}

TEST_CASE("Terminate in the bit order of RFC 5040") {
    Bytes out(128);
    out.resize(iwarp::build_terminate_fpdu(violation::untagged_too_long, 0, {}, false, out.data()));
    CHECK(to_hex(out) ==
          "0016414700000000"
          "00000002"
          "00000001"
          "00000000"
          "12050000"
          "00000000");
    CHECK(parse_terminate(std::span(out).subspan<20, 4>()) == violation::untagged_too_long);
    out.assign(128, {});
    const Bytes header = hex("c140 11223344 0000000000000005");
    out.resize(iwarp::build_terminate_fpdu(violation::tagged_bounds, 30, header, false, out.data()));
    CHECK(to_hex(std::span(out).first(40)) ==
          "0026414700000000"
          "00000002"
          "00000001"
          "00000000"
          "1101c000"
          "001e" +
              to_hex(header));
}
