// Two endpoints on one loop, over either software fabric, for tests; and over verbs where there is a device:
// SMBDIRECT_TEST_VERBS is the IPv4 address to use (tests/lab).
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/iwarp/iwarp_fabric.hpp"
#include "fabric/memory/memory_fabric.hpp"
#include "fabric/verbs/verbs_fabric.hpp"

namespace fabric_test {

using namespace smbdirect;
using namespace smbdirect::fabric;

enum class Kind { memory, iwarp, verbs };

inline const char* verbs_address() { return std::getenv("SMBDIRECT_TEST_VERBS"); }

inline sockaddr_storage loopback(uint16_t port = 0) {
    sockaddr_storage storage{};
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    std::memcpy(&storage, &in, sizeof in);
    return storage;
}

inline uint16_t port_of(const sockaddr_storage& address) {
    sockaddr_in in;
    std::memcpy(&in, &address, sizeof in);
    return ntohs(in.sin_port);
}

// Turns the loop until the condition holds; false after the time limit.
inline bool run_until(EventLoop& loop, const std::function<bool()>& condition, int limit_ms = 5000) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(limit_ms);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        loop.run_once(10);
    }
    return true;
}
inline void settle(EventLoop& loop, int turns = 20) {
    for (int i = 0; i < turns; ++i) loop.run_once(1);
}

inline PrivateData private_data(const std::string& text) {
    PrivateData data;
    std::memcpy(data.bytes.data(), text.data(), text.size());
    data.length = static_cast<uint8_t>(text.size());
    return data;
}
inline std::string text_of(const PrivateData& data) {
    return {reinterpret_cast<const char*>(data.bytes.data()), data.length};
}

// Registered memory with a life of its own.
struct Memory {
    std::vector<std::byte> bytes;
    MemoryRegion region;

    Memory(Endpoint& endpoint, size_t size, uint32_t access = access_none) : bytes(size) {
        region = endpoint.register_memory(bytes.data(), size, access).value();
    }
    Sge sge(size_t offset, size_t length) {
        return {bytes.data() + offset, static_cast<uint32_t>(length), region.lkey};
    }
    Sge sge() { return sge(0, bytes.size()); }
    void fill(uint32_t seed) {
        for (auto& byte : bytes) {
            seed = seed * 1664525 + 1013904223;
            byte = static_cast<std::byte>(seed >> 24);
        }
    }
};

struct Node final : EndpointEvents {
    std::unique_ptr<Endpoint> endpoint;
    bool established = false;
    PrivateData peer_data;
    std::vector<Completion> completions;
    std::optional<Error> end;
    int ends = 0, edges = 0;
    std::function<void()> after_completions;

    void on_established(const PrivateData& peer) override {
        established = true;
        peer_data = peer;
    }
    void on_completions() override {
        ++edges;
        std::array<Completion, 16> out;
        for (;;) {
            const size_t n = endpoint->poll(out);
            completions.insert(completions.end(), out.begin(), out.begin() + static_cast<long>(n));
            if (n < out.size()) break;
        }
        if (after_completions) after_completions();
    }
    void on_disconnected(Error error) override {
        ++ends;
        end = error;
    }

    Endpoint* operator->() const { return endpoint.get(); }
    size_t count(Opcode opcode) const {
        size_t n = 0;
        for (const auto& c : completions) n += c.opcode == opcode;
        return n;
    }
    const Completion* find(Opcode opcode, uint64_t wr_id) const {
        for (const auto& c : completions) {
            if (c.opcode == opcode && c.wr_id == wr_id) return &c;
        }
        return nullptr;
    }
    Result<void> send(uint64_t wr_id, std::initializer_list<Sge> sges) {
        const std::vector<Sge> list(sges);
        return endpoint->post_send({.wr_id = wr_id, .opcode = Opcode::send, .sges = list});
    }
    Result<void> remote(Opcode opcode, uint64_t wr_id, Sge local, const MemoryRegion& region,
                        uint64_t offset = 0) {
        return endpoint->post_send({.wr_id = wr_id,
                                    .opcode = opcode,
                                    .sges = {&local, 1},
                                    .remote_rkey = region.rkey,
                                    .remote_offset = region.remote_offset + offset});
    }
    Result<void> receive(uint64_t wr_id, std::initializer_list<Sge> sges) {
        const std::vector<Sge> list(sges);
        return endpoint->post_receive(wr_id, list);
    }
};

struct Acceptor final : ListenerEvents {
    std::unique_ptr<Endpoint> endpoint;
    PrivateData data;
    std::function<void(std::unique_ptr<Endpoint>, const PrivateData&)> on;

    void on_request(std::unique_ptr<Endpoint> arrived, const PrivateData& peer) override {
        if (on) return on(std::move(arrived), peer);
        endpoint = std::move(arrived);
        data = peer;
    }
};

struct Pair {
    EventLoop loop;
    std::unique_ptr<Fabric> fabric;
    Acceptor acceptor;
    std::unique_ptr<Listener> listener;
    Node client, server;

    explicit Pair(Kind kind, const iwarp::Settings& settings = {}) {
        sockaddr_storage where = loopback();
        if (kind == Kind::verbs) {
            static uint16_t port = 18515;
            where = loopback(port++);
            inet_pton(AF_INET, verbs_address(), &reinterpret_cast<sockaddr_in&>(where).sin_addr);
            fabric = make_verbs_fabric(loop);
        } else {
            fabric = kind == Kind::memory ? make_memory_fabric(loop) : make_iwarp_fabric(loop, settings);
        }
        listener = fabric->listen({.address = where}, &acceptor).value();
    }
    ~Pair() {
        client.endpoint.reset();
        server.endpoint.reset();
        settle(loop, 3);
    }

    sockaddr_storage address() const { return listener->local_address(); }
    ConnectParameters to_listener() const {
        return {.remote = address(), .private_data = private_data("hello")};
    }

    bool request(const ConnectParameters& parameters) {
        client.endpoint = fabric->connect(parameters, &client).value();
        return run_until(loop, [&] { return acceptor.endpoint != nullptr || client.end; }) &&
               acceptor.endpoint;
    }
    bool connect(bool own_kind = false) {
        return connect(own_kind, to_listener(), {.private_data = private_data("welcome")});
    }
    bool connect(bool own_kind, const ConnectParameters& parameters, const AcceptParameters& accept) {
        if (!request(parameters)) return false;
        server.endpoint = std::move(acceptor.endpoint);
        if (own_kind) server.endpoint->peer_is_own_kind();
        if (!server.endpoint->accept(accept, &server)) return false;
        if (!run_until(loop, [&] { return client.established && server.established; })) return false;
        if (own_kind) client.endpoint->peer_is_own_kind();
        return true;
    }
    bool until(const std::function<bool()>& condition, int limit_ms = 5000) {
        return run_until(loop, condition, limit_ms);
    }
};

}  // namespace fabric_test
