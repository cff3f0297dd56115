// The engine's settings. Each may be overridden in the environment of the process that starts it (and so, for
// an engine that was started invisibly, of the first program): see settings.cpp for names, units and ranges.
#pragma once

#include <cstdint>
#include <optional>

#include "connection/connection.hpp"
#include "fabric/iwarp/iwarp_fabric.hpp"
#include "session/memory.hpp"

namespace smbdirect::engine {

// When READ and WRITE of a program that is a client go by SMB2 RDMA channel. What a peer asks of a server is
// always served.
enum class ChannelUse : uint8_t {
    off,        // never: what is larger than the peer's MaxFragmentedSize ends the connection
    needed,     // only what is larger than that
    on,         // everything of 4 KiB and more
    automatic,  // `needed` towards another engine, whose fragments are large; `on` towards all others
};

struct Settings {
    connection::Settings stranger;  // offered to a peer that is not our kind
    connection::Settings own_kind;  // to another engine
    fabric::iwarp::Settings iwarp;
    session::MemoryGeometry geometry;
    uint32_t initial_receive_bytes = 64 * 1024;  // receive window of a fresh or idle connection
    uint32_t send_queue = 256;                   // work requests
    uint32_t connect_timeout_ms = 10'000;        // resolution and transport, when the program names no limit
    // The loop looks on for so long after a small message, if cores are left: it saves two wake-ups of a
    // round trip. 0: never. None: as long as is worth it on this machine (spin_guard.hpp).
    std::optional<uint32_t> spin_us;
    ChannelUse channels = ChannelUse::automatic;
    uint32_t idle_exit_seconds = 60;  // an engine without connections and listeners leaves; 0: never
    // The same where it holds RDMA devices open, which others see and may have to wait for.
    uint32_t idle_exit_with_device_seconds = 5;
    uint32_t close_timeout_ms =
        30'000;  // without progress, for what is still to be sent after the last close
};

Settings settings_from_environment();

}  // namespace smbdirect::engine
