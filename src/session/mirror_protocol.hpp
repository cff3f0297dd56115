// The engine's half of protocols R and W, step by step. The numbers p1, e1, h2 ... are those of the protocol
// notes in README.md. Internal: production code uses EngineMirror; the stress test instantiates wrong
// policies as well.
//
// Fences: these are Dekker patterns (store mine, look at yours). The seq_cst fences are needed; TSan does not
// model them, but every word involved is atomic, so it has nothing to report.
#pragma once

#include <linux/futex.h>

#include <algorithm>

#include "session/mirror_policy.hpp"
#include "session/raw_calls.hpp"
#include "session/readiness.hpp"

namespace smbdirect::session {

inline constexpr uint64_t kStuffingBytes = kStuffing + 1;
inline constexpr int32_t kMostTokens = 64;
inline constexpr uint32_t kSlackOfRecovery = 16;  // rings that may be in flight when B is emptied

template <class Policy>
struct MirrorSteps {
    using State = MirrorState;

    // ------------------------------------------------------------ protocol R, producer
    // p3 and its mend. The count is taken before the byte is sent, so that whoever takes the count knows that
    // a byte is coming; if the ring was drained meanwhile, nobody wants the byte, and it would wake somebody
    // for nothing.
    static void send_token(State& s) {
        ConnectionMemory& m = *s.view.memory;
        int32_t before = m.tokens.fetch_add(1, std::memory_order_seq_cst);
        if constexpr (!Policy::every_add_has_its_send) {
            if (before != 0) return;
        }
        Policy::step();
        if (Policy::takes_back && m.receive_tail.load(std::memory_order_seq_cst) == s.receive_head &&
            take_back(m))
            return;
        Policy::step();
        // EPIPE (nobody there any more) and EAGAIN (somebody filled A) take the count back as well.
        if (raw::send(s.b, &kToken, 1) != 1) take_back(m);
    }

    static bool take_back(ConnectionMemory& m) {
        int32_t standing = m.tokens.load(std::memory_order_seq_cst);
        while (standing > 0)
            if (m.tokens.compare_exchange_weak(standing, standing - 1, std::memory_order_seq_cst))
                return true;
        return false;  // a consumer has taken responsibility for it and waits: send
    }

    static void announce(State& s, uint64_t head, uint64_t bytes) {
        ConnectionMemory& m = *s.view.memory;
        if (head == s.receive_head) return;
        s.receive_head = head;
        m.bytes_published.store(bytes, std::memory_order_relaxed);
        m.receive_head.store(head, std::memory_order_release);  // p1
        Policy::step();
        if (s.ended || s.receive_quiet) return;  // h4 announces what came meanwhile
        std::atomic_thread_fence(std::memory_order_seq_cst);
        bool touched = m.touched.load(std::memory_order_relaxed) && m.touched.exchange(0);  // p2
        int32_t standing = m.tokens.load(std::memory_order_seq_cst);
        Policy::step();
        if constexpr (!Policy::every_add_has_its_send) {
            if (standing == 0) send_token(s);
        } else if (standing <= 0 || (touched && standing < kMostTokens)) {
            send_token(s);
        }
    }

    static bool receive_ring_is_empty(State& s) {
        return s.view.memory->receive_tail.load(std::memory_order_seq_cst) == s.receive_head;
    }

    static void answer_receive_recovery(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (m.receive_recovery_request.load(std::memory_order_seq_cst)) {  // h2; again for a second recoverer
            if (s.receive_quiet && m.receive_recovery_ack.load()) return;
            s.receive_quiet = true;
            m.tokens.store(0, std::memory_order_seq_cst);
            m.receive_recovery_ack.store(1, std::memory_order_seq_cst);
        } else if (s.receive_quiet) {  // h4
            s.receive_quiet = false;
            std::atomic_thread_fence(std::memory_order_seq_cst);
            if (!s.ended && !receive_ring_is_empty(s)) send_token(s);
        }
    }

    // ------------------------------------------------------------ protocol W, engine
    static uint64_t used(State& s) {
        uint64_t used = s.view.memory->transmit_head.load(std::memory_order_acquire) - s.transmit_tail;
        return std::min<uint64_t>(used, s.view.transmit_size);
    }

    static bool worth_unstuffing(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (m.shutdown.load(std::memory_order_relaxed) & shutdown_write) return true;  // TCP shows OUT then
        uint64_t size = s.view.transmit_size;
        uint64_t wanted = std::min<uint64_t>(m.transmit_wanted.load(std::memory_order_relaxed), size);
        return size - used(s) >= std::max(size / 4, wanted);
    }

    static void release(State& s, uint64_t transmit_tail) {
        ConnectionMemory& m = *s.view.memory;
        s.transmit_tail = transmit_tail;
        m.transmit_tail.store(transmit_tail, std::memory_order_release);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        Policy::step();
        if (m.stuffed.load(std::memory_order_seq_cst)) unstuff(s);
    }

    static void unstuff(State& s, bool whatever_the_space = false) {  // e1, e2
        ConnectionMemory& m = *s.view.memory;
        if (s.b < 0 || s.transmit_quiet || (s.hold_out && !whatever_the_space)) return;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (m.stuffed.load(std::memory_order_seq_cst) && (whatever_the_space || worth_unstuffing(s))) {
            if constexpr (Policy::stuffing_drain == Drain::counted) {
                Policy::step();
                const bool was_stuffed = m.stuffed.exchange(0, std::memory_order_seq_cst) != 0;
                Policy::step();
                if (was_stuffed && (whatever_the_space || !is_stuffed_again(s))) s.debt += kStuffingBytes;
                Policy::step();
            } else {
                drain_all_but_poison(s);
            }
        }
        if (s.debt > 0) pay_debt(s, raw::queued(s.b));
    }

    // Between the look at the room and the flag a producer that still saw the flag may have filled that room,
    // and relies on OUT being off. False: there is room still, or that one has sent another stuffing.
    static bool is_stuffed_again(State& s) {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (worth_unstuffing(s)) return false;
        uint32_t off = 0;
        return s.view.memory->stuffed.compare_exchange_strong(off, 1, std::memory_order_seq_cst);
    }

    // Wrong on purpose: loses count of a stuffing that is announced and still in flight, or the other way
    // round.
    static void drain_all_but_poison(State& s) {
        if (Policy::stuffing_drain == Drain::clear_then_all) s.view.memory->stuffed.store(0);
        Policy::step();
        uint32_t here = raw::queued(s.b);
        s.debt = here ? here - 1 : 0;
        pay_debt(s, here);
        s.debt = 0;
        Policy::step();
        if (Policy::stuffing_drain == Drain::all_then_clear) s.view.memory->stuffed.store(0);
    }

    // Takes what is owed, but never the last byte: closing B over an unread byte is what A shows as a reset.
    // What is announced and still in flight is taken when it arrives: its arrival is an event of B.
    static bool pay_debt(State& s, uint32_t here) {
        unsigned char buffer[2048];
        while (s.debt > 0 && here > 1) {
            uint64_t n = std::min({s.debt, uint64_t{here} - 1, uint64_t{sizeof buffer}});
            long got = raw::receive(s.b, buffer, n);
            if (got <= 0) return true;  // the holders are gone; hung_up() tells
            if (!all_ours(buffer, static_cast<size_t>(got))) return false;
            s.bell_owed = false;  // what is still to come may be the rest of a stuffing
            s.debt -= static_cast<uint64_t>(got);
            here -= static_cast<uint32_t>(got);
            s.here = here;
        }
        return true;
    }

    static bool all_ours(const unsigned char* bytes, size_t count) {
        return std::all_of(bytes, bytes + count, [](unsigned char byte) { return byte == kRing; });
    }

    // h2 of the transmit lock: how much of a stuffing was sent is unknown, so B is emptied to the last byte
    // and the recoverer puts a new poison there. Only doorbells can still be in flight.
    static bool answer_transmit_recovery(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (m.transmit_recovery_request.load(std::memory_order_seq_cst)) {
            if (s.transmit_quiet && m.transmit_recovery_ack.load()) return true;
            s.transmit_quiet = true;
            if (!empty_b(s)) return false;
            m.stuffed.store(0, std::memory_order_seq_cst);
            m.transmit_recovery_ack.store(1, std::memory_order_seq_cst);
        } else if (s.transmit_quiet) {
            s.transmit_quiet = false;
        }
        return true;
    }

    static bool empty_b(State& s) {
        unsigned char buffer[2048];
        s.debt = 0;
        s.bell_owed = false;
        s.here = 0;
        s.slack = std::min(s.slack + kSlackOfRecovery, 4 * kSlackOfRecovery);
        for (;;) {
            long got = raw::receive(s.b, buffer, sizeof buffer);
            if (got <= 0) return true;
            if (!all_ours(buffer, static_cast<size_t>(got))) return false;
        }
    }

    // ------------------------------------------------------------ the doorbell, and turns
    static void take_doorbell(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (s.armed && m.armed.exchange(0, std::memory_order_seq_cst) == 0) {
            s.debt += 1;
            s.bell_owed = true;
        }
        s.armed = false;
        uint32_t extra = m.extra_rings.load(std::memory_order_seq_cst);
        s.debt += static_cast<uint32_t>(extra - s.extra_rings_seen);
        s.extra_rings_seen = extra;
    }

    // Everything in B was announced before it was sent. What goes beyond that, and beyond what a dead lock
    // owner may have left in flight, was written by somebody who knows nothing of us.
    static bool accounted_for(State& s, uint32_t here) {
        if (Policy::stuffing_drain != Drain::counted) return true;
        bool stuffed = s.view.memory->stuffed.load(std::memory_order_seq_cst) != 0;
        uint64_t known = 1 + s.debt + (stuffed ? kStuffingBytes : 0);
        if (here <= known || s.transmit_quiet) return true;
        uint64_t surplus = here - known;
        if (surplus > s.slack) return false;
        s.slack -= static_cast<uint32_t>(surplus);
        s.debt += surplus;
        return true;
    }

    // B is only looked into when it said that something arrived, or when something is owed: two system calls
    // less for every turn that the wire causes.
    static bool begin_turn(State& s, bool b_has_news) {
        ConnectionMemory& m = *s.view.memory;
        if (s.b < 0) return true;
        // Before the flags: what is here now was announced before now.
        uint32_t here = s.here = b_has_news ? raw::queued(s.b) : 0;
        take_doorbell(s);
        answer_receive_recovery(s);
        if (!answer_transmit_recovery(s)) return false;
        if (s.foreign || (b_has_news && !accounted_for(s, here))) return false;
        // Taking bytes wakes whoever sleeps in recv() on A. That of the doorbell, which does not keep OUT
        // off, waits until the engine arms it again.
        if (s.debt > (s.bell_owed ? 1 : 0)) {
            if (!b_has_news) here = raw::queued(s.b);
            if (!s.transmit_quiet && !pay_debt(s, here)) return false;
        }
        s.transmit_head_seen =
            std::max(s.transmit_head_seen, m.transmit_head.load(std::memory_order_acquire));
        s.shutdown_seen = m.shutdown.load(std::memory_order_acquire);
        s.abort_seen = m.abort.load(std::memory_order_acquire);
        mark_reached(s);
        if (m.stuffed.load(std::memory_order_relaxed)) unstuff(s);
        return true;
    }

    // The mark is good for one turn, whoever sees first that it was reached.
    static bool mark_reached(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (m.receive_tail.load(std::memory_order_seq_cst) < s.return_mark) return false;
        if (s.return_mark == UINT64_MAX) return false;
        s.return_mark = UINT64_MAX;
        m.return_mark.store(UINT64_MAX, std::memory_order_relaxed);
        return true;
    }

    static bool something_new(State& s) {
        ConnectionMemory& m = *s.view.memory;
        return m.transmit_head.load(std::memory_order_seq_cst) != s.transmit_head_seen || mark_reached(s) ||
               m.shutdown.load(std::memory_order_seq_cst) != s.shutdown_seen ||
               m.abort.load(std::memory_order_seq_cst) != s.abort_seen ||
               (m.receive_recovery_request.load(std::memory_order_seq_cst) != 0) != s.receive_quiet ||
               (m.transmit_recovery_request.load(std::memory_order_seq_cst) != 0) != s.transmit_quiet;
    }

    static bool end_turn(State& s) {  // e3
        ConnectionMemory& m = *s.view.memory;
        if (s.b < 0) return false;
        if (s.debt > 0 && !s.transmit_quiet && !pay_debt(s, s.here > 1 ? s.here : raw::queued(s.b)))
            return s.foreign = true;  // for begin_turn() to tell
        m.armed.store(1, std::memory_order_seq_cst);
        s.armed = true;
        Policy::step();
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!something_new(s)) return false;
        take_doorbell(s);
        return true;
    }

    // ------------------------------------------------------------ after a death
    // The first word of a robust mutex is its futex; the kernel sets the bit when the owner's thread goes,
    // and whoever locks it next, to recover, clears it.
    static bool owner_died(const pthread_mutex_t& lock) {
        auto* word = reinterpret_cast<const int*>(&lock);
        return (__atomic_load_n(word, __ATOMIC_RELAXED) & FUTEX_OWNER_DIED) != 0;
    }

    // A token is counted before it is sent, and taken off the count before it is received: so if none is in
    // A's queue and some are counted still, somebody received them who does not count. In this order: a
    // consumer that takes count and token between the two looks leaves a count of 0.
    static bool tokens_are_there(State& s) {
        if (s.ended || s.receive_quiet) return true;
        if constexpr (!Policy::looks_at_tokens_first) {
            if (s.view.memory->tokens.load(std::memory_order_seq_cst) <= 0) return true;
            Policy::step();
            return raw::unread_by_peer(s.b) > 0;
        }
        if (raw::unread_by_peer(s.b) > 0) return true;
        Policy::step();
        return s.view.memory->tokens.load(std::memory_order_seq_cst) <= 0;
    }

    static bool sweep(State& s) {
        ConnectionMemory& m = *s.view.memory;
        if (s.b < 0) return true;
        if (Policy::token_drain == Drain::counted && !tokens_are_there(s)) return false;
        // h0: whoever wakes finds EOWNERDEAD and data. In a quiet phase as well, whose recoverer has died
        // then: the next one begins anew, and is acknowledged after this.
        if (!s.ended && owner_died(m.receive_lock) && !receive_ring_is_empty(s) &&
            m.tokens.load() < kMostTokens)
            send_token(s);
        if (s.debt > 0 && s.debt == s.debt_at_nudge && raw::queued(s.b) <= 1) {
            // Announced a whole tick ago and never sent: the one who would have sent it is dead (or stopped:
            // slack).
            s.slack = std::min<uint64_t>(s.slack + s.debt, kStuffingBytes + kSlackOfRecovery);
            s.debt = 0;
            s.bell_owed = false;
            // Killed between the two sends of a stuffing, it left a byte of the large one last in the queue,
            // which keeps OUT off. Take that as well: who wakes finds EOWNERDEAD, and recovery brings a new
            // poison.
            if (!s.transmit_quiet && owner_died(m.transmit_lock)) empty_b(s);
        }
        s.debt_at_nudge = s.debt;
        return true;
    }
};

}  // namespace smbdirect::session
