// The byte vectors of facts/ms-smbd.md section 7 as the Connection emits and takes them; property 13.
#include "connection_fixture.hpp"
#include "support/catch.hpp"
#include "support/literal_receiver.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

Settings example_sizes() {  // [MS-SMBD] 4.1
    Settings settings;
    settings.send_credit_target = settings.receive_credit_max = 10;
    settings.max_send_size = settings.max_receive_size = 1024;
    settings.max_fragmented_receive_size = 131072;
    settings.max_read_write_size = 0x100000;
    return settings;
}

constexpr const char* kExampleRequest = "0001000100000a00000400000004000000000200";
constexpr const char* kExampleResponse = "00010001000100000a000a000000000000001000000400000004000000000200";

}  // namespace

TEST_CASE("vectors 7.1: the example connection", "[smbd:4.1]") {
    Driver a(Role::active, example_sizes()), p(Role::passive, example_sizes());
    CHECK(a.next() == "");  // nothing before the transport stands
    a.core.on_transport_established(0);
    p.core.on_transport_established(0);
    CHECK(a.next() == kExampleRequest);
    CHECK(a.next() == "");
    REQUIRE(p.negotiate(kExampleRequest));
    CHECK(p.next() == "");  // not before receives are posted
    CHECK(p.post() == 10);
    CHECK(p.next() == kExampleResponse);
    CHECK(p.core.state() == State::established);
    CHECK(p.core.send_credits() == 0);
    REQUIRE(a.negotiate(kExampleResponse));
    CHECK(a.core.state() == State::established);
    CHECK(a.core.send_credits() == 10);
    CHECK(a.post() == 10);
    REQUIRE(a.core.announce_message(0x44, 0x44, {}));
    CHECK(a.next() == "0a000a000000000000000000180000004400000000000000");
    CHECK(a.core.send_credits() == 9);
}

TEST_CASE("vectors 7.1: 500 bytes, and 64 KiB in 66 fragments in the reading of 1000 bytes each",
          "[smbd:4.2][smbd:4.3]") {
    Driver a(Role::active, example_sizes());
    a.core.on_transport_established(0);
    a.next();
    REQUIRE(a.negotiate(kExampleResponse));
    a.post();
    a.next();                  // grants ten
    const auto refill = [&] {  // the peer spends a credit and gives one, so that the next message grants one
        REQUIRE(a.data(empty_message(1, 0, 10)));
        a.post();
    };
    refill();
    REQUIRE(a.core.announce_message(500, 500, {}));
    CHECK(a.next() == "0a000100000000000000000018000000f401000000000000");
    REQUIRE(a.core.announce_message(65536, 65536, {}));
    std::vector<std::string> headers;
    while (a.core.message_announced()) {
        refill();
        headers.push_back(a.next());
    }
    REQUIRE(headers.size() == 66);
    CHECK(headers[0] == "0a0001000000000018fc000018000000e803000000000000");
    CHECK(headers[1] == "0a0001000000000030f8000018000000e803000000000000");
    CHECK(headers[65] == "0a0001000000000000000000180000001802000000000000");
}

TEST_CASE("vectors 7.2: negotiate messages with the sizes of Linux and Windows") {
    Settings linux_now = linux_sizes();
    linux_now.max_fragmented_receive_size = 173910;
    Driver a(Role::active, linux_now);
    a.core.on_transport_established(0);
    CHECK(a.next() == "000100010000ff00540500005405000056a70200");
    REQUIRE(a.negotiate("0001000100010000ff00ff000000000000008000540500005405000056a70200"));
    CHECK(a.core.negotiated().max_send_size == 1364);
    CHECK(a.core.negotiated().max_fragmented_send_size == 173910);
    CHECK(a.core.negotiated().max_read_write_size == 8388608);

    Settings windows = linux_sizes();
    windows.max_receive_size = 8192;
    windows.max_fragmented_receive_size = 1048576;
    Driver w(Role::active, windows);
    w.core.on_transport_established(0);
    CHECK(w.next() == "000100010000ff00540500000020000000001000");

    Driver p(Role::passive, linux_now);
    p.core.on_transport_established(0);
    REQUIRE(p.negotiate("000100010000ff00540500005405000056a70200"));
    p.post();
    CHECK(p.next() == "0001000100010000ff00ff000000000000008000540500005405000056a70200");

    for (const char* failure : {"000100010000000000000000bb0000c000000000000000000000000000000000",
                                "0001000100000000000000009a0000c000000000000000000000000000000000"}) {
        Driver refused(Role::active);
        refused.core.on_transport_established(0);
        refused.next();
        CHECK(refused.negotiate(failure).error() == Error{Reason::negotiate_refused, ECONNREFUSED});
        CHECK(refused.core.termination() == Error{Reason::negotiate_refused, ECONNREFUSED});
    }
    Driver poor(Role::passive);
    poor.core.on_transport_established(0);
    REQUIRE(poor.negotiate("000100010000ff00540500005405000056a70200"));
    poor.core.on_no_receives();
    CHECK(poor.core.state() == State::terminated);
    CHECK(poor.next() == "0001000100000000000000009a0000c000000000000000000000000000000000");
    CHECK(poor.next() == "");
}

TEST_CASE("vectors 7.3: data, keep-alive, answer and credit message") {
    Driver a = established_active();
    CHECK(a.next() ==
          "ff00ff0000000000000000000000000000000000");  // the acceptor can send nothing before this
    REQUIRE(a.data(empty_message(1)));
    a.post();
    REQUIRE(a.core.announce_message(8, 8, {}));
    CHECK(a.next() == "ff0001000000000000000000180000000800000000000000");
    CHECK(a.next() == "");
    a.now = *a.core.deadline();
    a.core.on_timer(a.now);
    CHECK(a.next() == "ff00000001000000000000000000000000000000");

    Driver answering = established_active();
    answering.next();
    REQUIRE(answering.data("ff00000001000000000000000000000000000000"));
    answering.post();
    CHECK(answering.next() == "ff00010000000000000000000000000000000000");
    CHECK(answering.next() == "");

    Driver granting = established_active(255, 255, [] {
        Settings settings = linux_sizes();
        settings.receive_credit_max = 32;  // half of the window is 16
        return settings;
    }());
    granting.next();
    for (int i = 0; i < 16; ++i) {
        CHECK(granting.next() == "");
        REQUIRE(granting.data("ff0000000000000000000000180000000800000000000000 4142434445464748"));
        granting.post();
    }
    CHECK(granting.next() == "ff00100000000000000000000000000000000000");
    CHECK(granting.next() == "");
}

namespace {

const std::string kA = "4142434445464748";
// "A rem N" of the sheet.
std::string a_with_remaining(uint32_t remaining) {
    return to_hex(std::span<const std::byte>(message_bytes({255, 0, 0, remaining, 24, 8}, 8)).first(24)) + kA;
}

struct RequestRow {
    const char* name;
    std::string hex;
    LiteralReceiver::Answer answer;
    uint32_t max_receive = 0;  // where accepted
};

}  // namespace

TEST_CASE("property 13, rows n1 to n7: requests", "[smbd:3.1.5.6]") {
    using enum LiteralReceiver::Answer;
    const RequestRow rows[] = {
        {"n1", "000200020000ff00540500005405000000001000", not_supported},
        {"n1 Min > Max", "010100010000ff00540500005405000000001000", not_supported},
        {"n1 both 0x0101", "010101010000ff00540500005405000000001000", not_supported},
        {"n2", "800000020000ff00540500005405000000001000", accept, 1364},
        {"n3", "0001000100000000540500005405000000001000", terminate},
        {"n4", "000100010000ff00540500007f00000000001000", terminate},
        {"n4 128", "000100010000ff00540500008000000000001000", accept, 1364},
        {"n5", "000100010000ff005405000054050000ffff0100", terminate},
        {"n5 131072", "000100010000ff00540500005405000000000200", accept, 1364},
        {"n6", "000100010000ff00000000005405000000001000", accept, 128},
        {"n7", "000100010000ff00000000805405000000001000", accept, 1364},
        {"n7 tail", "000100010000ff00000000805405000000001000 0102030405060708090a0b0c0d0e0f", accept, 1364},
        {"short", "000100010000ff005405000054050000000010", terminate},
        {"nothing", "", terminate},
    };
    for (const RequestRow& row : rows) {
        INFO(row.name);
        LiteralReceiver literal;
        CHECK(literal.request(from_hex(row.hex)) == row.answer);
        Driver d(Role::passive);
        d.core.on_transport_established(0);
        const auto result = d.negotiate(row.hex);
        if (row.answer == accept) {
            REQUIRE(result);
            CHECK(d.post() == 255);
            CHECK(d.core.negotiated().max_receive_size == row.max_receive);
            CHECK(literal.max_receive == row.max_receive);
            CHECK(d.core.negotiated().max_send_size == literal.max_send);
            CHECK(d.next().size() == 64);
            CHECK(d.core.state() == State::established);
        } else if (row.answer == not_supported) {
            CHECK(!result);
            CHECK(d.core.termination() == Error{Reason::negotiate_version, EOPNOTSUPP});
            CHECK(d.next() == "000100010000000000000000bb0000c000000000000000000000000000000000");
            CHECK(d.next() == "");
        } else {
            CHECK(!result);
            CHECK(d.violated());
            CHECK(d.next() == "");
        }
    }
}

TEST_CASE("property 13, rows p1 and p2: responses", "[smbd:3.1.5.7]") {
    using enum LiteralReceiver::Answer;
    const RequestRow rows[] = {
        {"p1", "0001000100010000ff00ff000000000000008000540500000004000000fe0100", terminate},
        {"p2", "0001000100010000ff00ff000000000000008000550500005405000056a70200", terminate},
        {"p2 MaxReadWriteSize 0", "0001000100010000ff00ff000000000000000000540500005405000056a70200", accept,
         1364},
        {"version", "0001000101010000ff00ff000000000000008000540500005405000056a70200", terminate},
        {"no credit", "0001000100010000ff0000000000000000008000540500005405000056a70200", terminate},
        {"no request", "00010001000100000000ff000000000000008000540500005405000056a70200", terminate},
        {"receive 127", "0001000100010000ff00ff000000000000008000540500007f00000056a70200", terminate},
        {"status", "0001000100010000ff00ff000100000000008000540500005405000056a70200", terminate},
        {"send size 0", "0001000100010000ff00ff000000000000008000000000005405000056a70200", accept, 128},
        {"short", "0001000100010000ff00ff000000000000008000540500005405000056a702", terminate},
        {"a request", "000100010000ff00540500005405000056a70200", terminate},
    };
    for (const RequestRow& row : rows) {
        INFO(row.name);
        LiteralReceiver literal;
        CHECK(literal.response(from_hex(row.hex)) == row.answer);
        Driver d(Role::active);
        d.core.on_transport_established(0);
        d.next();
        const auto result = d.negotiate(row.hex);
        REQUIRE(result.has_value() == (row.answer == accept));
        CHECK(d.core.state() == (row.answer == accept ? State::established : State::terminated));
        if (row.answer == accept)
            CHECK(d.core.negotiated().max_receive_size == row.max_receive);
        else
            CHECK(d.next() == "");
    }
}

namespace {

struct DataRow {
    const char* name;
    std::vector<std::string> messages;
    bool literal_lives;
    bool we_live;
    std::vector<std::string> delivered;          // to us, whole messages
    std::vector<std::string> literally = {"="};  // by the literal text; "=": the same
};

const std::vector<DataRow>& data_rows() {
    static const std::vector<DataRow> rows = {
        {"d1", {"000000000000000000000000 18000000 08000000 00000000" + kA}, false, false, {}},
        {"d2", {"ff0000000000000000000000 14000000 08000000" + kA}, false, false, {}},
        {"d3", {"ff0000000000000000000000 18000000 09000000 00000000" + kA}, false, false, {}},
        {"d4", {"ff0000000000000000000000 f8ffffff 10000000 00000000"}, false, false, {}},
        {"d5", {"ff00000000000000 f8ffffff 18000000 08000000 00000000" + kA}, false, false, {}},
        {"d6", {"ff00000000000000 f9ff0100 18000000 08000000 00000000" + kA}, false, false, {}},
        {"d6 131072", {"ff00000000000000 f8ff0100 18000000 08000000 00000000" + kA}, true, true, {}},
        {"d7",
         {"ff0000000000000000000000 00000000 08000000 00000000"},
         true,
         false,
         {},
         {"ff00000000000000"}},
        {"d8",
         {"ff0000000000000000000000 20000000 08000000 000000000000000000000000" + kA},
         true,
         true,
         {kA}},
        {"d9", {"ff0001000000000000000000 00000000 00000000 00000000"}, true, true, {}},
        {"d10", {"ff0000000000000000000000 18000000 00000000"}, false, false, {}},
        {"short", {"ff00000000000000000000000000000000 0000"}, false, false, {}},
        {"nothing", {""}, false, false, {}},
        {"s1", {a_with_remaining(16), a_with_remaining(0)}, false, false, {}},
        {"s2 wrap", {a_with_remaining(4), a_with_remaining(0)}, false, false, {}},
        {"s2",
         {a_with_remaining(16), a_with_remaining(64), a_with_remaining(0)},
         true,
         false,
         {},
         {kA + kA + kA}},
        {"s3", {a_with_remaining(8), empty_message(1), a_with_remaining(0)}, false, true, {kA + kA}},
        {"s3 continued",  // what we send in the middle of a message when nothing else is left to send
         {a_with_remaining(8), to_hex(message_bytes({255, 1, 0, 8, 0, 0})), a_with_remaining(0)},
         true,
         true,
         {kA + kA}},
        {"two", {a_with_remaining(0), a_with_remaining(8), a_with_remaining(0)}, true, true, {kA, kA + kA}},
        {"empty with a remainder",
         {to_hex(message_bytes({255, 1, 0, 77, 0, 0})), a_with_remaining(0)},
         false,
         true,
         {kA}},
    };
    return rows;
}

}  // namespace

TEST_CASE("property 13, rows d1 to d10, s1 to s3: data", "[smbd:3.1.5.8]") {
    for (const DataRow& row : data_rows()) {
        INFO(row.name);
        LiteralReceiver literal;
        Driver d = established_passive();
        std::vector<std::string> ours, theirs;
        std::string part;
        for (const std::string& hex : row.messages) literal.data(from_hex(hex));
        for (const std::string& hex : row.messages) {
            const Bytes bytes = from_hex(hex);
            const auto delivery = d.data(bytes);
            if (!delivery) break;
            const size_t at = 24 + delivery->slot_offset;
            part += to_hex(std::span(bytes).subspan(delivery->length ? at : 0, delivery->length));
            if (delivery->last_fragment) ours.push_back(std::exchange(part, ""));
        }
        for (const Bytes& bytes : literal.delivered) theirs.push_back(to_hex(bytes));
        CHECK(!literal.terminated == row.literal_lives);
        CHECK((d.core.state() == State::established) == row.we_live);
        if (!row.we_live) CHECK(d.violated());
        CHECK(ours == row.delivered);
        const bool same = row.literally == std::vector<std::string>{"="};
        CHECK(theirs == (!same ? row.literally : row.literal_lives ? row.delivered : decltype(theirs){}));
    }
}

TEST_CASE("row d11: a grant of 65535", "[smbd:3.1.5.8]") {
    Driver d = established_passive();
    REQUIRE(d.data("ff00ffff00000000000000000000000000000000"));
    CHECK(d.core.send_credits() == 65535);
}
