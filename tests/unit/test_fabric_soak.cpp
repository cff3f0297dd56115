// A seeded random conversation of two endpoints, both ways at once: sends of all sizes, writes, reads and
// remote invalidations, with every byte compared, over memory and over iwarp with and without partial reads
// and writes.
#include <deque>
#include <random>

#include "fabric_support.hpp"
#include "support/catch.hpp"

using namespace fabric_test;

namespace {

constexpr size_t largest = 70'000;
constexpr size_t slots = 40;
constexpr size_t canary = 64;

void pattern(std::byte* at, size_t length, uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
    for (size_t i = 0; i < length; ++i) {
        if (i % 8 == 0) x = x * 6364136223846793005 + 1442695040888963407;
        at[i] = static_cast<std::byte>(x >> (8 * (i % 8)));
    }
}
bool has_pattern(const std::byte* at, size_t length, uint64_t seed) {
    std::vector<std::byte> expected(length);
    pattern(expected.data(), length, seed);
    return length == 0 || std::memcmp(expected.data(), at, length) == 0;
}

struct Message {  // what the peer must see, in order
    size_t length;
    uint64_t seed;
    std::optional<uint32_t> invalidated;
    struct Written {
        size_t slot, length;
        uint64_t seed;
    };
    std::vector<Written> writes;  // that it vouches for
};

struct Side {
    Node node;
    Side* peer = nullptr;
    std::mt19937_64* random = nullptr;
    std::unique_ptr<Memory> tx, rx, headers, target, source, sink;
    std::deque<size_t> free_tx, free_sink, free_target;  // target slots of the peer
    std::deque<Message> expected;                        // by this side, from the peer
    std::vector<Message::Written> unannounced;
    std::deque<std::pair<MemoryRegion, std::unique_ptr<Memory>>>
        windows;  // ours, that the peer may invalidate
    uint64_t posted = 0, received = 0, next_seed = 1, operations = 0;
    size_t usual = 8160;
    std::vector<std::pair<size_t, size_t>> reads;  // sink slot -> (offset, length), by slot

    void set_up() {
        Endpoint& e = *node.endpoint;
        tx = std::make_unique<Memory>(e, slots * largest);
        rx = std::make_unique<Memory>(e, slots * largest);
        headers = std::make_unique<Memory>(e, slots * 24);
        target = std::make_unique<Memory>(e, slots * (largest + canary), access_remote_write);
        source = std::make_unique<Memory>(e, 3 * largest, access_remote_read);
        source->fill(77);
        sink = std::make_unique<Memory>(e, slots * largest);
        reads.resize(slots);
        for (size_t i = 0; i < slots; ++i) {
            free_tx.push_back(i);
            free_sink.push_back(i);
            free_target.push_back(i);
        }
        for (size_t i = 0; i < slots; ++i) post_receive();
        node.after_completions = [this] { on_completions(); };
    }
    void post_receive() {
        const size_t slot = posted++ % slots;
        REQUIRE(node.receive(slot, {headers->sge(slot * 24, 24), rx->sge(slot * largest, largest - 24)}));
    }
    size_t pick(size_t below) { return (*random)() % below; }
    size_t some_length() {
        switch (pick(8)) {
            case 0:
                return pick(64);
            case 1:
                return pick(2000);
            case 2:
                return pick(largest);
            case 3:
                usual = 24 + pick(largest - 24);
                return usual;
            default:
                return usual;  // bulk of one size: what the receiver guesses
        }
    }

    void step() {
        switch (pick(10)) {
            case 0:
            case 1:
                return write();
            case 2:
                return read();
            case 3:
                return invalidate();
            default:
                return send({});
        }
    }
    void send(std::optional<uint32_t> key) {
        // The peer must have a receive for it: what it posted less what we sent and it has not taken yet.
        if (free_tx.empty() || peer->posted - peer->received <= peer->expected.size()) return;
        const size_t slot = free_tx.front(), length = some_length();
        std::byte* at = &tx->bytes[slot * largest];
        pattern(at, length, next_seed);
        const size_t cut = std::min<size_t>(length, pick(2) ? 24 : pick(largest));
        const Sge sges[2] = {tx->sge(slot * largest, cut), tx->sge(slot * largest + cut, length - cut)};
        REQUIRE(node.endpoint->post_send({.wr_id = slot,
                                          .opcode = key ? Opcode::send_with_invalidate : Opcode::send,
                                          .sges = sges,
                                          .invalidate_rkey = key.value_or(0)}));
        free_tx.pop_front();
        peer->expected.push_back({length, next_seed++, key, std::move(unannounced)});
        unannounced.clear();
        ++operations;
    }
    void write() {
        if (free_tx.empty() || free_target.empty()) return;
        const size_t slot = free_tx.front(), to = free_target.front(), length = some_length();
        pattern(&tx->bytes[slot * largest], length, next_seed);
        REQUIRE(node.remote(Opcode::rdma_write, slot, tx->sge(slot * largest, length), peer->target->region,
                            to * (largest + canary)));
        free_tx.pop_front();
        free_target.pop_front();
        unannounced.push_back({to, length, next_seed++});
        ++operations;
    }
    void read() {
        if (free_sink.empty()) return;
        const size_t slot = free_sink.front(), length = some_length(), from = pick(2 * largest);
        REQUIRE(node.remote(Opcode::rdma_read, slot, sink->sge(slot * largest, length), peer->source->region,
                            from));
        free_sink.pop_front();
        reads[slot] = {from, length};
        ++operations;
    }
    void invalidate() {
        if (free_tx.empty() || peer->posted - peer->received <= peer->expected.size()) return;
        auto window = std::make_unique<Memory>(*peer->node.endpoint, 100, access_remote_read);
        const uint32_t key = window->region.rkey;
        peer->windows.emplace_back(window->region, std::move(window));
        send(key);
    }

    void on_completions() {
        auto completions = std::move(node.completions);
        node.completions.clear();
        for (const Completion& c : completions) {
            REQUIRE(c.status == Status::success);
            switch (c.opcode) {
                case Opcode::receive:
                    on_receive(c);
                    break;
                case Opcode::rdma_read: {
                    const auto [from, length] = reads[c.wr_id];
                    REQUIRE(c.byte_length == length);
                    REQUIRE((length == 0 || std::memcmp(&sink->bytes[c.wr_id * largest],
                                                        &peer->source->bytes[from], length) == 0));
                    free_sink.push_back(c.wr_id);
                    break;
                }
                default:
                    free_tx.push_back(c.wr_id);
            }
        }
    }
    void on_receive(const Completion& c) {
        REQUIRE_FALSE(expected.empty());
        const Message message = std::move(expected.front());
        expected.pop_front();
        REQUIRE(c.wr_id == received++ % slots);
        REQUIRE(c.byte_length == message.length);
        std::vector<std::byte> whole(message.length);
        const size_t cut = std::min<size_t>(24, message.length);
        std::copy_n(&headers->bytes[c.wr_id * 24], cut, whole.begin());
        std::copy_n(&rx->bytes[c.wr_id * largest], message.length - cut,
                    whole.begin() + static_cast<long>(cut));
        REQUIRE(has_pattern(whole.data(), message.length, message.seed));
        REQUIRE(c.invalidated == message.invalidated.has_value());
        if (c.invalidated) {
            REQUIRE(c.invalidated_rkey == *message.invalidated);
            node.endpoint->deregister_memory(windows.front().first);
            windows.pop_front();
        }
        for (const auto& written : message.writes) {
            std::byte* at = &target->bytes[written.slot * (largest + canary)];
            REQUIRE(has_pattern(at, written.length, written.seed));
            // Nothing beside it was touched: the slot is cleared after each use.
            REQUIRE(std::all_of(at + written.length, at + largest + canary,
                                [](std::byte b) { return b == std::byte{0}; }));
            std::fill_n(at, written.length, std::byte{0});
            peer->free_target.push_back(written.slot);
        }
        post_receive();
    }
    bool quiet() const { return expected.empty() && free_tx.size() == slots && free_sink.size() == slots; }
};

struct Variant {
    const char* name;
    Kind kind;
    iwarp::Settings settings;
    bool own_kind;
};

}  // namespace

TEST_CASE("soak: every byte arrives") {
    using iwarp::Crc;
    const std::vector<Variant> variants = {
        {"memory", Kind::memory, {}, false},
        {"iwarp, own kind", Kind::iwarp, {.crc = Crc::off}, true},
        {"iwarp, own kind, CRC", Kind::iwarp, {.crc = Crc::on}, true},
        {"iwarp, stranger", Kind::iwarp, {.crc = Crc::on, .fpdu_limit = 1442}, false},
        {"iwarp, partial", Kind::iwarp, {.crc = Crc::on, .io_limit = 7919}, true},
        {"iwarp, partial in FPDUs of 8 KiB",
         Kind::iwarp,
         {.crc = Crc::off, .fpdu_limit = 8200, .io_limit = 40'001},
         true},
        {"iwarp, drop by drop", Kind::iwarp, {.crc = Crc::on, .io_limit = 613}, true},
        {"iwarp, tiny buffers",
         Kind::iwarp,
         {.crc = Crc::on, .send_buffer = 4608, .receive_buffer = 2304},
         true},
        {"iwarp, tiny send buffer", Kind::iwarp, {.crc = Crc::off, .send_buffer = 4608}, true},
    };
    const size_t index = GENERATE(range(size_t{0}, size_t{9}));
    const Variant& variant = variants[index];
    const char* given = getenv("SOAK_SEED");
    const uint64_t seed = given ? strtoull(given, nullptr, 10) : 1;
    const char* wanted = getenv("SOAK_OPERATIONS");
    const uint64_t operations = wanted ? strtoull(wanted, nullptr, 10) : index < 6 ? 1500 : 300;
    CAPTURE(variant.name, seed);
    std::mt19937_64 random(seed);

    EventLoop loop;
    auto fabric =
        variant.kind == Kind::memory ? make_memory_fabric(loop) : make_iwarp_fabric(loop, variant.settings);
    Acceptor acceptor;
    auto listener = fabric->listen({.address = loopback()}, &acceptor).value();
    Side a, b;
    a.peer = &b;
    b.peer = &a;
    a.random = b.random = &random;
    a.node.endpoint = fabric->connect({.remote = listener->local_address(), .ord = 4}, &a.node).value();
    REQUIRE(run_until(loop, [&] { return acceptor.endpoint != nullptr; }));
    b.node.endpoint = std::move(acceptor.endpoint);
    if (variant.own_kind) b.node->peer_is_own_kind();
    REQUIRE(b.node->accept({.ird = 4, .ord = 2}, &b.node));
    b.set_up();
    REQUIRE(run_until(loop, [&] { return a.node.established && b.node.established; }));
    if (variant.own_kind) a.node->peer_is_own_kind();
    a.set_up();

    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (a.operations + b.operations < 2 * operations) {
        REQUIRE(std::chrono::steady_clock::now() < end);
        for (Side* side : {&a, &b}) {
            for (size_t n = random() % 12; n; --n) side->step();
            if (random() % 4) side->node->flush();
        }
        for (size_t n = random() % 3; n; --n) loop.run_once(0);
        REQUIRE_FALSE(a.node.end);
        REQUIRE_FALSE(b.node.end);
    }
    a.node->flush();
    b.node->flush();
    REQUIRE(run_until(
        loop, [&] { return a.quiet() && b.quiet(); }, 60'000));
    a.node.after_completions = b.node.after_completions = nullptr;
    a.node->disconnect();
    REQUIRE(run_until(loop, [&] { return a.node.end && b.node.end; }));
    CHECK(b.node.end->errnum == 0);
}

TEST_CASE("many endpoints at once") {
    EventLoop loop;
    auto fabric = make_iwarp_fabric(loop);
    Acceptor acceptor;
    std::vector<std::unique_ptr<Node>> servers, clients;
    std::vector<std::unique_ptr<Memory>> memory;
    acceptor.on = [&](std::unique_ptr<Endpoint> endpoint, const PrivateData&) {
        servers.push_back(std::make_unique<Node>());
        servers.back()->endpoint = std::move(endpoint);
        memory.push_back(std::make_unique<Memory>(*servers.back()->endpoint, 10'000));
        REQUIRE(servers.back()->receive(1, {memory.back()->sge()}));
        REQUIRE(servers.back()->endpoint->accept({}, servers.back().get()));
    };
    auto listener = fabric->listen({.address = loopback()}, &acceptor).value();
    constexpr size_t count = 200;
    for (size_t i = 0; i < count; ++i) {
        clients.push_back(std::make_unique<Node>());
        clients.back()->endpoint =
            fabric->connect({.remote = listener->local_address()}, clients.back().get()).value();
    }
    REQUIRE(run_until(loop, [&] {
        return std::all_of(clients.begin(), clients.end(), [](const auto& c) { return c->established; });
    }));
    std::vector<std::byte> bytes(10'000, std::byte{9});
    for (auto& client : clients) {
        memory.push_back(std::make_unique<Memory>(*client->endpoint, 10'000));
        REQUIRE(client->send(1, {memory.back()->sge()}));
        client->endpoint->flush();
    }
    REQUIRE(run_until(loop, [&] {
        return std::all_of(servers.begin(), servers.end(),
                           [](const auto& s) { return s->completions.size() == 1; });
    }));
    CHECK(servers.size() == count);
    servers.clear();
    clients.clear();
    settle(loop);
}
