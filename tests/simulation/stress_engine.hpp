// The engine's side of the stress test: one thread that sleeps in epoll on B, publishes descriptors and takes
// bytes.
#pragma once

#include <sys/epoll.h>

#include <utility>

#include "session/mirror_protocol.hpp"
#include "stress_policies.hpp"

namespace stress {

template <class Policy>
class Engine {
    using Steps = MirrorSteps<Policy>;

  public:
    explicit Engine(World& world) : w_(world), t_(*world.tally), random_(world.config.seed) {
        s_.view = world.view;
        s_.b = world.pair.b;
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLET, {}};
        epoll_ctl(epoll_, EPOLL_CTL_ADD, s_.b, &event);
    }
    ~Engine() { ::close(epoll_); }

    void run() {
        jitter_random = Random(w_.config.seed * 3 + 1);
        while (!t_.stop && !t_.quit) {
            if (!Steps::begin_turn(s_, std::exchange(b_has_news_, false))) return t_.fail(t_.foreign);
            // A part of the sweep that must be right whenever it looks; the rest wants a second to have
            // passed.
            if (Policy::token_drain == Drain::counted && !Steps::tokens_are_there(s_))
                return t_.fail(t_.foreign);
            if (tick_due() && !Steps::sweep(s_)) return t_.fail(t_.foreign);
            publish();
            take();
            if (published_ >= budget_in_all()) t_.receive_done = 1;
            if (stays_awake()) continue;
            if (!Steps::end_turn(s_)) sleep();
        }
    }

    MirrorState& state() { return s_; }
    uint64_t published() const { return published_; }
    uint64_t taken() const { return s_.transmit_tail; }

  private:
    // As an engine that spins: the doorbell stays off, and it looks for itself.
    bool stays_awake() {
        if (!random_.one_in(4)) return false;
        for (uint64_t looks = random_.below(64); looks > 0; --looks)
            if (Steps::something_new(s_)) return true;
        return false;
    }

    uint64_t budget_in_all() const { return t_.time_up ? published_ : w_.config.items; }

    uint64_t budget() const {
        if (w_.config.paced || w_.config.starved || t_.send_done) return budget_in_all();
        return std::min(budget_in_all(), 8 + s_.transmit_tail / 64);
    }

    // A burst of descriptors, as completions bring them.
    void publish() {
        uint64_t tail = w_.memory().receive_tail.load(std::memory_order_acquire);
        uint64_t space = kRingEntries - (s_.receive_head - tail);
        uint64_t wanted = budget() > published_ ? budget() - published_ : 0;
        if (space == 0 && wanted > 0) {
            ++t_.full_receive_ring;
            s_.return_mark = tail + kRingEntries / 2;
            w_.memory().return_mark.store(s_.return_mark, std::memory_order_seq_cst);
            return;
        }
        uint64_t burst = random_.one_in(4) ? 1 + random_.below(8) : 1;
        if (w_.config.starved) {
            if (wanted <= space)
                burst = wanted;
            else
                return publish_starved(tail, space);
        }
        uint64_t head = s_.receive_head;
        for (uint64_t n = std::min({space, wanted, burst}); n > 0; --n) write_descriptor(head++);
        published_ = head;
        Steps::announce(s_, head, offset_);
    }

    // As the driver does it with slots: each turn that leaves something unposted asks for half of what is
    // out.
    void publish_starved(uint64_t tail, uint64_t space) {
        ++t_.full_receive_ring;
        if (space >= kRingEntries / 2) {
            uint64_t head = s_.receive_head;
            for (; space > 0; --space) write_descriptor(head++);
            published_ = head;
            Steps::announce(s_, head, offset_);
        }
        s_.return_mark = tail + (s_.receive_head - tail + 1) / 2;
        w_.memory().return_mark.store(s_.return_mark, std::memory_order_seq_cst);
    }

    void write_descriptor(uint64_t index) {
        uint32_t slot = static_cast<uint32_t>(index % kRingEntries);
        ReceiveDescriptor d{slot * 256, 1 + random_.below(200), 0, 0};
        if (random_.one_in(3)) {
            d.flags = message_start;
            for (int i = 0; i < 4; ++i) d.message_length = d.message_length << 8 | receive_byte(offset_++);
        }
        for (uint32_t i = 0; i < d.length; ++i)
            w_.view.receive_area()[d.offset + i] = std::byte{receive_byte(offset_++)};
        w_.view.receive_ring()[slot] = d;
        t_.start_of[(index + 1) % (2 * kRingEntries)].store(offset_, std::memory_order_relaxed);
    }

    // Takes some of what was sent, as credits allow.
    void take() {
        uint64_t head = w_.memory().transmit_head.load(std::memory_order_acquire);
        s_.transmit_head_seen = head;
        uint64_t here = head - s_.transmit_tail;
        if (here > w_.view.transmit_size) return t_.fail(t_.foreign);
        if (here == 0) return;
        uint64_t n = random_.one_in(2) ? here : 1 + random_.below(static_cast<uint32_t>(here));
        for (uint64_t i = 0; i < n; ++i) {
            uint64_t at = s_.transmit_tail + i;
            if (static_cast<unsigned char>(w_.view.transmit()[at % w_.view.transmit_size]) != send_byte(at))
                return t_.fail(t_.wrong_byte);
        }
        Steps::release(s_, s_.transmit_tail + n);
        more_to_take_ = n < here;
    }

    // Paced: the fabric brings something in a moment. Else only a doorbell can wake us, and one that never
    // comes is noticed.
    void sleep() {
        ++t_.engine_sleeps;
        epoll_event event;
        bool more = more_to_take_ || (budget() > published_ && s_.return_mark == UINT64_MAX);
        if (w_.config.paced || more || w_.config.kill) {
            timespec pause{0, more || w_.config.paced ? static_cast<long>(random_.below(40'000)) : 5'000'000};
            if (random_.one_in(2)) pause.tv_nsec = more ? 0 : pause.tv_nsec;
            b_has_news_ = epoll_pwait2(epoll_, &event, 1, &pause, nullptr) == 1;
            return;
        }
        b_has_news_ = epoll_wait(epoll_, &event, 1, kPatienceMs) == 1;
        if (!b_has_news_ && Steps::something_new(s_) && !t_.stop) t_.fail(t_.lost_doorbell);
    }

    bool tick_due() {
        if (!w_.config.kill || now_ms() < next_tick_) return false;
        next_tick_ = now_ms() + 10;
        return true;
    }

    World& w_;
    Tallies& t_;
    Random random_;
    bool b_has_news_ = true;
    MirrorState s_;
    int epoll_;
    uint64_t published_ = 0, offset_ = 0, next_tick_ = 0;
    bool more_to_take_ = false;
};

}  // namespace stress
