// What two of our own kind do beyond [MS-SMBD]: the end of a stream while the connection stands, and half a
// message that does not wait for the rest.

#include "connection_fixture.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

constexpr uint32_t kFull = 1364 - 24;

Settings own_kind() {
    Settings settings = linux_sizes();
    settings.half_close = true;
    return settings;
}

wire::DataTransferHeader header_of(const OutgoingMessage& message) {
    return *wire::parse_data_transfer_header(message.header);
}

}  // namespace

TEST_CASE("the end of a stream is an empty message with a flag, behind all that was announced") {
    Driver d = established_active(255, 255, own_kind());
    d.next();
    REQUIRE(d.core.announce_message(2 * kFull, 2 * kFull, {}));
    d.core.end_stream();
    CHECK(d.core.next_message(0)->payload_length == kFull);
    CHECK_FALSE(d.core.stream_end_sent());
    CHECK(d.core.next_message(0)->last_fragment);
    const auto end = d.core.next_message(0);
    REQUIRE(end);
    CHECK(to_hex(end->header) == empty_message(0, wire::kSmbdEndOfStream));
    CHECK(d.core.stream_end_sent());
    CHECK_FALSE(d.core.announce_message(1, 1, {}));
    d.core.end_stream();  // once
    CHECK_FALSE(d.core.next_message(0));

    // The connection stands: what comes is received, granted for and answered.
    REQUIRE(d.data(empty_message(3, wire::kSmbdResponseRequested)));
    d.post();
    CHECK(d.next() == empty_message(1));
}

TEST_CASE("a stream that ends in the middle of a message says so, and nothing of it stays behind") {
    Driver d = established_active(255, 255, own_kind());
    d.next();
    REQUIRE(d.core.announce_message(100000, kFull + 100, {}));
    CHECK_FALSE(d.core.next_message(0)->last_fragment);  // a fragment, and 100 bytes are held back
    CHECK_FALSE(d.core.next_message(0));
    CHECK(d.core.is_held_back());
    d.core.end_stream();
    CHECK(d.core.next_message(0)->payload_length == 100);
    const auto end = d.core.next_message(0);
    REQUIRE(end);
    CHECK(header_of(*end).flags == wire::kSmbdEndOfStream);
    CHECK(header_of(*end).data_length == 0);
    CHECK(header_of(*end).remaining_data_length == 100000 - kFull - 100);
    CHECK_FALSE(d.core.next_message(0));
}

TEST_CASE("the end of a stream waits for a credit as everything does") {
    Driver d = established_active(2, 255, own_kind());
    d.next();  // what was posted is granted
    d.core.end_stream();
    CHECK_FALSE(d.core.next_message(0));  // [MS-SMBD] 3.1.5.1: the last one is not spent without a grant
    REQUIRE(d.data(empty_message(1)));
    CHECK(header_of(*d.core.next_message(0)).flags == wire::kSmbdEndOfStream);
}

TEST_CASE("a peer that does not know it is told of no end, and its flag means nothing") {
    Driver d = established_active();
    d.next();
    d.core.end_stream();
    CHECK_FALSE(d.core.next_message(0));
    const auto delivery = d.data(empty_message(1, wire::kSmbdEndOfStream));
    REQUIRE(delivery);
    CHECK_FALSE(delivery->end_of_stream);
    CHECK(d.data(message_bytes({255, 0, 0, 0, 24, 10}, 10)));
}

TEST_CASE("after the end of its stream a peer sends no data") {
    Driver d = established_passive(255, own_kind());
    SECTION("but grants and signs of life") {
        REQUIRE(d.data(message_bytes({255, 1, 0, 90, 24, 10}, 10)));
        const auto end = d.data(to_hex(message_bytes({255, 1, wire::kSmbdEndOfStream, 90, 0, 0})));
        REQUIRE(end);
        CHECK(end->end_of_stream);
        CHECK(end->length == 0);
        const auto later = d.data(empty_message(5, wire::kSmbdResponseRequested));
        REQUIRE(later);
        CHECK_FALSE(later->end_of_stream);
        CHECK(d.next() != "");
    }
    SECTION("in the same message") {
        CHECK_FALSE(d.data(message_bytes({255, 1, wire::kSmbdEndOfStream, 0, 24, 10}, 10)));
    }
    SECTION("in a later one") {
        REQUIRE(d.data(empty_message(1, wire::kSmbdEndOfStream)));
        CHECK_FALSE(d.data(message_bytes({255, 1, 0, 0, 24, 10}, 10)));
    }
    if (d.core.state() == State::terminated)
        CHECK(d.core.termination() == Error{Reason::protocol_violation, ECONNRESET});
}

TEST_CASE("half a message goes when it is pushed, once") {
    Driver d = established_active();
    d.next();
    d.core.push();  // nothing is there
    REQUIRE(d.core.announce_message(100000, 10, {}));
    CHECK_FALSE(d.core.next_message(0));
    CHECK(d.core.is_held_back());
    d.core.push();
    const auto first = d.core.next_message(0);
    REQUIRE(first);
    CHECK(first->payload_length == 10);
    CHECK(header_of(*first).remaining_data_length == 100000 - 10);
    CHECK_FALSE(d.core.is_held_back());
    d.core.on_available(20);
    CHECK_FALSE(d.core.next_message(0));
    d.core.push();
    d.core.on_available(2 * kFull + 10);  // all of it, whatever it fills
    CHECK(d.core.next_message(0)->payload_length == kFull);
    CHECK(d.core.next_message(0)->payload_length == kFull);
    CHECK_FALSE(d.core.next_message(0));
    d.core.on_available(100000);
    uint32_t sum = 2 * kFull + 10;
    while (const auto message = d.core.next_message(0)) sum += message->payload_length;
    CHECK(sum == 100000);
}
