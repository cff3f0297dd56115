// SMB2 channels through a whole engine: the program on one side is a client or a server as the translation
// knows them, the one on the other an explicit SMBDIRECT socket, which is taken at its word and so plays any
// peer.
#include "smb2_support.hpp"
#include "support/catch.hpp"
#include "support/engine_harness.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using session::FabricChoice;

namespace {

constexpr uint32_t kExplicit = 257;
constexpr uint32_t kMostRead = 8u << 20;

// Channels wherever they can be, and fragments with room for so many bytes.
engine::Settings settings(uint32_t fragment = 64'700) {
    auto settings = engine::settings_from_environment();
    settings.channels = engine::ChannelUse::on;
    settings.own_kind.max_send_size = settings.own_kind.max_receive_size = fragment + 24;
    return settings;
}

void send(const Socket& to, const Bytes& message) {
    Bytes framed(4);
    for (size_t i = 0; i < 4; ++i) framed[i] = static_cast<std::byte>(message.size() >> (24 - 8 * i));
    framed = joined(std::move(framed), message);
    REQUIRE(to.send_all(framed.data(), framed.size()) == 0);
}
Bytes receive(const Socket& from) {
    std::array<unsigned char, 4> length{};
    REQUIRE(from.receive_all(length.data(), 4) == 0);
    Bytes message(size_t{length[0]} << 24 | size_t{length[1]} << 16 | size_t{length[2]} << 8 | length[3]);
    REQUIRE(message.size() < 1u << 24);
    REQUIRE(from.receive_all(message.data(), message.size()) == 0);
    return message;
}

// A program that is a client, and a peer that says what the test says.
struct ClientBench {
    TestEngine engine;
    Listening listening;
    Socket program, peer;

    explicit ClientBench(const engine::Settings& settings)
        : engine(settings), listening(engine, false, kExplicit) {
        const uint16_t port = listening.port();
        program = connect_to(engine, loopback(port), FabricChoice::iwarp, nullptr, port);
        REQUIRE(program.open());
        peer = listening.accept();
        REQUIRE((peer.open() && program.connected() == 0));
        send(peer, negotiate_reply(0x0311));
        CHECK(receive(program) == negotiate_reply(0x0311));
    }
    // What the program sends for a READ by channel arrives as one.
    void take_read(uint64_t id) const {
        const Bytes request = receive(peer);
        CHECK((get(request, 24, 8) == id && get(request, 100, 4) == 1));
    }
    // The peer has put so many bytes where it was told to; `behind` bytes follow that belong to nothing.
    void answer_read(uint64_t id, uint32_t amount, size_t behind = 0) const {
        Bytes reply = read_reply(id, {});
        put(reply, 72, 4, amount);
        reply.resize(reply.size() + behind);
        send(peer, reply);
    }
    void expect_data(uint64_t id, uint32_t amount) const {
        const Bytes reply = receive(program);
        REQUIRE(reply.size() == 80 + size_t{amount});
        CHECK((get(reply, 24, 8) == id && get(reply, 68, 4) == amount && get(reply, 72, 4) == 0));
    }
};

}  // namespace

TEST_CASE("what follows the reply to a READ by channel is dropped, in whatever fragments it comes",
          "[engine]") {
    for (const uint32_t fragment : {104u, 128u, 136u, 1000u})
        for (const size_t behind : {0u, 1u, 48u, 49u, 400u}) {
            CAPTURE(fragment, behind);
            ClientBench bench(settings(fragment));
            send(bench.program, inline_read(1, 5000));
            bench.take_read(1);
            bench.answer_read(1, 5000, behind);
            bench.expect_data(1, 5000);
            send(bench.peer, error_reply(kClose, 2, 0));
            CHECK(receive(bench.program) == error_reply(kClose, 2, 0));
        }
}

TEST_CASE("requests by channel leave room for what the peer sends meanwhile", "[engine]") {
    ClientBench bench(settings(104));
    // READs that together would take all room for transfers, 32 MiB.
    const std::array<uint32_t, 5> amounts{kMostRead, kMostRead, kMostRead, 124 * 65536 - 128, 5000};
    for (size_t id = 0; id < 5; ++id) send(bench.program, inline_read(id, amounts[id]));
    for (size_t id = 0; id < 4; ++id) bench.take_read(id);
    poll(nullptr, 0, 100);  // for the last one to be taken up, if it is
    // A reply whose start comes in two fragments is put together before the program sees it: in such room.
    const Bytes other = read_reply(9, pattern(60, 1));
    send(bench.peer, other);
    bench.answer_read(0, amounts[0]);
    CHECK(receive(bench.program) == other);
    bench.expect_data(0, amounts[0]);
    bench.take_read(4);
    for (size_t id = 1; id < 5; ++id) bench.answer_read(id, amounts[id]);
    for (size_t id = 1; id < 5; ++id) bench.expect_data(id, amounts[id]);
}

TEST_CASE("a compound with a channel in it is answered whatever the length of the rest", "[engine]") {
    TestEngine engine(settings());
    Listening listening(engine, false);
    const auto rdma_port = static_cast<uint16_t>(listening.port() + 5000);
    const Socket peer =
        connect_to(engine, loopback(listening.port()), FabricChoice::iwarp, nullptr, rdma_port, kExplicit);
    REQUIRE(peer.open());
    const Socket program = listening.accept();
    REQUIRE((program.open() && peer.connected() == 0));
    send(program, negotiate_reply(0x0311));
    receive(peer);
    uint64_t id = 0;
    for (const size_t size :
         {1000u, 100'000u, 130'000u, 140'000u, 300'000u, 3'000'000u, 100'000u, 8'000'000u}) {
        CAPTURE(size);
        const uint64_t channel = ++id, inlined = ++id;
        send(peer, compound({channel_request({.id = channel, .channel = 1}),
                             inline_read(inlined, static_cast<uint32_t>(size))}));
        CHECK(elements_of(receive(program)).size() == 2);
        const Bytes reply =
            compound({error_reply(kRead, channel, kEndOfFile), read_reply(inlined, pattern(size, id))});
        send(program, reply);
        CHECK(receive(peer) == reply);
    }
}
