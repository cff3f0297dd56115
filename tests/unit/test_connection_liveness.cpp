// Life while a program stands still (DESIGN.md D4): it does not read, or it stopped in the middle of a
// message.
#include "connection_fixture.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

const std::string kEight = "ff0000000000000000000000180000000800000000000000 4142434445464748";
const std::string kKeepalive = "ff00000001000000000000000000000000000000";
constexpr uint32_t kFull = 1340;  // payload of a full fragment

}  // namespace

TEST_CASE("a starved peer is not asked for an answer, but hears from us early") {
    Driver d = established_passive(4);
    REQUIRE(d.data(empty_message(200, 0, 4)));
    for (int i = 0; i < 2; ++i) REQUIRE(d.data(kEight));
    CHECK(d.core.peer_starved());  // it holds one credit, and the program does not read
    CHECK(d.core.deadline() == 60 * kSecond);
    uint32_t sent = 0;
    for (Nanoseconds hour = 0; d.now < 3 * 3600 * kSecond; hour += kSecond) {
        d.now = *d.core.deadline();
        d.core.on_timer(d.now);
        const std::string message = d.next();
        CHECK(message == empty_message(0));
        CHECK(d.next() == "");
        ++sent;
        REQUIRE(d.core.state() == State::established);
        REQUIRE(*d.core.deadline() > d.now);
    }
    CHECK(sent == 180);  // one a minute
    for (int i = 0; i < 100; ++i) d.core.on_timer(d.now = *d.core.deadline());
    while (d.next() != "") {
    }
    CHECK(d.core.send_credits() >= 1);  // the last one is kept for the grant that will come
    for (int i = 0; i < 100; ++i) d.core.on_timer(d.now = *d.core.deadline());
    CHECK(d.next().empty() == (d.core.send_credits() == 1));
    REQUIRE(d.core.state() == State::established);
    d.post();  // the program reads
    CHECK(d.next() != "");
    CHECK(!d.core.peer_starved());
}

TEST_CASE("a question that cannot be sent waits for a whole interval, then it is over", "[smbd:3.1.6.2]") {
    Driver d = established_passive();  // no credit before the initiator's first message
    d.core.on_timer(d.now = 120 * kSecond);
    CHECK(d.next() == "");
    CHECK(d.core.deadline() == 240 * kSecond);
    SECTION("nothing comes") {
        d.core.on_timer(d.now = 240 * kSecond);
        CHECK(d.core.termination() == Error{Reason::keepalive_timeout, ETIMEDOUT});
    }
    SECTION("a message comes") {
        d.now = 239 * kSecond;
        REQUIRE(d.data(empty_message(3)));
        d.core.on_timer(d.now = 240 * kSecond);
        CHECK(d.core.state() == State::established);
        CHECK(d.next() == "");
    }
}

TEST_CASE("a message that is partly there goes out in full fragments and leaves bytes behind") {
    Driver d = established_active();
    d.next();
    REQUIRE(d.core.announce_message(100000, 10, {}));
    CHECK(d.next() == "");
    d.core.on_available(kFull);
    CHECK(d.next() == "");  // it would leave nothing to carry a grant
    d.core.on_available(3 * kFull + 63);
    const auto first = d.core.next_message(0), second = d.core.next_message(0);
    CHECK(first->payload_length == kFull);
    CHECK(second->payload_length == kFull);
    CHECK(second->payload_offset == kFull);
    CHECK(!d.core.next_message(0));
    d.core.on_available(3 * kFull);  // never backwards
    d.core.on_available(100000);
    uint32_t sum = 2 * kFull;
    while (const auto message = d.core.next_message(0)) sum += message->payload_length;
    CHECK(sum == 100000);
}

TEST_CASE("a message that has not begun does not stand in the way of empty messages") {
    Driver d = established_active();
    d.next();
    REQUIRE(d.core.announce_message(100000, 1000, {}));
    REQUIRE(d.data(kKeepalive));
    d.post();
    CHECK(d.next() == empty_message(1));
    d.core.on_available(100000);
    CHECK(d.core.next_message(0)->payload_offset == 0);
}

TEST_CASE("in the middle of a message, answers and grants ride on single bytes, then on none") {
    Driver d = established_active(60000);
    d.next();
    const uint32_t available = 2 * kFull + 70;
    REQUIRE(d.core.announce_message(4 * kFull, available, {}));
    CHECK(d.core.next_message(0)->payload_length == kFull);
    CHECK(d.core.next_message(0)->payload_length == kFull);
    CHECK(!d.core.next_message(0));
    uint32_t sent = 2 * kFull;
    for (int i = 0; i < 200; ++i) {
        REQUIRE(d.data(kKeepalive));
        d.post();
        const auto message = d.core.next_message(0);
        REQUIRE(message);
        CHECK(!d.core.next_message(0));
        const auto header = *wire::parse_data_transfer_header(message->header);
        CHECK(header.credits_granted == 1);
        CHECK(header.flags == 0);
        CHECK(message->payload_length == (sent < available ? 1 : 0));
        CHECK(message->header.size() == (message->payload_length ? 24 : 20));
        CHECK(header.data_offset == (message->payload_length ? 24 : 0));
        sent += message->payload_length;
        CHECK(header.remaining_data_length == 4 * kFull - sent);
        CHECK(!message->last_fragment);
    }
    CHECK(sent == available);
    d.core.on_available(4 * kFull);
    const auto next = d.core.next_message(0);
    CHECK(next->payload_offset == available);
    CHECK(next->payload_length == kFull);
    const auto last = d.core.next_message(0);
    CHECK(last->last_fragment);
    CHECK(last->payload_length == kFull - 70);
}

TEST_CASE("receiving in the middle of a message of ours: half a window is granted at a time") {
    Driver d = established_active(60000);
    d.next();
    REQUIRE(d.core.announce_message(1 << 20, 20 * kFull, {}));
    while (d.core.next_message(0)) {
    }
    uint32_t carriers = 0, received = 0;
    for (; received < 1280; ++received) {
        REQUIRE(d.data(kEight));
        d.post();
        while (const auto message = d.core.next_message(0)) {
            CHECK(message->payload_length == 1);
            ++carriers;
        }
    }
    CHECK(carriers == 10);  // 255 / 2 known at least: every 128 messages
}
