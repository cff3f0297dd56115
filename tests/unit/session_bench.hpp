// One connection of the session layer without an engine: memory, mirror pair, and the engine's side driven by
// hand.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "session/raw_calls.hpp"
#include "session/readiness.hpp"
#include "support/catch.hpp"

namespace session_test {

using namespace smbdirect::session;

inline short poll_mask(int fd) {
    pollfd entry{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    ::poll(&entry, 1, 0);
    return entry.revents;
}

struct Bench {
    ConnectionView view;
    MirrorPair pair;
    EngineMirror mirror;
    int memfd;
    uint64_t head = 0, bytes = 0;
    uint32_t area_used = 0;

    explicit Bench(MemoryGeometry geometry = {65536, 64, 65536}, bool connecting = false) {
        static uint64_t next_id = static_cast<uint64_t>(::getpid()) << 32;
        memfd = create_connection_memory(geometry, &view);
        REQUIRE(memfd >= 0);
        view.memory->engine_id = 7;
        view.memory->connection_id = ++next_id;
        REQUIRE(make_mirror_pair(view.memory, connecting, &pair));
        mirror.attach(view, pair.b);
        if (!connecting) view.memory->state.store(ConnectionState::established);
        mirror.end_turn();
    }
    ~Bench() {
        mirror.close_reset();
        if (pair.a >= 0) ::close(pair.a);
        ::close(memfd);
        unmap_connection_memory(&view);
    }
    Bench(const Bench&) = delete;

    bool turn() {
        bool ours = true;
        do ours = ours && mirror.begin_turn();
        while (mirror.end_turn());
        return ours;
    }
    void publish(const std::string& payload, bool start, uint32_t message_length) {
        ReceiveDescriptor d{area_used, static_cast<uint32_t>(payload.size()), message_length,
                            start ? 1u : 0u};
        std::memcpy(view.receive_area() + area_used, payload.data(), payload.size());
        area_used = (area_used + d.length) % (view.receive_area_size / 2);
        publish(d);
    }
    void publish(const ReceiveDescriptor& d) {
        view.receive_ring()[head % view.receive_ring_entries] = d;
        bytes += d.length + (d.flags & message_start ? 4 : 0);
        mirror.announce(++head, bytes);
    }
    // What a receive of `size` bytes gives; "EAGAIN", "END" or the error's number.
    std::string receive(size_t size, bool peek = false) {
        std::string buffer(size, '?');
        iovec iov{buffer.data(), size};
        StreamResult result = stream_receive(view, pair.a, &iov, 1, peek);
        if (result.error == EAGAIN) return "EAGAIN";
        if (result.error) return std::to_string(result.error);
        if (result.end) return "END";
        buffer.resize(result.bytes);
        return buffer;
    }
    long send(const std::string& data, bool whole = false) {
        iovec iov{const_cast<char*>(data.data()), data.size()};
        StreamResult result =
            whole ? stream_send_whole(view, pair.a, &iov, 1) : stream_send(view, pair.a, &iov, 1);
        return result.error ? -result.error : static_cast<long>(result.bytes);
    }
    short mask() const { return poll_mask(pair.a); }
    uint32_t in_b() const { return raw::queued(pair.b); }
};

}  // namespace session_test
