// The shared memory of one connection: a sealed memfd that the engine makes and every holder of A maps.
// Page 0 is ConnectionMemory; behind it lie the transmit ring (bytes of the program's stream), the receive
// ring (descriptors) and the receive area (slots, one fragment each, and extents, one message each), at the
// offsets that page 0 names.
//
// Trust: the program may write anything anywhere in it. The engine keeps its own ledger, copies an index
// once, checks it against the ledger, then uses it; it never reads back what it wrote here. The library
// trusts the engine, but bounds-checks descriptors all the same, since another holder of the descriptor may
// have written them.
//
// Words: A is the program's descriptor, B the engine's end of the same socketpair (DESIGN D2).
#pragma once

#include <pthread.h>
#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace smbdirect::session {

inline constexpr uint32_t kMemoryMagic = 0x44424d53;  // "SMBD"
inline constexpr uint32_t kVersion = 4;               // of this layout and of messages.hpp, raised together

enum class ConnectionState : uint32_t { connecting = 1, established = 2, failed = 3, ended = 4 };

// How the receive direction ended; what was published before it is still to be read.
enum class End : uint32_t {
    none = 0,
    orderly = 1,  // recv() gives 0 for ever
    reset = 2,    // `error` once, then 0; sending gives EPIPE
};

enum AbortBits : uint32_t {
    abort_by_linger = 1,   // the latest close() was under SO_LINGER {1, 0}
    abort_by_connect = 2,  // connect() took the number for something else
};
enum ShutdownBits : uint32_t {
    shutdown_read = 1,
    shutdown_write = 2,
    shutdown_after_end =
        4,  // with shutdown_write: the peer had ended before (what TCP calls LAST_ACK, then CLOSE)
};

// One run of payload in the receive area. A descriptor that starts an upper-layer message stands for 4 more
// bytes of the program's stream in front of its payload: the big-endian length header that SMB uses on TCP.
struct ReceiveDescriptor {
    uint32_t offset = 0;          // from the start of the receive area
    uint32_t length = 0;          // payload bytes here; may be 0 only with message_start
    uint32_t message_length = 0;  // of the whole message, with message_start
    uint32_t flags = 0;
};
enum ReceiveFlags : uint32_t { message_start = 1 };

// In the transmit stream of an explicit socket this stands where a length does, and is none (more than a
// message can have): the next message goes out as SEND WITH INVALIDATE of the token behind it, 4 bytes in
// host order.
inline constexpr uint32_t kInvalidateNext = 0xffffffff;
inline constexpr uint32_t kInvalidateNextSize = 8;

// Socket options that the program set, in the units of setsockopt; SO_ERROR and the like are not here.
struct SocketOptions {
    std::atomic<int32_t> keepalive, reuse_address, reuse_port, no_delay, cork, quick_ack;
    std::atomic<int32_t> keep_idle, keep_interval, keep_count, user_timeout, v6_only, priority;
    std::atomic<int32_t> receive_low_water, receive_buffer, send_buffer;
    std::atomic<int32_t> linger_on, linger_seconds;
    std::atomic<int64_t> receive_timeout_us, send_timeout_us;  // 0: none
    std::atomic<int32_t> domain;  // AF_INET or AF_INET6: of the program's socket; 0: that of `local`
    // Those that only their reader cares about, in the order of preload/options.cpp.
    static constexpr int kOthers = 32;
    std::atomic<uint32_t> other_is_set;  // a bit for each
    std::atomic<int32_t> other[kOthers];
};

struct ConnectionMemory {
    // ---- constant after creation
    uint32_t magic, version;
    uint64_t size;                 // of the memfd
    uint64_t connection_id;        // unique for ever within one engine_id
    uint64_t engine_id;            // random, one an engine process
    uint32_t face;                 // 6 (TCP converted by rule) or the SMBDIRECT protocol number (257)
    uint32_t accepted;             // 1: passive side
    sockaddr_storage local, peer;  // as the program shall see them
    char fabric[16];               // "iwarp", "memory", ...
    uint32_t transmit_offset, transmit_size;             // bytes; the size is a power of two
    uint32_t receive_ring_offset, receive_ring_entries;  // ReceiveDescriptor[]; a power of two
    uint32_t receive_area_offset, receive_area_size;     // bytes

    // ---- life, written by the engine
    alignas(64) std::atomic<ConnectionState> state;
    std::atomic<End> end;
    std::atomic<int32_t> error;    // what SO_ERROR or the next call reports, once: taken by exchange(0)
    std::atomic<uint32_t> reason;  // smbdirect::Reason of the failure or end
    std::atomic<uint32_t> max_fragmented_send_size;  // the peer's MaxFragmentedSize; 0 until established
    std::atomic<uint32_t> drained;     // a futex. 1: closed, and what there was to send is sent or lost
    std::atomic<uint32_t> half_close;  // 1: the peer's end of stream is its own word, not the wire's
    // ---- written by the library, looked at by the engine after a doorbell
    std::atomic<uint32_t> shutdown;  // ShutdownBits
    std::atomic<uint32_t> abort;     // AbortBits: with the last close the peer is reset

    // ---- transmit: bytes of the program's stream. Protocol W of the readiness mirror (readiness.hpp)
    alignas(64) std::atomic<uint64_t> transmit_head;  // library, under transmit_lock
    alignas(64) std::atomic<uint64_t> transmit_tail;  // engine
    alignas(64) std::atomic<uint32_t> stuffed;        // 1: OUT is off
    std::atomic<uint32_t> armed;  // 1: the engine sleeps for this connection; whoever makes it 0 rings

    // ---- receive: descriptors. Protocol R
    alignas(64) std::atomic<uint64_t> receive_head;  // engine: descriptors published
    std::atomic<uint64_t> bytes_published;           // engine: bytes of the stream, headers included
    alignas(64) std::atomic<uint64_t> receive_tail;  // library, under receive_lock: descriptors consumed
    std::atomic<uint64_t> bytes_consumed;            // library: bytes of the stream
    // library: stream bytes consumed of the descriptor at the tail, tagged with that tail: (uint32_t)tail <<
    // 32 | bytes. A tag that is not the tail's means 0, so a reader killed between two stores leaves no torn
    // position.
    std::atomic<uint64_t> receive_position;
    std::atomic<uint64_t> return_mark;        // engine: ring when receive_tail reaches it; UINT64_MAX: never
    alignas(64) std::atomic<int32_t> tokens;  // bytes standing in A that nobody has taken responsibility for
    std::atomic<uint32_t> touched;            // the program consumed something since the last edge

    // ---- after a lock owner died (readiness.md, h0 to h4): library asks, engine answers
    alignas(64) std::atomic<uint32_t> receive_recovery_request, receive_recovery_ack;
    std::atomic<uint32_t> transmit_recovery_request, transmit_recovery_ack;
    std::atomic<uint32_t>
        extra_rings;  // doorbells rung whatever `armed` says (recovery, shutdown): counted before sent
    std::atomic<uint32_t>
        transmit_wanted;  // room that a whole message waits for: OUT stays off until then; 0: any

    // ---- library only: robust, process-shared, error-checking; initialised before the memory is handed out
    alignas(64) pthread_mutex_t transmit_lock;
    pthread_mutex_t receive_lock;
    SocketOptions options;
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<int32_t>::is_always_lock_free);
static_assert(sizeof(ConnectionMemory) <= 4096);

struct MemoryGeometry {
    // The engine sets its own (engine/settings.cpp). A larger receive area leaves the cache: 4 MiB costs a
    // third more.
    uint32_t transmit_size = 2u << 20;
    uint32_t receive_ring_entries = 1024;
    uint32_t receive_area_size = 2u << 20;
    // Behind the slots, in the same area: room for messages that are put together whole (SMB2 channels).
    // Takes memory only as it is used.
    uint32_t extent_area_size = 0;
};

// A mapping. Plain values: the owner unmaps. The geometry was checked and copied when the view was made: what
// stands in page 0 may have been overwritten since.
struct ConnectionView {
    ConnectionMemory* memory = nullptr;
    std::byte* base = nullptr;
    uint64_t size = 0;
    uint32_t transmit_offset = 0, transmit_size = 0;
    uint32_t receive_ring_offset = 0, receive_ring_entries = 0;
    uint32_t receive_area_offset = 0, receive_area_size = 0;

    std::byte* transmit() const { return base + transmit_offset; }
    ReceiveDescriptor* receive_ring() const {
        return reinterpret_cast<ReceiveDescriptor*>(base + receive_ring_offset);
    }
    std::byte* receive_area() const { return base + receive_area_offset; }
};

// Engine: makes, sizes, seals (SHRINK, GROW, SEAL) and initialises (everything 0 but magic, version, size,
// geometry, state = connecting, return_mark and the locks). The memfd, CLOEXEC; -1 with errno on failure.
int create_connection_memory(const MemoryGeometry&, ConnectionView* view);
// Library: maps what the engine passed, after checking seals, size, magic, version and offsets. False with
// errno.
bool map_connection_memory(int memfd, ConnectionView* view);
void unmap_connection_memory(ConnectionView*);

// ---- the knock table of a listener that stays a TCP listener (DESIGN D2): one page of entries, made by the
// engine. The engine publishes the source address of its loopback connection before it connects; the library,
// which has just accepted a connection from that address, claims the entry and asks the engine for the
// descriptor.
enum class KnockState : uint32_t { free = 0, knocking = 1, claimed = 2 };

struct KnockEntry {
    std::atomic<KnockState> state;
    uint16_t port;        // of the knock's source, network byte order
    uint16_t family;      // AF_INET or AF_INET6
    uint8_t address[16];  // network byte order; 4 or 16 bytes
    uint64_t ticket;      // random: what a claim must name
};

struct KnockTable {
    uint32_t magic, version;
    uint64_t listener_id;            // of this engine or of a predecessor: kept over a restart of the engine
    std::atomic<uint32_t> knocking;  // how many entries are in state knocking: 0 saves the look
    uint32_t entries;                // of entry[]
    KnockEntry entry[256];
};

int create_knock_table(uint64_t listener_id, KnockTable** table);
bool map_knock_table(int memfd, KnockTable** table);
void unmap_knock_table(KnockTable* table);

}  // namespace smbdirect::session
