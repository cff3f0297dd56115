// The engine with everything below it, driven by the library's moves (tests/support/engine_harness.hpp).
#include <sys/ioctl.h>

#include "engine/private_data.hpp"
#include "support/catch.hpp"
#include "support/engine_harness.hpp"

#ifdef __SANITIZE_THREAD__
// Both ends run in this process, and what the engine passes arrives by a raw call that TSan does not see: it takes the
// number for the one that another thread closed before.
extern "C" [[gnu::visibility("default")]] const char* __tsan_default_suppressions() { return "race:close\n"; }
#endif

using namespace smbdirect;
using namespace smbdirect::test;
using session::FabricChoice;

namespace {

struct Pair {
    Socket client, server;
};

Pair connected_pair(TestEngine& engine, Listening& listening, FabricChoice fabric) {
    Pair pair;
    pair.client = connect_to(engine, loopback(listening.port()), fabric);
    REQUIRE(pair.client.open());
    pair.server = listening.accept();
    REQUIRE(pair.server.open());
    REQUIRE(pair.client.connected() == 0);
    return pair;
}

void exchange(const Socket& from, const Socket& to, size_t payload, unsigned seed) {
    const auto out = message(payload, seed);
    std::vector<char> in(out.size());
    std::thread sender([&] { CHECK(from.send_all(out.data(), out.size()) == 0); });
    const int error = to.receive_all(in.data(), in.size());
    sender.join();
    REQUIRE(error == 0);
    REQUIRE(in == out);
}

}  // namespace

TEST_CASE("messages of every size arrive whole, both ways, on both fabrics and both kinds of listener",
          "[engine]") {
    for (FabricChoice fabric : {FabricChoice::iwarp, FabricChoice::memory})
        for (bool beside : {false, true}) {
            CAPTURE(static_cast<int>(fabric), beside);
            TestEngine engine;
            Listening listening(engine, beside);
            REQUIRE(listening.error() == 0);
            auto [client, server] = connected_pair(engine, listening, fabric);
            unsigned seed = 1;
            for (size_t size :
                 {1u, 3u, 4u, 100u, 8111u, 8112u, 8113u, 16384u, 65536u, 100'000u, 1u << 20, 8u << 20}) {
                exchange(client, server, size, ++seed);
                exchange(server, client, size, ++seed);
            }
            CHECK(engine.counter("bytes_sent") > 2u * (8u << 20));
            CHECK(engine.counter("connections_open") == 2);
        }
}

TEST_CASE("addresses are those that TCP would show", "[engine]") {
    TestEngine engine;
    Listening listening(engine, true);
    auto [client, server] = connected_pair(engine, listening, FabricChoice::iwarp);
    const auto& to = reinterpret_cast<const sockaddr_in&>(client.memory()->peer);
    const auto& at = reinterpret_cast<const sockaddr_in&>(server.memory()->local);
    const auto& from = reinterpret_cast<const sockaddr_in&>(server.memory()->peer);
    const auto& own = reinterpret_cast<const sockaddr_in&>(client.memory()->local);
    CHECK(ntohs(to.sin_port) == listening.port());
    CHECK(ntohs(at.sin_port) == listening.port());
    CHECK(from.sin_port == own.sin_port);
    CHECK(from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
}

TEST_CASE("an orderly close is an end of stream, with unread data a reset", "[engine]") {
    TestEngine engine;
    Listening listening(engine, true);
    SECTION("orderly, what was sent still arrives") {
        auto [client, server] = connected_pair(engine, listening, FabricChoice::iwarp);
        const auto out = message(200'000, 7);
        std::vector<char> in(out.size());
        REQUIRE(client.send_all(out.data(), out.size()) == 0);
        client.hang_up();
        REQUIRE(server.receive_all(in.data(), in.size()) == 0);
        CHECK(in == out);
        CHECK(server.end() == EPIPE);
        CHECK(server.end() == EPIPE);
        CHECK((server.wait(POLLIN | POLLRDHUP) & (POLLIN | POLLRDHUP | POLLERR)) == (POLLIN | POLLRDHUP));
    }
    SECTION("unread data") {
        auto [client, server] = connected_pair(engine, listening, FabricChoice::iwarp);
        const auto out = message(1000, 7);
        REQUIRE(client.send_all(out.data(), out.size()) == 0);
        REQUIRE(server.wait(POLLIN) != 0);
        server.hang_up();
        CHECK(client.end() == ECONNRESET);
        CHECK(client.end() == EPIPE);
        CHECK(client.send_all("x", 1) == EPIPE);
    }
    SECTION("shutdown of the sending side") {
        auto [client, server] = connected_pair(engine, listening, FabricChoice::memory);
        const auto out = message(5000, 9);
        std::vector<char> in(out.size());
        REQUIRE(client.send_all(out.data(), out.size()) == 0);
        client.memory()->shutdown.fetch_or(session::shutdown_write);
        session::ring_doorbell(client.view(), client.a());
        REQUIRE(server.receive_all(in.data(), in.size()) == 0);
        CHECK(server.end() == EPIPE);
        CHECK(client.send_all("x", 1) == EPIPE);
    }
}

TEST_CASE("a connect that cannot be answers as TCP", "[engine]") {
    TestEngine engine;
    int error = 0;
    SECTION("closed port") {
        auto socket = connect_to(engine, loopback(free_port()), FabricChoice::iwarp, &error);
        if (socket.open()) error = socket.connected();
        CHECK(error == ECONNREFUSED);
    }
    SECTION("memory fabric without a listener") {
        connect_to(engine, loopback(free_port()), FabricChoice::memory, &error);
        CHECK(error == ECONNREFUSED);
    }
    SECTION("a port whose RDMA port would overflow") {
        connect_to(engine, loopback(64'000), FabricChoice::iwarp, &error);
        CHECK(error == EADDRNOTAVAIL);
    }
}

TEST_CASE("nonsense from a program ends its connection and no other", "[engine]") {
    TestEngine engine;
    Listening listening(engine, false);
    auto good = connected_pair(engine, listening, FabricChoice::iwarp);
    auto bad = connected_pair(engine, listening, FabricChoice::iwarp);
    SECTION("a stream without a length header") { bad.client.send_all("GET / HTTP/1.0\r\n\r\n", 18); }
    SECTION("a transmit head beyond the ring") {
        bad.client.memory()->transmit_head.store(1ull << 40);
        session::ring_doorbell(bad.client.view(), bad.client.a());
    }
    SECTION("a receive tail beyond what was published") {
        bad.client.memory()->receive_tail.store(77);
        session::ring_doorbell(bad.client.view(), bad.client.a());
    }
    SECTION("a foreign byte in the descriptor") { REQUIRE(write(bad.client.a(), "hello", 5) == 5); }
    SECTION("everything at once") {
        memset(static_cast<void*>(&bad.client.memory()->transmit_head), 0xff, 512);
        REQUIRE(write(bad.client.a(), "x", 1) == 1);
    }
    CHECK((bad.client.wait(POLLIN) & (POLLHUP | POLLERR)) != 0);
    const int error = bad.server.end();
    CHECK((error == EPIPE || error == ECONNRESET));
    exchange(good.client, good.server, 100'000, 3);
    CHECK(engine.counter("program_violations") == 1);
}

TEST_CASE("nothing is left of connections that ended", "[engine]") {
    TestEngine engine;
    Listening listening(engine, true);
    { auto warm = connected_pair(engine, listening, FabricChoice::iwarp); }
    auto settled = [&] {
        for (int i = 0; i < 500 && engine.counter("connections_open") != 0; ++i) poll(nullptr, 0, 10);
        return engine.counter("fds");
    };
    const uint64_t before = settled();
    for (int i = 0; i < 50; ++i) {
        auto pair = connected_pair(engine, listening, i % 2 ? FabricChoice::iwarp : FabricChoice::memory);
        exchange(pair.client, pair.server, 10'000, static_cast<unsigned>(i));
    }
    const uint64_t after = settled();
    CHECK(engine.counter("connections_open") == 0);
    CHECK(after <= before + 2);  // the request that asks has descriptors of its own
}

TEST_CASE("peers that talk garbage never reach the program", "[engine]") {
    TestEngine engine;
    Listening listening(engine, true);
    for (const char* garbage : {"", "GET / HTTP/1.0\r\n\r\n",
                                "MPA ID Req Frame\x40\x01\x00\x00garbage garbage garbage garbage garbage"}) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        auto address = loopback(static_cast<uint16_t>(listening.port() + 5000));
        REQUIRE(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(sockaddr_in)) == 0);
        REQUIRE(send(fd, garbage, strlen(garbage), MSG_NOSIGNAL) >= 0);
        shutdown(fd, SHUT_WR);
        char buffer[256];
        while (recv(fd, buffer, sizeof buffer, 0) > 0) {
        }
        close(fd);
    }
    pollfd watch{listening.fd(), POLLIN, 0};
    CHECK(poll(&watch, 1, 0) == 0);
    auto pair = connected_pair(engine, listening, FabricChoice::iwarp);
    exchange(pair.client, pair.server, 1000, 1);
}

TEST_CASE("a listener that was closed frees its RDMA port", "[engine]") {
    TestEngine engine;
    uint16_t port;
    {
        Listening listening(engine, true);
        port = listening.port();
        CHECK(engine.counter("listeners") == 1);
    }
    int error = 0;
    auto socket = connect_to(engine, loopback(port), FabricChoice::iwarp, &error);
    if (socket.open()) error = socket.connected();
    CHECK((error == ECONNREFUSED || error == ECONNRESET));
    for (int i = 0; i < 500 && engine.counter("listeners") != 0; ++i) poll(nullptr, 0, 10);
    CHECK(engine.counter("listeners") == 0);
}

TEST_CASE("private data tells the engine's kind and its fabric, and none of both by accident", "[engine]") {
    const auto software = engine::make_private_data(32, 8, "iwarp", engine::knows_half_close);
    const auto device = engine::make_private_data(32, 8, "verbs", 0);
    CHECK(software.length <= 56);  // what every fabric carries
    CHECK(engine::has_ird_ord(software));
    CHECK(engine::is_own_kind(software));
    CHECK(engine::is_own_kind(device));
    CHECK(engine::is_same_fabric(software, "iwarp"));
    CHECK_FALSE(engine::is_same_fabric(device, "iwarp"));
    CHECK_FALSE(engine::is_same_fabric(software, "verbs:siw0"));
    CHECK(engine::is_same_fabric(device, "verbs:siw0"));

    CHECK(engine::abilities_of(software) == engine::knows_half_close);
    CHECK(engine::abilities_of(device) == 0);
    auto older = software;
    --older.length;
    CHECK(engine::is_same_fabric(older, "iwarp"));
    CHECK(engine::abilities_of(older) == 0);
    auto unmarked = older;  // of an engine that says no more than its kind; what follows may be anything
    --unmarked.length;
    CHECK(engine::is_own_kind(unmarked));
    CHECK_FALSE(engine::is_same_fabric(unmarked, "iwarp"));
    auto stranger = software;
    stranger.length = engine::kIrdOrdLength;
    CHECK_FALSE(engine::is_own_kind(stranger));
    CHECK_FALSE(engine::is_same_fabric(stranger, "iwarp"));
    CHECK_FALSE(engine::has_ird_ord({}));

    CHECK(engine::ird_of(stranger) == 32);
    std::reverse(stranger.bytes.begin(), stranger.bytes.begin() + 4);  // as Linux 6 has it
    CHECK(engine::ird_of(stranger) == 32);
    CHECK(engine::ird_of({}) == 0);
}

TEST_CASE("the environment says how the software fabric begins", "[engine]") {
    using fabric::iwarp::Crc;
    const auto with = [](const char* crc, const char* revision) {
        setenv("SMBDIRECT_IWARP_CRC", crc, 1);
        setenv("SMBDIRECT_IWARP_REVISION", revision, 1);
        const auto settings = engine::settings_from_environment().iwarp;
        unsetenv("SMBDIRECT_IWARP_CRC");
        unsetenv("SMBDIRECT_IWARP_REVISION");
        return settings;
    };
    CHECK(engine::settings_from_environment().iwarp.crc == Crc::automatic);
    CHECK(engine::settings_from_environment().iwarp.revision == 2);
    CHECK(with("off", "1").crc == Crc::off);
    CHECK(with("off", "1").revision == 1);
    CHECK(with("on", "2").crc == Crc::on);
    CHECK(with("auto", "2").crc == Crc::automatic);
    CHECK(with("maybe", "3").crc == Crc::automatic);  // nonsense leaves what is
    CHECK(with("maybe", "3").revision == 2);
}
