// The library's half of protocols R and W, step by step (c1, w1 ... as in README.md). Internal: production
// code uses the stream_ functions; the stress test instantiates wrong policies as well.
#pragma once

#include "session/cursor.hpp"
#include "session/mirror_policy.hpp"
#include "session/stream_lock.hpp"

namespace smbdirect::session {

inline constexpr size_t kPublishBytes =
    256 * 1024;                                    // within one large call: lets the engine work in parallel
inline constexpr uint32_t kReturnDescriptors = 4;  // likewise for slots on their way back
inline constexpr int kTokenWaitMs = 10'000;  // for a token in flight; only a stranger's read() makes it long

// Where a reader with these words stands, and the stream bytes from there to `head`; 0 for nonsense.
inline uint32_t position_at(uint64_t tail, uint64_t word) {
    return static_cast<uint32_t>(word >> 32) == static_cast<uint32_t>(tail) ? static_cast<uint32_t>(word) : 0;
}
inline uint64_t stream_bytes(const ReceiveDescriptor& d) {
    return uint64_t{d.length} + (d.flags & message_start ? 4 : 0);
}
uint64_t readable_bytes(const ConnectionView&, uint64_t tail, uint64_t position_word, uint64_t head);

// The words that tell how the connection ended, as calls report them.
int pending_error(ConnectionMemory&, int a);    // takes it; 0: none
bool engine_is_lost(ConnectionMemory&, int a);  // looks; if so, memory says `reset` from now on
void wake_engine(ConnectionMemory&, int a);     // after a seq_cst fence behind what it shall see

// ---------------------------------------------------------------- protocol R, consumer; the receive lock is
// held
template <class Policy>
class Receiver {
  public:
    Receiver(const ConnectionView& view, int a, bool check_engine = true)
        : view_(view), m_(*view.memory), a_(a), check_engine_(check_engine) {
        tail_ = m_.receive_tail.load(std::memory_order_relaxed);
        position_ = position_at(tail_, m_.receive_position.load(std::memory_order_relaxed));
    }

    StreamResult receive(Cursor& to) {
        StreamResult result;
        if constexpr (!Policy::waits_for_owed) receive_owed_if_here(0);
        for (;;) {
            size_t before = to.room();
            if (!copy(to, true)) return {result.bytes, result.bytes ? 0 : ECONNRESET, false};
            result.bytes += before - to.room();
            if (!drained_) return result;
            bool again = clear_tokens();
            if (again && to.room() > 0) continue;  // c5: a short read must mean "was drained"
            if (result.bytes > 0) return result;
            if (at_end(result)) return result;
        }
    }

    StreamResult peek(Cursor& to) {
        StreamResult result;
        for (;;) {
            size_t before = to.room();
            if (!copy(to, false)) return {0, ECONNRESET, false};
            result.bytes = before - to.room();
            if (result.bytes > 0 || at_end(result)) return result;
        }
    }

  private:
    // c1. False: a descriptor that cannot be, written by some other holder.
    bool copy(Cursor& to, bool consume) {
        uint64_t head = m_.receive_head.load(std::memory_order_acquire);
        if (head - tail_ > view_.receive_ring_entries) return false;
        const size_t room = to.room();
        uint64_t tail = tail_;
        uint32_t position = position_, unpublished = 0;
        bool sane = true;
        while (tail != head && to.room() > 0) {
            ReceiveDescriptor d = view_.receive_ring()[tail & (view_.receive_ring_entries - 1)];
            if (!(sane = is_sane(d, position))) break;
            if (!copy_one(d, &position, to)) break;
            ++tail;
            position = 0;
            if (consume && ++unpublished == kReturnDescriptors) publish(tail, 0), unpublished = 0;
        }
        drained_ = tail == head;
        if (consume) publish(tail, position);
        Policy::step();
        bytes_ = 0;
        return sane || to.room() < room;
    }

    bool is_sane(const ReceiveDescriptor& d, uint32_t position) const {
        uint64_t total = stream_bytes(d);
        return d.offset <= view_.receive_area_size && d.length <= view_.receive_area_size - d.offset &&
               total > 0 && position < total;
    }

    // True when nothing of it is left.
    bool copy_one(const ReceiveDescriptor& d, uint32_t* position, Cursor& to) {
        uint32_t header = d.flags & message_start ? 4 : 0;
        if (*position < header) {  // the length header that the wire does not have
            const uint32_t n = d.message_length;
            const unsigned char bytes[4] = {
                static_cast<unsigned char>(n >> 24), static_cast<unsigned char>(n >> 16),
                static_cast<unsigned char>(n >> 8), static_cast<unsigned char>(n)};
            auto part = static_cast<uint32_t>(std::min<size_t>(header - *position, to.room()));
            to.put(bytes + *position, part);
            *position += part;
            bytes_ += part;
            if (*position < header) return false;
        }
        uint32_t done = *position - header;
        auto part = static_cast<uint32_t>(std::min<size_t>(d.length - done, to.room()));
        to.put(view_.receive_area() + d.offset + done, part);
        *position += part;
        bytes_ += part;
        return *position == header + d.length;
    }

    // The tail first, then the position: a reader killed in between leaves a position whose tag says 0.
    void publish(uint64_t tail, uint32_t position) {
        if (tail == tail_ && position == position_) return;
        m_.bytes_consumed.store(m_.bytes_consumed.load(std::memory_order_relaxed) + bytes_,
                                std::memory_order_relaxed);
        bytes_ = 0;
        m_.touched.store(1, std::memory_order_relaxed);
        if (position != position_ && tail == tail_) store_position(tail, position);
        if (tail != tail_) {
            m_.receive_tail.store(tail, std::memory_order_seq_cst);
            if (position > 0) store_position(tail, position);
            std::atomic_thread_fence(std::memory_order_seq_cst);
            look_at_mark(tail);
        }
        tail_ = tail;
        position_ = position;
    }

    // Takes the mark that it looked at and no other: the engine may have set a later one meanwhile.
    void look_at_mark(uint64_t tail) {
        uint64_t mark = m_.return_mark.load(std::memory_order_seq_cst);
        Policy::step();
        while (mark != UINT64_MAX && tail >= mark)
            if (m_.return_mark.compare_exchange_weak(mark, UINT64_MAX, std::memory_order_seq_cst))
                return wake_engine(m_, a_);
    }

    void store_position(uint64_t tail, uint32_t position) {
        m_.receive_position.store(tail << 32 | position, std::memory_order_relaxed);
    }

    // c2 to c4. True: something new is there, and one token stands for it.
    bool clear_tokens() {
        if constexpr (Policy::token_drain == Drain::counted) {
            int32_t owed = m_.tokens.exchange(0, std::memory_order_seq_cst);
            if (owed <= 0) return false;
            Policy::step();
            std::atomic_thread_fence(std::memory_order_seq_cst);
            bool again = m_.receive_head.load(std::memory_order_seq_cst) != tail_;
            if (again) m_.tokens.fetch_add(1, std::memory_order_seq_cst), owed -= 1;
            Policy::step();
            if constexpr (Policy::waits_for_owed)
                receive_owed(static_cast<uint32_t>(owed));
            else
                receive_owed_if_here(static_cast<uint32_t>(owed));
            return again;
        }
        if (Policy::token_drain == Drain::clear_then_all) m_.tokens.store(0, std::memory_order_seq_cst);
        Policy::step();
        unsigned char all[64];
        while (raw::receive(a_, all, sizeof all) > 0) {
        }
        Policy::step();
        if (Policy::token_drain == Drain::all_then_clear) m_.tokens.store(0, std::memory_order_seq_cst);
        return false;
    }

    // Each was counted before it was sent, so one that is not here yet is about to be: waiting for it now is
    // what keeps it from waking the program for nothing later.
    void receive_owed(uint32_t owed) {
        unsigned char token[kMaxTokensAtOnce];
        for (int waited = 0; owed > 0 && waited < kTokenWaitMs;) {
            long got = raw::receive(a_, token, std::min<size_t>(owed, sizeof token));
            if (got > 0)
                owed -= static_cast<uint32_t>(got);
            else if (got != -EAGAIN)
                return;  // the end of the stream: there is nothing in flight any more
            else if (raw::poll_one(a_, POLLIN, 10) == 0)
                waited += 10;
        }
    }

    void receive_owed_if_here(uint32_t owed) {  // wrong on purpose
        std::atomic<uint64_t>& left = Policy::left_owing(view_);
        uint64_t all = left.load() + owed;
        unsigned char token[kMaxTokensAtOnce];
        long got = all ? raw::receive(a_, token, std::min<size_t>(all, sizeof token)) : 0;
        left.store(all - static_cast<uint64_t>(std::max(got, 0L)));
    }

    // The ring was empty. True: `result` says EAGAIN, error or end; false: something came, look again.
    bool at_end(StreamResult& result) {
        End end = m_.end.load(std::memory_order_acquire);
        bool failed = m_.state.load(std::memory_order_acquire) == ConnectionState::failed;
        if (end == End::none && !failed && !(m_.shutdown.load(std::memory_order_relaxed) & shutdown_read)) {
            if (!check_engine_ || !engine_is_lost(m_, a_)) {
                result.error = EAGAIN;
                return true;
            }
            end = m_.end.load(std::memory_order_acquire);
        }
        if (m_.receive_head.load(std::memory_order_acquire) != tail_)
            return false;  // published before it ended
        // EPIPE is the error of a reset that came after the end, as in TCP: for all but those who read.
        const bool over = end == End::reset && m_.error.load(std::memory_order_relaxed) == EPIPE;
        if ((end == End::reset || failed) && !over) result.error = pending_error(m_, a_);
        result.end = result.error == 0;
        return true;
    }

    static constexpr size_t kMaxTokensAtOnce = 128;

    const ConnectionView& view_;
    ConnectionMemory& m_;
    int a_;
    const bool check_engine_;
    uint64_t tail_ = 0, bytes_ = 0;
    uint32_t position_ = 0;
    bool drained_ = false;
};

// ---------------------------------------------------------------- protocol W, producer; the transmit lock is
// held
template <class Policy>
class Sender {
  public:
    Sender(const ConnectionView& view, int a) : view_(view), m_(*view.memory), a_(a) {
        head_ = m_.transmit_head.load(std::memory_order_relaxed);
    }

    StreamResult send(Cursor& from, bool whole) {
        StreamResult result;
        const size_t total = from.room();
        if ((result.error = refusal())) return result;
        if (whole && total > view_.transmit_size) return {0, EMSGSIZE, false};
        const uint64_t least = whole ? total : 1;
        for (;;) {
            uint64_t tail = m_.transmit_tail.load(std::memory_order_acquire);
            if (head_ - tail > view_.transmit_size) return {0, ECONNRESET, false};
            uint64_t space = view_.transmit_size - (head_ - tail);
            if (space >= least) copy(from, space, whole);  // w1
            space = view_.transmit_size - (head_ - tail);
            if (from.room() == 0 && space > 0) break;
            switch_out_off(from.room() > 0 && whole ? static_cast<uint32_t>(total) : 0);  // w2
            std::atomic_thread_fence(std::memory_order_seq_cst);
            bool moved = m_.transmit_tail.load(std::memory_order_seq_cst) != tail;
            if (from.room() == 0 || !moved) break;  // w3: never refuse when no edge would follow
        }
        result.bytes = total - from.room();
        if (result.bytes > 0 || total == 0) return result;
        return engine_is_lost(m_, a_) ? StreamResult{0, refusal(), false} : StreamResult{0, EAGAIN, false};
    }

  private:
    // TCP's order: the pending error first, whoever calls first; then EPIPE.
    int refusal() {
        ConnectionState state = m_.state.load(std::memory_order_acquire);
        bool over = m_.end.load(std::memory_order_acquire) == End::reset || state == ConnectionState::failed;
        if (over) {
            if (int error = pending_error(m_, a_)) return error;
        }
        if (over || (m_.shutdown.load(std::memory_order_relaxed) & shutdown_write)) return EPIPE;
        return state == ConnectionState::connecting ? EAGAIN : 0;
    }

    void copy(Cursor& from, uint64_t space, bool whole) {
        while (space > 0 && from.room() > 0) {
            uint64_t limit = whole ? space : std::min<uint64_t>(space, kPublishBytes);
            auto n = static_cast<size_t>(std::min<uint64_t>(limit, from.room()));
            copy_into_ring(from, n);
            space -= n;
            head_ += n;
            m_.transmit_head.store(head_, std::memory_order_release);
            std::atomic_thread_fence(std::memory_order_seq_cst);
            wake_engine(m_, a_);  // w4
        }
        if (from.room() == 0) m_.transmit_wanted.store(0, std::memory_order_relaxed);
    }

    void copy_into_ring(Cursor& from, size_t size) {
        size_t at = head_ & (view_.transmit_size - 1);
        size_t first = std::min<size_t>(size, view_.transmit_size - at);
        from.take(view_.transmit() + at, first);
        if (size > first) from.take(view_.transmit(), size - first);
    }

    void switch_out_off(uint32_t wanted) {
        if (wanted > 0) m_.transmit_wanted.store(wanted, std::memory_order_relaxed);
        if (m_.stuffed.exchange(1, std::memory_order_seq_cst) != 0) return;
        Policy::step();
        send_all(kStuffingJunk.byte, kStuffing);
        Policy::step();
        send_all(&kRing, 1);
    }

    // There is always room for two stuffings, so this waits only where somebody else filled A.
    void send_all(const unsigned char* data, size_t size) {
        for (int waited = 0; waited < kTokenWaitMs; waited += 10) {
            if (raw::send(a_, data, size) != -EAGAIN) return;  // else: the engine is gone
            raw::poll_one(a_, POLLOUT, 10);
        }
    }

    const ConnectionView& view_;
    ConnectionMemory& m_;
    int a_;
    uint64_t head_ = 0;
};

}  // namespace smbdirect::session
