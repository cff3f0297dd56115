// Micro-benchmarks: the connection core alone, and one stream through library moves and engine (both
// fabrics), beside plain memcpy and TCP over loopback in the same run. Prints medians and ratios; the machine
// is noisy, ratios matter.
//
//   build/bench/micro [rounds]        rounds of each measurement (default 7)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "connection/connection.hpp"
#include "support/engine_harness.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using session::FabricChoice;

namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(int rounds, const std::function<double()>& measure) {
    std::vector<double> results;
    for (int i = 0; i < rounds; ++i) results.push_back(measure());
    std::sort(results.begin(), results.end());
    return results[results.size() / 2];
}

constexpr size_t kTotal = 512u << 20;

// ---------------------------------------------------------------- memcpy, twice as a socket copies twice

double memcpy_rate(size_t chunk) {
    std::vector<char> from(chunk, 1), middle(chunk), to(chunk);
    const double start = seconds();
    for (size_t done = 0; done < kTotal; done += chunk) {
        std::memcpy(middle.data(), from.data(), chunk);
        asm volatile("" ::: "memory");
        std::memcpy(to.data(), middle.data(), chunk);
        asm volatile("" ::: "memory");
    }
    return kTotal / (seconds() - start);
}

// ---------------------------------------------------------------- the MS-SMBD core, two of them back to back

struct CorePair {
    connection::Connection active, passive;
    explicit CorePair(const connection::Settings& settings)
        : active(connection::Role::active, settings), passive(connection::Role::passive, settings) {
        for (auto* core : {&active, &passive}) {
            core->start(0);
            core->on_transport_established(0);
        }
        auto request = active.next_message(0);
        if (!request || !passive.on_negotiate_message(request->header, 0)) abort();
        post(passive);
        auto response = passive.next_message(0);
        if (!response || !active.on_negotiate_message(response->header, 0)) abort();
        post(active);
    }
    static void post(connection::Connection& core) {
        core.set_receive_ceiling(255);
        if (const uint32_t wanted = core.receives_wanted()) core.on_receives_posted(wanted);
    }
    static void deliver(connection::Connection& from, connection::Connection& to, uint64_t* fragments) {
        while (auto message = from.next_message(0)) {
            std::byte header[24] = {};
            std::memcpy(header, message->header.data(), message->header.size());
            if (!to.on_data_transfer({header, message->header.size()},
                                     static_cast<uint32_t>(message->header.size() + message->payload_length),
                                     std::nullopt, 0))
                abort();
            post(to);
            ++*fragments;
        }
    }
};

double core_nanoseconds_per_fragment() {
    connection::Settings settings;
    CorePair pair(settings);
    uint64_t fragments = 0;
    const double start = seconds();
    for (int i = 0; i < 500; ++i) {
        if (!pair.active.announce_message(8u << 20, 8u << 20, std::nullopt)) abort();
        while (pair.active.message_announced()) {
            CorePair::deliver(pair.active, pair.passive, &fragments);
            CorePair::deliver(pair.passive, pair.active, &fragments);
        }
    }
    return (seconds() - start) * 1e9 / static_cast<double>(fragments);
}

// ---------------------------------------------------------------- streams

double stream_rate(TestEngine& engine, Listening& listening, FabricChoice fabric, size_t payload) {
    Socket client = connect_to(engine, loopback(listening.port()), fabric);
    Socket server = listening.accept();
    if (!client.open() || !server.open() || client.connected() != 0) abort();
    const auto out = message(payload, 1);
    const size_t count = kTotal / payload;
    const double start = seconds();
    std::thread sender([&] {
        for (size_t i = 0; i < count; ++i)
            if (client.send_all(out.data(), out.size())) abort();
    });
    std::vector<char> in(out.size());
    for (size_t i = 0; i < count; ++i)
        if (server.receive_all(in.data(), in.size())) abort();
    sender.join();
    return static_cast<double>(count * payload) / (seconds() - start);
}

double stream_round_trip(TestEngine& engine, Listening& listening, FabricChoice fabric, size_t payload) {
    Socket client = connect_to(engine, loopback(listening.port()), fabric);
    Socket server = listening.accept();
    if (!client.open() || !server.open() || client.connected() != 0) abort();
    const auto out = message(payload, 1);
    constexpr int kTrips = 3000;
    std::thread echo([&] {
        std::vector<char> in(out.size());
        for (int i = 0; i < kTrips; ++i)
            if (server.receive_all(in.data(), in.size()) || server.send_all(in.data(), in.size())) abort();
    });
    std::vector<char> in(out.size());
    const double start = seconds();
    for (int i = 0; i < kTrips; ++i)
        if (client.send_all(out.data(), out.size()) || client.receive_all(in.data(), in.size())) abort();
    const double elapsed = seconds() - start;
    echo.join();
    return elapsed / kTrips * 1e6;
}

struct TcpPair {
    int client, server;
    TcpPair() {
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        auto address = loopback(0);
        socklen_t length = sizeof(sockaddr_in);
        if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) || listen(listener, 1)) abort();
        getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
        client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(client, reinterpret_cast<sockaddr*>(&address), length)) abort();
        server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        close(listener);
    }
    ~TcpPair() {
        close(client);
        close(server);
    }
};

void tcp_send(int fd, const char* data, size_t length) {
    while (length) {
        const ssize_t sent = send(fd, data, length, 0);
        if (sent <= 0) abort();
        data += sent;
        length -= static_cast<size_t>(sent);
    }
}

double tcp_rate(size_t payload) {
    TcpPair pair;
    const auto out = message(payload, 1);
    const size_t count = kTotal / payload;
    const double start = seconds();
    std::thread sender([&] {
        for (size_t i = 0; i < count; ++i) tcp_send(pair.client, out.data(), out.size());
    });
    std::vector<char> in(out.size());
    for (size_t i = 0; i < count; ++i)
        if (recv(pair.server, in.data(), in.size(), MSG_WAITALL) != static_cast<ssize_t>(in.size())) abort();
    sender.join();
    return static_cast<double>(count * payload) / (seconds() - start);
}

double tcp_round_trip(size_t payload) {
    TcpPair pair;
    const auto out = message(payload, 1);
    constexpr int kTrips = 3000;
    std::thread echo([&] {
        std::vector<char> in(out.size());
        for (int i = 0; i < kTrips; ++i) {
            if (recv(pair.server, in.data(), in.size(), MSG_WAITALL) <= 0) abort();
            tcp_send(pair.server, in.data(), in.size());
        }
    });
    std::vector<char> in(out.size());
    const double start = seconds();
    for (int i = 0; i < kTrips; ++i) {
        tcp_send(pair.client, out.data(), out.size());
        if (recv(pair.client, in.data(), in.size(), MSG_WAITALL) <= 0) abort();
    }
    const double elapsed = seconds() - start;
    echo.join();
    return elapsed / kTrips * 1e6;
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 7;
    TestEngine engine;
    Listening listening(engine, false);
    if (listening.error()) return 1;

    std::printf("connection core: %.0f ns a fragment (both ends: header built, sent, parsed, credits)\n",
                median(rounds, core_nanoseconds_per_fragment));
    for (size_t size : {size_t{4096}, size_t{65536}, size_t{1} << 20, size_t{8} << 20}) {
        const double copy = median(rounds, [&] { return memcpy_rate(size); });
        const double tcp = median(rounds, [&] { return tcp_rate(size); });
        const double wire =
            median(rounds, [&] { return stream_rate(engine, listening, FabricChoice::iwarp, size); });
        const double memory =
            median(rounds, [&] { return stream_rate(engine, listening, FabricChoice::memory, size); });
        std::printf(
            "stream, messages of %7zu: memcpy twice %5.1f GB/s; TCP loopback %4.1f GB/s; iwarp %.2f of TCP; "
            "memory %.2f of TCP, %.2f of memcpy\n",
            size, copy / 1e9, tcp / 1e9, wire / tcp, memory / tcp, memory / copy);
    }
    for (size_t size : {size_t{64}, size_t{4096}}) {
        const double tcp = median(rounds, [&] { return tcp_round_trip(size); });
        const double wire =
            median(rounds, [&] { return stream_round_trip(engine, listening, FabricChoice::iwarp, size); });
        const double memory =
            median(rounds, [&] { return stream_round_trip(engine, listening, FabricChoice::memory, size); });
        std::printf("round trip of %4zu: TCP loopback %.0f us; iwarp %.2f times TCP's time; memory %.2f\n",
                    size, tcp, wire / tcp, memory / tcp);
    }
    return 0;
}
