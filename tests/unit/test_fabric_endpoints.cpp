// What all fabrics must do alike: the same body runs over memory, over iwarp on loopback, and over verbs in
// the lab.
#include <algorithm>
#include <string_view>

#include "fabric_support.hpp"
#include "support/catch.hpp"

using namespace fabric_test;

namespace {

Kind each_fabric() {
    if (verbs_address()) return Kind::verbs;
    return GENERATE(Kind::memory, Kind::iwarp);
}

// What a connection manager tells a peer is that the connection ended, and no more; which side hears first
// why, and whether a write was already complete, is each device's own.
bool ended_for(const Node& node, std::initializer_list<Reason> software,
               std::initializer_list<Reason> verbs) {
    const auto& expected = verbs_address() ? verbs : software;
    return node.end && std::find(expected.begin(), expected.end(), node.end->reason) != expected.end();
}
constexpr std::initializer_list<Reason> any_end = {Reason::remote_access_violation, Reason::peer_closed,
                                                   Reason::transport_error, Reason::transport_timeout,
                                                   Reason::receive_overrun};

}  // namespace

TEST_CASE("connect and accept carry private data and addresses") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    // InfiniBand pads it with zeros.
    CHECK(text_of(pair.acceptor.data).starts_with("hello"));
    CHECK(text_of(pair.client.peer_data).starts_with("welcome"));
    CHECK(port_of(pair.client->remote_address()) == port_of(pair.address()));
    CHECK(port_of(pair.client->local_address()) == port_of(pair.server->remote_address()));
    CHECK(pair.client->limits().max_ord == 8);
    CHECK(pair.server->limits().max_ird == 8);
    CHECK(pair.client->limits().max_message >= 1u << 20);
}

TEST_CASE("a message is gathered and scattered, and both sides complete in order") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory source(*pair.client.endpoint, 10000), sink(*pair.server.endpoint, 20000);
    source.fill(1);
    REQUIRE(pair.server.receive(7, {sink.sge(0, 24), sink.sge(1000, 9000)}));
    REQUIRE(pair.server.receive(8, {sink.sge(12000, 100)}));
    REQUIRE(pair.client.send(1, {source.sge(0, 24), source.sge(24, 5000), source.sge(6000, 1000)}));
    REQUIRE(pair.client.send(2, {source.sge(0, 30)}));
    pair.client->flush();
    REQUIRE(pair.until(
        [&] { return pair.server.completions.size() == 2 && pair.client.completions.size() == 2; }));
    CHECK(pair.server.completions[0].wr_id == 7);
    CHECK(pair.server.completions[0].byte_length == 6024);
    CHECK(pair.server.completions[1].wr_id == 8);
    CHECK(pair.server.completions[1].byte_length == 30);
    CHECK(pair.client.completions[0].wr_id == 1);
    CHECK(pair.client.completions[1].wr_id == 2);
    CHECK(std::memcmp(&sink.bytes[0], &source.bytes[0], 24) == 0);
    CHECK(std::memcmp(&sink.bytes[1000], &source.bytes[24], 5000) == 0);
    CHECK(std::memcmp(&sink.bytes[6000], &source.bytes[6000], 1000) == 0);
    CHECK(std::memcmp(&sink.bytes[12000], &source.bytes[0], 30) == 0);
}

TEST_CASE("small messages need no registration, empty ones consume a receive") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory sink(*pair.server.endpoint, 1000);
    for (uint64_t i = 0; i < 2; ++i) REQUIRE(pair.server.receive(i, {sink.sge(i * 100, 100)}));
    char text[] = "unregistered";
    REQUIRE(pair.client.send(1, {{reinterpret_cast<std::byte*>(text), sizeof text, 0}}));
    text[0] = 'X';  // was copied at once
    REQUIRE(pair.client.send(2, {}));
    std::vector<std::byte> large(1000);
    CHECK(pair.client.send(3, {{large.data(), 1000, 0}}).error().errnum == EINVAL);
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.server.completions.size() == 2; }));
    CHECK(std::string(reinterpret_cast<char*>(sink.bytes.data())) == "unregistered");
    CHECK(pair.server.completions[1].byte_length == 0);
}

TEST_CASE("the responder's messages wait for the initiator's first and then flow") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory sink(*pair.client.endpoint, 100), other(*pair.server.endpoint, 100);
    REQUIRE(pair.client.receive(1, {sink.sge()}));
    REQUIRE(pair.server.receive(1, {other.sge()}));
    char text[] = "from the server";
    REQUIRE(pair.server.send(1, {{reinterpret_cast<std::byte*>(text), sizeof text, 0}}));
    pair.server->flush();
    REQUIRE(pair.client.send(1, {}));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.count(Opcode::receive) == 1; }));
    CHECK(std::string(reinterpret_cast<char*>(sink.bytes.data())) == text);
}

TEST_CASE("write, read and send with invalidate") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    const size_t size = 300'000;
    Memory source(*pair.client.endpoint, size),
        target(*pair.server.endpoint, size, access_remote_write | access_remote_read);
    Memory read_back(*pair.client.endpoint, size, access_read_sink), message(*pair.server.endpoint, 100);
    source.fill(3);
    REQUIRE(pair.server.receive(5, {message.sge()}));
    REQUIRE(pair.client.remote(Opcode::rdma_write, 1, source.sge(), target.region));
    REQUIRE(pair.client.remote(Opcode::rdma_read, 2, read_back.sge(0, 200'000), target.region, 50'000));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.completions.size() == 2; }));
    CHECK(target.bytes == source.bytes);
    CHECK(std::memcmp(read_back.bytes.data(), &source.bytes[50'000], 200'000) == 0);
    CHECK(pair.client.completions[1].byte_length == 200'000);

    if (!pair.server->limits().remote_invalidate_registered) return;
    REQUIRE(pair.client->post_send({.wr_id = 3,
                                    .opcode = Opcode::send_with_invalidate,
                                    .sges = {},
                                    .invalidate_rkey = target.region.rkey}));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.server.count(Opcode::receive) == 1; }));
    CHECK(pair.server.completions[0].invalidated);
    CHECK(pair.server.completions[0].invalidated_rkey == target.region.rkey);
    // The key is dead: writing with it again ends the connection.
    REQUIRE(pair.client.remote(Opcode::rdma_write, 4, source.sge(0, 10), target.region));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.end && pair.server.end; }));
    CHECK(ended_for(pair.server, {Reason::remote_access_violation}, any_end));
    CHECK(ended_for(pair.client, {Reason::remote_terminate}, any_end));
    pair.server->deregister_memory(target.region);
}

TEST_CASE("every breach of protection ends the connection of both") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory local(*pair.client.endpoint, 1000, access_read_sink);
    Memory region(*pair.server.endpoint, 1000, access_remote_write);
    Memory readable(*pair.server.endpoint, 1000, access_remote_read);
    Memory none(*pair.server.endpoint, 1000);
    auto named = region.region;
    uint64_t offset = 0;
    auto opcode = Opcode::rdma_write;
    size_t length = 100;
    const int breach = GENERATE(range(0, 12));
    CAPTURE(breach);
    // siw answers a read without the right to it with silence: nothing is read, and the reader waits.
    if (breach == 7 && std::string_view(pair.client->fabric_name()).starts_with("verbs:siw")) return;
    switch (breach) {
        case 0:
            offset = 901;
            break;  // one byte too far
        case 1:
            offset = static_cast<uint64_t>(-1);
            break;  // one byte before
        case 2:
            offset = ~named.remote_offset - 20;
            break;  // wraps around 64 bits
        case 3:
            named.rkey ^= 1;
            break;  // another key of the index
        case 4:
            named.rkey ^= 0x100;
            break;  // another index
        case 5:
            named = readable.region;
            break;  // no right to write
        case 6:
            named = none.region;
            break;  // no right at all
        case 7:
            opcode = Opcode::rdma_read;
            break;  // no right to read
        case 8:
            named = readable.region, opcode = Opcode::rdma_read, offset = 901;
            break;
        case 9:
            pair.server->deregister_memory(named);
            break;
        case 10:
            named = readable.region, opcode = Opcode::rdma_read, pair.server->deregister_memory(named);
            break;
        case 11:
            named.rkey = 0, named.remote_offset = 0;
            break;
    }
    REQUIRE(pair.client.remote(opcode, 1, local.sge(0, length), named, offset));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.end && pair.server.end; }));
    CHECK(ended_for(pair.server, {Reason::remote_access_violation}, any_end));
    CHECK(ended_for(pair.client, {Reason::remote_terminate}, any_end));
    REQUIRE(pair.client.completions.size() == 1);
    if (!verbs_address())
        CHECK(pair.client.completions[0].status ==
              (opcode == Opcode::rdma_read ? Status::remote_access_error : Status::success));
    else if (opcode == Opcode::rdma_read)
        CHECK(pair.client.completions[0].status != Status::success);
    for (const auto* memory : {&region, &readable, &none}) {
        CHECK(std::count(memory->bytes.begin(), memory->bytes.end(), std::byte{0}) == 1000);
    }
    CHECK(pair.client.send(2, {}).error().errnum == ENOTCONN);
}

TEST_CASE("keys of one endpoint mean nothing on another") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Node second_client, second_server;
    second_client.endpoint = pair.fabric->connect(pair.to_listener(), &second_client).value();
    REQUIRE(pair.until([&] { return pair.acceptor.endpoint != nullptr; }));
    second_server.endpoint = std::move(pair.acceptor.endpoint);
    REQUIRE(second_server->accept({}, &second_server));
    REQUIRE(pair.until([&] { return second_client.established; }));
    Memory region(*pair.server.endpoint, 1000, access_remote_write), local(*second_client.endpoint, 1000);
    REQUIRE(second_client.remote(Opcode::rdma_write, 1, local.sge(), region.region));
    second_client->flush();
    REQUIRE(pair.until([&] { return second_client.end && second_server.end; }));
    settle(pair.loop);
    CHECK_FALSE(pair.client.end);
    CHECK_FALSE(pair.server.end);
}

TEST_CASE("zero-length tagged messages name nothing") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    const MemoryRegion nonsense{
        .handle = 1, .lkey = 0xdeadbe00, .rkey = 0xdeadbe00, .remote_offset = 5, .length = 0};
    REQUIRE(pair.client.remote(Opcode::rdma_write, 1, {nullptr, 0, 0}, nonsense));
    REQUIRE(pair.client.remote(Opcode::rdma_read, 2, {nullptr, 0, 0}, nonsense));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.completions.size() == 2; }));
    CHECK(pair.client.completions[1].status == Status::success);
}

TEST_CASE("without a receive, or with one too small, a send is fatal") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory sink(*pair.server.endpoint, 100), source(*pair.client.endpoint, 101);
    if (GENERATE(true, false)) REQUIRE(pair.server.receive(9, {sink.sge()}));
    REQUIRE(pair.client.send(1, {source.sge()}));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.end && pair.server.end; }));
    CHECK(ended_for(pair.server, {Reason::receive_overrun}, any_end));
    CHECK(ended_for(pair.client, {Reason::remote_terminate}, any_end));
    for (const auto& c : pair.server.completions) CHECK(c.status != Status::success);
}

TEST_CASE("an orderly end lets everything out first") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    const size_t size = 1'000'000;
    Memory source(*pair.client.endpoint, size), sink(*pair.server.endpoint, size);
    source.fill(4);
    for (uint64_t i = 0; i < 100; ++i) REQUIRE(pair.server.receive(i, {sink.sge(i * 10'000, 10'000)}));
    for (uint64_t i = 0; i < 100; ++i) REQUIRE(pair.client.send(i, {source.sge(i * 10'000, 10'000)}));
    pair.client->disconnect();
    CHECK(pair.client.send(1000, {}).error().errnum == ENOTCONN);
    REQUIRE(pair.until([&] { return pair.client.end && pair.server.end; }));
    CHECK(*pair.client.end == Error{Reason::local_close, 0});
    CHECK(*pair.server.end == Error{Reason::peer_closed, 0});
    CHECK(pair.server.count(Opcode::receive) == 100);
    CHECK(pair.client.count(Opcode::send) == 100);
    for (const auto& c : pair.client.completions) CHECK(c.status == Status::success);
    CHECK(sink.bytes == source.bytes);
    settle(pair.loop);
    CHECK(pair.client.ends == 1);
    CHECK(pair.server.ends == 1);
}

TEST_CASE("an abort is a reset for the peer, and every buffer comes back once") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory sink(*pair.server.endpoint, 1000), mine(*pair.client.endpoint, 1000);
    for (uint64_t i = 0; i < 3; ++i) REQUIRE(pair.server.receive(i, {sink.sge()}));
    REQUIRE(pair.client.receive(77, {mine.sge()}));
    if (GENERATE(true, false)) {
        pair.client->peer_is_own_kind();  // without which verbs have no way to say it
        pair.server->peer_is_own_kind();
        pair.client->abort();
        REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
        CHECK(pair.client.end->reason == Reason::local_abort);
        CHECK(pair.client.find(Opcode::receive, 77)->status == Status::flushed);
        REQUIRE(pair.until([&] { return pair.server.end.has_value(); }));
        CHECK(*pair.server.end == Error{Reason::peer_reset, ECONNRESET});
    } else {
        pair.client.endpoint.reset();
        REQUIRE(pair.until([&] { return pair.server.end.has_value(); }));
        CHECK(ended_for(pair.server, {Reason::peer_reset}, {Reason::peer_closed}));
    }
    REQUIRE(pair.server.completions.size() == 3);
    for (uint64_t i = 0; i < 3; ++i) {
        CHECK(pair.server.completions[i].wr_id == i);
        CHECK(pair.server.completions[i].status == Status::flushed);
    }
    CHECK(pair.server.receive(9, {}).error().errnum == ENOTCONN);
    CHECK(pair.server.send(9, {}).error().errnum == ENOTCONN);
}

TEST_CASE("reject, by name or by destruction") {
    Pair pair(each_fabric());
    REQUIRE(pair.request(pair.to_listener()));
    if (GENERATE(true, false)) {
        pair.acceptor.endpoint->reject(private_data("no"));
    }
    pair.acceptor.endpoint.reset();
    REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
    CHECK(*pair.client.end == Error{Reason::peer_rejected, ECONNREFUSED});
    CHECK_FALSE(pair.client.established);
}

TEST_CASE("nobody listens") {
    Pair pair(each_fabric());
    const auto parameters = pair.to_listener();
    pair.listener.reset();
    auto connected = pair.fabric->connect(parameters, &pair.client);
    Error error;
    if (connected) {
        pair.client.endpoint = std::move(*connected);
        REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
        error = *pair.client.end;
    } else {
        error = connected.error();
    }
    CHECK(error == Error{Reason::connect_refused, ECONNREFUSED});
}

TEST_CASE("nobody accepts in time") {
    Pair pair(each_fabric());
    auto parameters = pair.to_listener();
    parameters.timeout = 50'000'000;
    REQUIRE(pair.request(parameters));
    REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
    CHECK(pair.client.end->errnum == ETIMEDOUT);
    settle(pair.loop);
    // siw notices a peer that has gone after the acceptance.
    const auto accepted = pair.acceptor.endpoint->accept({}, &pair.server);
    if (verbs_address() && accepted)
        REQUIRE(pair.until([&] { return pair.server.end.has_value(); }));
    else
        CHECK(accepted.error().errnum == ECONNRESET);
}

TEST_CASE("completions are announced on an edge") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    struct Lazy final : EndpointEvents {
        int edges = 0;
        void on_established(const PrivateData&) override {}
        void on_completions() override { ++edges; }
        void on_disconnected(Error) override {}
    } lazy;
    auto parameters = pair.to_listener();
    auto endpoint = pair.fabric->connect(parameters, &lazy).value();
    REQUIRE(pair.until([&] { return pair.acceptor.endpoint != nullptr; }));
    Node server;
    server.endpoint = std::move(pair.acceptor.endpoint);
    Memory sink(*server.endpoint, 1000);
    for (uint64_t i = 0; i < 10; ++i) REQUIRE(server.receive(i, {sink.sge()}));
    REQUIRE(server->accept({}, &server));
    REQUIRE(pair.until([&] { return server.established; }));
    settle(pair.loop);
    for (uint64_t i = 0; i < 5; ++i) {
        REQUIRE(endpoint->post_send({.wr_id = i, .sges = {}}));
        endpoint->flush();
        settle(pair.loop, 3);
    }
    CHECK(lazy.edges == 1);
    std::array<Completion, 3> out;
    CHECK(endpoint->poll(out) == 3);  // full: there may be more, and no new edge comes
    REQUIRE(endpoint->post_send({.wr_id = 5, .sges = {}}));
    endpoint->flush();
    settle(pair.loop, 3);
    CHECK(lazy.edges == 1);
    CHECK(endpoint->poll(out) == 3);
    CHECK(endpoint->poll(out) == 0);
    REQUIRE(endpoint->post_send({.wr_id = 6, .sges = {}}));
    endpoint->flush();
    settle(pair.loop, 3);
    CHECK(lazy.edges == 2);
}

TEST_CASE("queues have the depth that was asked for") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect(false, {.remote = pair.address(), .send_queue = 3, .receive_queue = 2}, {}));
    for (int i = 0; i < 3; ++i) CHECK(pair.client.send(1, {}));
    CHECK(pair.client.send(1, {}).error().errnum == ENOBUFS);
    Memory sink(*pair.client.endpoint, 10);
    for (int i = 0; i < 2; ++i) CHECK(pair.client.receive(1, {sink.sge()}));
    CHECK(pair.client.receive(1, {sink.sge()}).error().errnum == ENOBUFS);
    CHECK(pair.client->limits().max_send_wr == 3);
}

TEST_CASE("an endpoint may be destroyed in any of its callbacks") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    Memory sink(*pair.server.endpoint, 100);
    REQUIRE(pair.server.receive(1, {sink.sge()}));
    pair.server.after_completions = [&] { pair.server.endpoint.reset(); };
    REQUIRE(pair.client.send(1, {}));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.end.has_value(); }));
    CHECK(pair.server.ends == 0);
}

TEST_CASE("more reads than the peer serves at once wait their turn") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect(false, {.remote = pair.address(), .ird = 4, .ord = 2}, {.ird = 2, .ord = 2}));
    const size_t size = 50'000;
    Memory remote(*pair.server.endpoint, size, access_remote_read),
        sink(*pair.client.endpoint, size * 20, access_read_sink);
    remote.fill(9);
    for (uint64_t i = 0; i < 20; ++i) {
        REQUIRE(pair.client.remote(Opcode::rdma_read, i, sink.sge(i * size, size), remote.region));
    }
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.completions.size() == 20; }));
    for (uint64_t i = 0; i < 20; ++i) {
        CHECK(pair.client.completions[i].wr_id == i);
        CHECK(pair.client.completions[i].status == Status::success);
        CHECK(std::memcmp(&sink.bytes[i * size], remote.bytes.data(), size) == 0);
    }
}

TEST_CASE("what is posted behind a read completes behind it, and the data are there by then") {
    Pair pair(each_fabric());
    REQUIRE(pair.connect());
    const size_t size = 8'000'000;
    Memory remote(*pair.server.endpoint, size, access_remote_read), message(*pair.server.endpoint, 100),
        sink(*pair.client.endpoint, size, access_read_sink);
    remote.fill(11);
    for (uint64_t i = 0; i < 3; ++i) REQUIRE(pair.server.receive(i, {message.sge()}));
    std::optional<bool> whole;  // when the first completion was told
    pair.client.after_completions = [&] {
        if (!whole && !pair.client.completions.empty()) whole = sink.bytes == remote.bytes;
    };
    REQUIRE(pair.client.remote(Opcode::rdma_read, 0, sink.sge(), remote.region));
    for (uint64_t i = 1; i < 4; ++i) REQUIRE(pair.client.send(i, {}));
    pair.client->flush();
    REQUIRE(pair.until([&] { return pair.client.completions.size() == 4; }));
    for (uint64_t i = 0; i < 4; ++i) CHECK(pair.client.completions[i].wr_id == i);
    CHECK(whole == true);
}
