// The readiness mirror: the kernel state of A follows the connection, so that poll, select and epoll tell the
// truth whoever calls them. Protocol R makes IN (tokens), protocol W makes OUT (stuffing) and carries the
// doorbell.
//
// The invariants, which the stress test (tests/simulation/readiness_stress.cpp) holds:
//  R: ring empty <=> A not readable, whenever the program can look. Neither a lost wake-up nor a spurious one
//  (Samba's
//     client takes EAGAIN after "readable" for a fatal error).
//  W: space in the ring => A becomes writable, with an edge if a send was refused or cut short.
//  Bytes in B's receive queue: always one more than the engine owes (the poison byte: closing B with a byte
//  unread is
//     what makes A show a reset).
// Every byte that the library sends through A has the same value, so only counts matter; a byte of another
// value was written by somebody who knows nothing of us.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "session/memory.hpp"

namespace smbdirect::session {

inline constexpr unsigned char kToken = 't';  // engine -> A
inline constexpr unsigned char kRing = 0xd7;  // A -> B: poison, stuffing and doorbell alike
inline constexpr uint32_t kStuffing =
    700;  // bytes of one stuffing's first send; a second send of 1 byte follows

// Measured once per process (about 20 us): the SO_SNDBUF value for A with which poison + doorbell leave OUT
// on and poison + stuffing + poison switch it off. 0 with errno when this kernel has no such value.
int mirror_send_buffer();

inline constexpr auto kStuffingJunk = [] {
    struct {
        unsigned char byte[kStuffing];
    } junk{};
    for (unsigned char& byte : junk.byte) byte = kRing;
    return junk;
}();

struct MirrorPair {
    int a = -1, b = -1;  // both CLOEXEC and non-blocking
};
// Engine: a socketpair whose ends are bound to the abstract names of names.hpp, with the poison byte in place
// and, if `connecting`, stuffed (memory->stuffed = 1). False with errno.
bool make_mirror_pair(ConnectionMemory*, bool connecting, MirrorPair*);
// Library: prepares the accepted end of an AF_UNIX listener as make_mirror_pair does with A.
bool adopt_accepted_end(int a);

// ---------------------------------------------------------------- engine side, one thread a connection
// What the engine knows for itself: its ledger. Only mirror_protocol.hpp touches it.
struct MirrorState {
    ConnectionView view;
    int b = -1;
    uint64_t receive_head = 0, transmit_tail = 0;  // the ledger
    uint64_t receive_tail_seen = 0, transmit_head_seen = 0;
    uint64_t return_mark = UINT64_MAX;
    uint64_t debt = 0;       // bytes to take from B: announced by flags, perhaps still in flight
    uint32_t here = 0;       // bytes that are in B at least; 0: nobody looked in this turn
    bool bell_owed = false;  // one of them is that of a doorbell, and nothing was taken since
    uint64_t debt_at_nudge = 0;
    uint32_t slack = 0;  // bytes that may still come although nobody counts on them (after a dead lock owner)
    uint32_t extra_rings_seen = 0;
    uint32_t shutdown_seen = 0, abort_seen = 0;
    bool armed = false, receive_quiet = false, transmit_quiet = false;
    bool hold_out = false;  // connecting: OUT stays off whatever the space
    bool foreign = false;   // a byte in B was not the library's
    bool ended = false;     // shutdown(B, SHUT_WR) is done: no token can be sent, none is needed
};

class EngineMirror {
  public:
    EngineMirror() = default;
    // Before A is handed out. Stuffed now (make_mirror_pair, connecting) means: OUT stays off until
    // switch_out_on().
    void attach(const ConnectionView& view, int b);

    // Call first whenever something may have happened (B readable, another event of this connection). Takes
    // back the doorbell, accounts for what the library sent, answers recovery requests. False: B carried a
    // byte that is not ours (Reason::foreign_data_call): reset the connection. b_has_news: B was reported
    // readable (edge-triggered) since the last turn, or nobody knows.
    bool begin_turn(bool b_has_news = true);
    // Call last. True: something came meanwhile and the engine holds the doorbell again: do another turn.
    // (New is what came since begin_turn(), or since read_transmit_head() in this turn: sent bytes, shutdown,
    // abort, the mark reached. Bound the number of turns in a row: a hostile program can always have
    // something new.)
    bool end_turn();

    // Between turns instead of end_turn(), as long as somebody looks again and again: whether the program did
    // something (that the mark is reached it says once). It keeps the doorbell off, which spares the program
    // a system call.
    bool has_news();

    // Protocol R. `published` descriptors have been written since the last call; tells the program.
    void announce(uint64_t receive_head, uint64_t bytes_published);
    // Protocol W: the ring is free up to transmit_tail; switches OUT on when there is room worth it.
    void release(uint64_t transmit_tail);
    // What the program has published and consumed, copied once; nullopt-like false if nonsense (beyond the
    // ledger).
    bool read_transmit_head(uint64_t* head) const;
    bool read_receive_tail(uint64_t* tail) const;
    void request_return_at(uint64_t receive_tail);  // ring when the tail gets there; UINT64_MAX: do not

    void switch_out_on();  // connected, or own shutdown(SHUT_WR): undoes a stuffing whatever the space
    void end_of_stream();  // shutdown(B, SHUT_WR): IN|RDHUP
    void close_orderly();  // reads the poison, closes B: HUP without ERR
    void close_reset();    // closes B over the poison: ERR|HUP, ECONNRESET
    bool hung_up() const;  // the last holder of A is gone (from B's events)
    // To be called from a slow timer (about a second), inside a turn, for every connection: a few loads when
    // nothing is wrong. A holder died while it held a lock (FUTEX_OWNER_DIED in the lock word) and others may
    // sleep: wakes one. False: somebody received tokens as if they were data (Reason::foreign_data_call).
    bool sweep();

    int b() const { return state_.b; }

  private:
    mutable MirrorState state_;
};

// ---------------------------------------------------------------- library side, any process that holds A
struct StreamResult {
    size_t bytes = 0;
    int error = 0;     // 0; EAGAIN: nothing now (and A's readiness says so); else the errno to report
    bool end = false;  // receive: end of stream
};

// Copies out of the ring. Never blocks. bytes > 0 is success even when the ring was drained by it. peek:
// consumes nothing, and leaves A readable. Where there is nothing, both check for an engine that died (A hung
// up without a word in memory): ECONNRESET. That is a system call, which a caller can put off until it knows
// that it does not wait on A now: stream_engine_died().
StreamResult stream_receive(const ConnectionView&, int a, const iovec* iov, int count, bool peek,
                            bool check_engine = true);
// Whether it died without a word; the next call that receives says so.
bool stream_engine_died(const ConnectionView&, int a);
// Sets ShutdownBits and rings. No send is in the middle of its bytes then, so that those which were accepted
// come before the end.
void stream_shut(const ConnectionView&, int a, uint32_t bits);
// Bytes that a receive would find now, headers included (FIONREAD).
uint64_t stream_readable(const ConnectionView&);
// Drops up to `length` bytes without copying (MSG_TRUNC).
StreamResult stream_discard(const ConnectionView&, int a, size_t length);

// Copies into the ring. Never blocks; a short count means that the ring is full and OUT is off until there is
// room.
StreamResult stream_send(const ConnectionView&, int a, const iovec* iov, int count);
// All or nothing (explicit face: one call = one message). EAGAIN, with OUT off, when it does not fit now;
// EMSGSIZE when it never will.
StreamResult stream_send_whole(const ConnectionView&, int a, const iovec* iov, int count);
// Bytes that the peer's transport has not taken yet (SIOCOUTQ).
uint64_t stream_unsent(const ConnectionView&);
// How far the connection is. One that is still connecting though its engine is gone has failed: ECONNREFUSED.
ConnectionState stream_state(const ConnectionView&, int a);
// Wakes the engine to look at `shutdown` and `abort`.
void ring_doorbell(const ConnectionView&, int a);
// The pending error, once (SO_ERROR, or the next call); also clears the kernel's of A.
int take_error(const ConnectionView&, int a);

}  // namespace smbdirect::session
