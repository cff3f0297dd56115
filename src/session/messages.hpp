// The session protocol: what library and engine say over the meeting socket (SOCK_SEQPACKET). The library
// connects, sends one request (with descriptors), receives one reply (with descriptors) and closes: it keeps
// no private descriptor that closefrom() could take from it, and any process under any euid can speak for
// what it holds.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "session/memory.hpp"

namespace smbdirect::session {

inline constexpr uint32_t kMessageMagic = 0x44534d53;

enum class RequestType : uint16_t {
    connect = 1,    // -> A, memfd. The connection is still connecting; A is stuffed until it stands
    listen_beside,  // fd: the program's TCP listener -> memfd of the knock table. Idempotent by socket cookie
    listen_only,    // -> AF_UNIX listener
    claim,          // a knock was accepted -> A, memfd
    attach,         // fd: A (possession is authority) -> memfd; or the AF_UNIX listener -> what it is
    forget_listener,  // the program closed this listener in one process; the engine looks whether it is still
                      // there
    trace,            // -> memfd of a trace ring (trace_ring.hpp)
    counters,         // -> text in the reply
    stop,             // the engine and its monitor end
    linger,           // of a connection that was closed: error unless that was the last holder and something
                      // is still to be sent; ConnectionMemory::drained tells when it was
};

enum class FabricChoice : uint32_t { automatic = 0, iwarp = 1, memory = 2, verbs = 3 };

struct Request {
    uint32_t magic = kMessageMagic;
    uint16_t version = kVersion;
    RequestType type{};
    int32_t pid = 0;    // of the caller, for the trace
    uint32_t face = 6;  // connect, listen_only: what the program's socket is
    FabricChoice fabric = FabricChoice::automatic;
    uint16_t rdma_port =
        0;                 // host byte order; 0: by the rule of DESIGN D7 (445 and 5445 -> 5445, else P+5000)
    uint16_t backlog = 0;  // listen_only
    uint32_t v6_only = 1;  // listen_*
    uint32_t timeout_ms = 0;     // connect: for the whole attempt; 0: the engine's default
    sockaddr_storage local{};    // connect: bound address or AF_UNSPEC; listen_only: the address
    sockaddr_storage remote{};   // connect
    uint64_t listener_id = 0;    // claim
    uint64_t ticket = 0;         // claim
    uint64_t connection_id = 0;  // linger
    uint32_t text_format = 0;    // counters: 0 lines, 1 JSON
    char program[32] = {};       // of the caller, for the trace
    char directory[256] = {};    // trace: absolute path of the directory for the file
};

struct Reply {
    uint32_t magic = kMessageMagic;
    uint16_t version = kVersion;
    uint16_t error = 0;        // errno; 0 = success
    uint32_t reason = 0;       // smbdirect::Reason
    uint32_t text_length = 0;  // bytes behind this struct (counters)
    uint64_t connection_id = 0;
    uint64_t listener_id = 0;
    uint64_t engine_id = 0;
    sockaddr_storage local{};  // listen_only, attach of a listener: with the port that was chosen
    uint16_t rdma_port = 0;    // listen_*, attach of a listener: where the engine listens
    uint32_t face = 6;         // attach of a listener: what the program's socket is
};

inline constexpr uint32_t kMaxReplyText = 60 * 1024;
inline constexpr int kMaxMessageFds = 2;

}  // namespace smbdirect::session
