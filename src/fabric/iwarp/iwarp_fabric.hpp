// The iwarp fabric: MPA, DDP and RDMAP (RFC 5044, 5041, 5040, 6581) in user space over ordinary TCP sockets.
// Wire compatible with siw and iWARP NICs.
#pragma once

#include <memory>

#include "fabric/fabric.hpp"

namespace smbdirect::fabric {

namespace iwarp {

enum class Crc : uint8_t {
    off,  // not asked for; used when the peer wants it
    on,
    automatic,  // on, except towards this same host, where TCP does not checksum either
};

struct Settings {
    Crc crc = Crc::automatic;
    // Of the sockets, in bytes; 0 leaves them to the kernel's tuning. What is in flight should stay in the
    // cache.
    int send_buffer = 256 * 1024;
    int receive_buffer = 256 * 1024;
    // Dead peers: unacknowledged data for this long ends the connection (TCP_USER_TIMEOUT); 0 = the kernel's
    // default.
    unsigned user_timeout_ms = 60'000;
    // An idle connection is probed after `keepalive_idle_s`, then every `keepalive_interval_s`; 0 = not at
    // all.
    int keepalive_idle_s = 60, keepalive_interval_s = 10, keepalive_probes = 6;
    Nanoseconds request_timeout =
        5'000'000'000;  // an accepted TCP connection owes its MPA Request within this time
    Nanoseconds reply_timeout = 4'000'000'000;  // a peer that accepted our TCP connection owes its MPA Reply
    unsigned half_open = 1024;  // connections of a listener that still owe it; beyond: the oldest goes
    unsigned half_open_per_peer = 512;  // of one address; beyond: the oldest of that address goes
    // disconnect(): what was posted has this long to go out; then the peer sees a reset.
    Nanoseconds close_timeout = 30'000'000'000;
    // After our FIN the peer has this long to close as well.
    Nanoseconds linger = 2'000'000'000;
    uint8_t revision = 2;     // first Request of an initiator; 2 falls back to 1 once
    uint32_t fpdu_limit = 0;  // largest ULPDU we send, 0 = what the path and the peer allow
    // For tests: at most this much in one system call; 0 = no limit.
    size_t io_limit = 0;
};

}  // namespace iwarp

// Must outlive what it made; the loop must outlive the fabric.
std::unique_ptr<Fabric> make_iwarp_fabric(EventLoop& loop, const iwarp::Settings& settings = {});

}  // namespace smbdirect::fabric
