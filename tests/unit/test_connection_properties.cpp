// Properties of facts/ms-smbd.md section 10 that one Connection shows by itself; the others are in
// tests/simulation.
#include "connection_fixture.hpp"
#include "support/catch.hpp"
#include "support/literal_receiver.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

const std::string kKeepalive = "ff00000001000000000000000000000000000000";
const std::string kEight = "ff0000000000000000000000180000000800000000000000 4142434445464748";

}  // namespace

TEST_CASE("property 6: SendCredits saturates, it never wraps", "[smbd:3.1.5.8]") {
    Driver d = established_passive();
    const Bytes generous = from_hex("ff00ffff00000000000000000000000000000000");
    uint32_t last = 0;
    bool falls = false;
    for (int i = 0; i < 70000; ++i) {
        if (!d.data(generous)) FAIL("terminated at " << i);
        d.post();
        if (i % 200 == 199) d.next();
        falls |= uint64_t{d.core.send_credits()} + 1 < last;  // a grant of ours costs one
        last = d.core.send_credits();
    }
    CHECK(!falls);
    CHECK(last > 0xffff0000);
}

TEST_CASE("property 7: the last credit waits for something to grant", "[smbd:3.1.5.1]") {
    Driver d = established_active(2);
    d.next();  // grants 255
    CHECK(d.core.send_credits() == 1);
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() == "");
    CHECK(d.next() == "");
    CHECK(d.core.counters().stalls_last_credit == 1);  // one wait, however often it was looked at
    REQUIRE(d.data(empty_message(0)));
    CHECK(d.next() == "");  // consumed, not yet posted again
    d.post();
    CHECK(d.next() == "ff0001000000000000000000180000000800000000000000");
    CHECK(d.core.send_credits() == 0);
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() == "");
    CHECK(d.core.counters().stalls_no_credit == 1);
}

TEST_CASE("the last credit opens one more receive, beyond our ceiling", "[smbd:3.1.5.9]") {
    Driver d = established_active(3, 255, linux_sizes());
    d.next();
    d.core.set_receive_ceiling(16);
    CHECK(d.core.receives_wanted() == 0);
    for (int i = 0; i < 240; ++i) REQUIRE(d.data(kEight));  // down to 15
    CHECK(d.post() == 1);
    CHECK(d.next() == "");
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() != "");
    CHECK(d.core.send_credits() == 1);
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() == "");
    CHECK(d.core.receives_wanted() == 1);
    d.post();
    CHECK(d.next() == "ff0001000000000000000000180000000800000000000000");
}

TEST_CASE("property 11: fragments", "[smbd:3.1.5.4]") {
    for (const uint32_t receive_size : {128U, 1024U, 1364U}) {
        const uint32_t full = receive_size - 24;
        for (const uint32_t length : {1U, full, full + 1, 2 * full, 1U << 20}) {
            Driver d = established_active(65535, 255, linux_sizes(), receive_size);
            REQUIRE(d.core.announce_message(length, length, {}));
            uint64_t count = 0, sum = 0;
            uint32_t remaining = length;
            while (const auto message = d.core.next_message(0)) {
                const auto header = *wire::parse_data_transfer_header(message->header);
                const bool sound = message->header.size() == 24 && header.data_offset == 24 &&
                                   header.data_length == std::min(full, remaining) &&
                                   header.remaining_data_length == remaining - header.data_length &&
                                   message->payload_offset == sum &&
                                   message->payload_length == header.data_length &&
                                   message->last_fragment == (header.remaining_data_length == 0);
                if (!sound) FAIL("fragment " << count << " of " << length);
                remaining = header.remaining_data_length;
                sum += header.data_length;
                ++count;
            }
            CHECK(count == (length + full - 1) / full);
            CHECK(sum == length);
            CHECK(!d.core.message_announced());
        }
    }
    Driver d = established_active();
    CHECK(d.core.announce_message((1U << 20) + 1, 1, {}).error() ==
          Error{Reason::message_too_large, EMSGSIZE});
    CHECK(!d.core.message_announced());
    CHECK(!d.core.announce_message(0, 0, {}));
    CHECK(d.core.state() == State::established);
}

TEST_CASE("property 14: one field varied over its range, the accept set is that of the text") {
    const Bytes good_request = from_hex("000100010000ff00540500005405000056a70200");
    const Bytes good_response = from_hex("0001000100010000ff00ff000000000000008000540500005405000056a70200");
    const auto probe = [](bool request, const Bytes& bytes) {
        LiteralReceiver literal;
        const auto answer = request ? literal.request(bytes) : literal.response(bytes);
        Driver d(request ? Role::passive : Role::active);
        d.core.on_transport_established(0);
        if (!request) d.next();
        const bool accepted = d.core.on_negotiate_message(bytes, 0).has_value();
        return accepted == (answer == LiteralReceiver::Answer::accept);
    };
    bool same = true;
    for (const bool request : {true, false}) {
        const Bytes& good = request ? good_request : good_response;
        for (size_t at = 0; at + 1 < good.size(); at += 2) {  // every 16 bits, wherever a field begins
            Bytes bytes = good;
            for (uint32_t value = 0; value < 0x10000; ++value) {
                bytes[at] = static_cast<std::byte>(value);
                bytes[at + 1] = static_cast<std::byte>(value >> 8);
                same &= probe(request, bytes);
            }
        }
    }
    CHECK(same);
}

TEST_CASE("property 15: after the end there is no action, and one end", "[smbd:3.1.6]") {
    for (const bool lost : {false, true}) {
        Driver d = established_active();
        REQUIRE(d.core.announce_message(8, 8, {}));
        if (lost)
            d.core.on_transport_lost();
        else
            CHECK(!d.data("0000"));
        const auto termination = d.core.termination();
        CHECK(termination.has_value() == !lost);
        CHECK(d.core.state() == State::terminated);
        d.core.on_transport_lost();
        d.core.on_transport_established(0);
        d.core.start(0);
        d.core.on_timer(1'000'000 * kSecond);
        CHECK(!d.data(kEight));
        CHECK(!d.negotiate("000100010000ff00540500005405000056a70200"));
        CHECK(!d.core.announce_message(8, 8, {}));
        d.core.on_no_receives();
        CHECK(d.post() == 0);
        CHECK(d.next() == "");
        CHECK(!d.core.deadline());
        CHECK(!d.core.expects_negotiate_message());
        CHECK(d.core.termination() == termination);
        CHECK(d.core.state() == State::terminated);
    }
    Driver refusing(Role::passive);
    refusing.core.on_transport_established(0);
    CHECK(!refusing.negotiate("000200020000ff00540500005405000000001000"));
    refusing.core.on_transport_lost();  // before the failure response went out
    CHECK(refusing.next() == "");
}

TEST_CASE("property 16: reception re-arms the idle timer, sending does not", "[smbd:3.1.5.5]") {
    Driver d = established_active();
    d.next();
    const Nanoseconds first = *d.core.deadline();
    CHECK(first == 120 * kSecond);
    d.now = 50 * kSecond;
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() != "");
    CHECK(d.core.deadline() == first);
    REQUIRE(d.data(kEight));
    CHECK(d.core.deadline() == 170 * kSecond);
    d.post();
    d.now = 170 * kSecond;
    d.core.on_timer(d.now);
    CHECK(d.next().substr(8, 4) == "0100");
    CHECK(d.core.deadline() == 175 * kSecond);  // the answer is awaited for 5 s
    d.now = 171 * kSecond;
    REQUIRE(d.data(kEight));
    CHECK(d.core.deadline() == 291 * kSecond);
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next().substr(8, 4) == "0000");  // KeepaliveRequested is NONE again
}

TEST_CASE("property 17: two idle expiries without reception end it, with one between they do not",
          "[smbd:3.1.6.2]") {
    for (const bool answered : {true, false}) {
        Driver d = established_active();
        d.next();
        d.now = 120 * kSecond;
        d.core.on_timer(d.now);
        CHECK(d.next() == kKeepalive);
        CHECK(d.next() == "");
        d.now += 4 * kSecond;
        d.core.on_timer(d.now);
        if (answered) REQUIRE(d.data(empty_message(1)));
        d.now += 2 * kSecond;
        d.core.on_timer(d.now);
        CHECK((d.core.state() == State::established) == answered);
        if (!answered) CHECK(d.core.termination() == Error{Reason::keepalive_timeout, ETIMEDOUT});
    }
    // Data that is queued carries the question.
    Driver d = established_active();
    d.now = 120 * kSecond;
    d.next();
    d.core.on_timer(d.now);
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(d.next() == "ff0000000100000000000000180000000800000000000000");
    CHECK(d.next() == "");
}

TEST_CASE("the negotiation timers: 120 s and 5 s", "[smbd:3.1.6.1]") {
    for (const Role role : {Role::active, Role::passive}) {
        for (const bool transport : {false, true}) {
            Driver d(role);
            if (transport) d.core.on_transport_established(0);
            const Nanoseconds due = (role == Role::active ? 120 : 5) * kSecond;
            CHECK(d.core.deadline() == due);
            d.core.on_timer(due - 1);
            CHECK(!d.core.termination());
            d.core.on_timer(due);
            const bool connecting = role == Role::active && !transport;
            CHECK(d.core.termination() ==
                  Error{connecting ? Reason::connect_timeout : Reason::negotiate_timeout, ETIMEDOUT});
            CHECK(d.next() == "");
        }
    }
    Driver idle = established_active();
    idle.next();
    CHECK(idle.core.deadline() == 120 * kSecond);  // the negotiation timer is gone

    Driver unaccepted(Role::passive);  // the peer has spoken in time, the program takes its own
    unaccepted.core.on_transport_established(0);
    REQUIRE(unaccepted.negotiate("000100010000ff00540500005405000056a70200"));
    CHECK(unaccepted.core.deadline() == 120 * kSecond);
}

TEST_CASE("property 18: RESPONSE_REQUESTED without a credit is answered once, when credits come",
          "[smbd:3.1.5.8]") {
    Driver d = established_passive();
    REQUIRE(d.data(kKeepalive));
    d.post();
    CHECK(d.next() == "");
    REQUIRE(d.data(kKeepalive));
    d.post();
    CHECK(d.next() == "");
    CHECK(d.core.counters().stalls_no_credit == 1);
    REQUIRE(d.data(empty_message(2)));
    d.post();
    CHECK(d.next() == empty_message(3));  // without the flag: echoing it makes two peers ping-pong for ever
    CHECK(d.next() == "");
    CHECK(d.core.counters().keepalives_answered == 1);
    REQUIRE(d.data(empty_message(4)));
    CHECK(d.next() == "");
}

TEST_CASE("property 19: invalidation", "[smbd:3.1.5.4][smbd:3.1.5.8]") {
    Driver d = established_active();
    REQUIRE(d.core.announce_message(3000, 3000, 0x1234));
    std::vector<std::optional<uint32_t>> tokens;
    while (const auto message = d.core.next_message(0)) tokens.push_back(message->invalidate_token);
    CHECK(tokens == std::vector<std::optional<uint32_t>>{std::nullopt, std::nullopt, 0x1234});
    REQUIRE(d.core.announce_message(8, 8, {}));
    CHECK(!d.core.next_message(0)->invalidate_token);
    Settings cannot = linux_sizes();
    cannot.send_with_invalidate = false;
    Driver without = established_active(255, 255, cannot);
    REQUIRE(without.core.announce_message(8, 8, 0x1234));
    CHECK(!without.core.next_message(0)->invalidate_token);

    const Bytes eight(8);
    const auto fragment = [&](uint32_t remaining) {
        Bytes bytes = message_bytes({255, 0, 0, remaining, 24, 8}, 8);
        return bytes;
    };
    CHECK(!d.data(fragment(16), 7)->invalidated_token);
    CHECK(!d.data(fragment(8), 9)->invalidated_token);
    const auto last = d.data(fragment(0));
    CHECK(last->invalidated_token == 9);  // the last one wins, and goes up with its message
    CHECK(!d.data(fragment(0))->invalidated_token);
}

TEST_CASE("property 21 and 23: empty messages, reserved bytes, unknown flags and padding change nothing") {
    Random random(23);
    for (int round = 0; round < 300; ++round) {
        Driver d = established_passive();
        const uint32_t length = static_cast<uint32_t>(random.between(1, 5000));
        uint32_t sent = 0, got = 0;
        while (sent < length) {
            if (random.chance(30)) {
                Bytes empty = message_bytes({255, 1, 0, 0, 0, 0});
                empty[4] = static_cast<std::byte>(random.next() & 0xfe);
                empty[5] = empty[6] = empty[7] = static_cast<std::byte>(random.next());
                const auto delivery = d.data(empty);
                REQUIRE(delivery);
                CHECK(delivery->length == 0);
                d.post();
                d.next();
            }
            const uint32_t part = static_cast<uint32_t>(random.between(1, length - sent));
            Bytes bytes = message_bytes({255, 1, 0, length - sent - part, 24, part}, part);
            bytes[4] = static_cast<std::byte>(random.next() & 0xfe);
            for (const size_t at : {5, 6, 7, 20, 21, 22, 23})
                bytes[at] = static_cast<std::byte>(random.next());
            const auto delivery = d.data(bytes);
            REQUIRE(delivery);
            CHECK(delivery->length == part);
            CHECK(delivery->slot_offset == 0);
            CHECK(delivery->first_fragment == (sent == 0));
            if (sent == 0) CHECK(delivery->message_length == length);
            sent += part;
            got += delivery->length;
            CHECK(delivery->last_fragment == (sent == length));
            d.post();
            const std::string answer = d.next();
            if (!answer.empty())
                CHECK(answer.substr(8, 8) == "00000000");  // no flag was taken for a question
        }
        CHECK(got == length);
    }
}

TEST_CASE("property 22: a message before the established event gives the same result") {
    for (const char* request :
         {"000100010000ff00540500005405000056a70200", "000200020000ff00540500005405000000001000",
          "0001000100000000540500005405000000001000", "0001",
          "000100010000ff00000000805405000000001000 0102030405060708090a0b0c0d0e0f1011121314"}) {
        Driver early(Role::passive), late(Role::passive);
        CHECK(early.core.expects_negotiate_message());
        CHECK(early.negotiate(request));
        CHECK(!early.core.expects_negotiate_message());
        CHECK(early.next() == "");
        early.core.on_transport_established(1);
        late.core.on_transport_established(1);
        (void)late.negotiate(request);
        CHECK(early.core.state() == late.core.state());
        CHECK(early.core.termination() == late.core.termination());
        CHECK(early.post() == late.post());
        CHECK(early.next() == late.next());
        CHECK(early.next() == late.next());
    }
    Driver unasked(Role::active);  // nobody can have been answered yet
    CHECK(!unasked.negotiate("0001000100010000ff00ff000000000000008000540500005405000056a70200"));
    CHECK(unasked.violated());
}

TEST_CASE("messages where none is due end the connection") {
    Driver twice(Role::passive);
    twice.core.on_transport_established(0);
    REQUIRE(twice.negotiate("000100010000ff00540500005405000056a70200"));
    CHECK(!twice.core.expects_negotiate_message());
    twice.post();
    CHECK(!twice.data(kEight));  // before our response
    CHECK(twice.violated());
    Driver overrun = established_passive(1);
    for (int i = 0; i < 3; ++i) REQUIRE(overrun.data(kEight));
    overrun.post();  // posted, but not announced
    CHECK(!overrun.data(kEight));
    CHECK(overrun.violated(Reason::receive_overrun));
}

TEST_CASE("property 24: MaxReceiveSize is never below 128") {
    Random random(24);
    for (int i = 0; i < 2000; ++i) {
        Settings settings = linux_sizes();
        settings.max_receive_size =
            static_cast<uint32_t>(random.pick<uint64_t>({0, 1, 127, 128, 129, 1364, random.next()}));
        const auto offered =
            static_cast<uint32_t>(random.pick<uint64_t>({0, 1, 127, 128, 129, 0x80000000, random.next()}));
        Driver p(Role::passive, settings);
        p.core.on_transport_established(0);
        Bytes bytes(20);
        wire::build(wire::NegotiateRequest{0x100, 0x100, 1, offered, 128, 131072},
                    std::span(bytes).first<20>());
        REQUIRE(p.core.on_negotiate_message(bytes, 0));
        CHECK(p.core.negotiated().max_receive_size >= 128);
        CHECK(p.core.negotiated().max_receive_size <= std::max(128U, settings.max_receive_size));
    }
}

TEST_CASE("a target is clamped, and a change of it acts at once", "[smbd:3.1.5.9]") {
    Driver d = established_passive(4);
    CHECK(d.core.receives_outstanding() == 4);
    REQUIRE(d.data(empty_message(5, 0, 65535)));
    CHECK(d.core.receive_credit_target() == 255);
    CHECK(d.core.receives_wanted() == 252);
    d.core.set_receive_ceiling(8);
    CHECK(d.post() == 5);
    CHECK(d.next() == empty_message(5));  // 3 known of 8
    d.core.set_receive_ceiling(0);
    CHECK(d.core.receives_wanted() == 0);
    d.core.set_receive_ceiling(100000);
    CHECK(d.post() == 247);
    REQUIRE(d.data(empty_message(1, 0, 1)));
    CHECK(d.core.receive_credit_target() == 3);  // less cannot be lived with
    CHECK(d.core.receives_wanted() == 0);
}
