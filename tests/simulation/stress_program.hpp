// The program's side of the stress test: consumers and producers, each with an epoll of its own on A.
#pragma once

#include <sys/epoll.h>

#include "session/stream_protocol.hpp"
#include "stress_policies.hpp"

namespace stress {

class Waiter {
  public:
    Waiter(int a, uint32_t events, const Config& config)
        : a_(a), events_(events), use_select_(config.use_select) {
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        epoll_event event{events | (config.edge ? EPOLLET : 0u), {}};
        epoll_ctl(epoll_, EPOLL_CTL_ADD, a, &event);
    }
    ~Waiter() { ::close(epoll_); }

    bool wait(int ms) {
        if (use_select_ && events_ == EPOLLIN) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(a_, &set);
            timeval limit{ms / 1000, (ms % 1000) * 1000};
            return select(a_ + 1, &set, nullptr, nullptr, &limit) > 0;
        }
        epoll_event event;
        return epoll_wait(epoll_, &event, 1, ms) > 0;
    }

  private:
    int a_, epoll_;
    uint32_t events_;
    bool use_select_;
};

template <class Policy>
class Consumer {
  public:
    Consumer(World& world, uint64_t seed)
        : w_(world), t_(*world.tally), random_(seed), waiter_(world.pair.a, EPOLLIN, world.config) {}

    void run() {
        jitter_random = Random(random_.next());
        while (!t_.stop && !over()) {
            uint64_t calls = t_.receive_calls.load();
            if (!wait_for_data()) continue;
            drain(calls);
            if (random_.one_in(64)) usleep(random_.below(200));
        }
    }

  private:
    bool over() const {
        ConnectionMemory& m = w_.memory();
        return t_.receive_done && m.receive_head == m.receive_tail;
    }

    // False: nothing came for a while, which is a lost wake-up if there was something all the time.
    bool wait_for_data() {
        ConnectionMemory& m = w_.memory();
        ++t_.waits_in;
        uint64_t until = now_ms() + kPatienceMs, tail = m.receive_tail;
        bool full = false;
        while (now_ms() < until && !t_.stop && !over()) {
            if (waiter_.wait(50)) return true;
            bool moved = m.receive_tail != tail;
            if (moved || m.receive_head == tail)
                tail = m.receive_tail, until = now_ms() + kPatienceMs, full = false;
            else
                full = true;
        }
        if (full && !t_.stop && now_ms() >= until && m.receive_tail == tail && m.receive_head != tail)
            t_.fail(t_.lost_in);
        return false;
    }

    // After an event, until a short read says "drained". Level-triggered it may also stop early.
    void drain(uint64_t calls_before) {
        for (bool first = true;; first = false) {
            size_t wanted = random_.one_in(8) ? 4 : 1 + random_.below(700);
            uint64_t calls = 0;
            StreamResult got = receive(wanted, &calls);
            if (got.error == EAGAIN) {
                bool nobody_else = calls == calls_before + 1;
                if (first && nobody_else && !w_.config.kill) t_.fail(t_.spurious_in);
                return;
            }
            if (got.error || got.end) return t_.fail(t_.stuck);
            if (got.bytes < wanted) return;
            if (!w_.config.edge && random_.one_in(3)) return;
        }
    }

    StreamResult receive(size_t wanted, uint64_t* calls) {
        ConnectionMemory& m = w_.memory();
        unsigned char buffer[1024];
        StreamLock lock(w_.view, w_.pair.a, StreamLock::Which::receive);
        if (lock.error()) return {0, lock.error(), false};
        *calls = ++t_.receive_calls;
        uint64_t tail = m.receive_tail;
        uint64_t at = t_.start_of[tail % (2 * kRingEntries)] + position_at(tail, m.receive_position);
        iovec iov[2] = {{buffer, wanted / 2}, {buffer + wanted / 2, wanted - wanted / 2}};
        Cursor to(iov, 2);
        StreamResult got = Receiver<Policy>(w_.view, w_.pair.a).receive(to);
        ++t_.receives;
        ++t_.receive_calls;  // on the way out as well: somebody who waits meanwhile shall know
        for (size_t i = 0; i < got.bytes; ++i)
            if (buffer[i] != receive_byte(at + i)) {
                t_.fail(t_.wrong_byte);
                break;
            }
        return got;
    }

    World& w_;
    Tallies& t_;
    Random random_;
    Waiter waiter_;
};

template <class Policy>
class Producer {
  public:
    Producer(World& world, uint64_t seed)
        : w_(world), t_(*world.tally), random_(seed), waiter_(world.pair.a, EPOLLOUT, world.config) {}

    void run() {
        jitter_random = Random(random_.next());
        bool after_event = false;
        while (!t_.stop && !t_.time_up && w_.memory().transmit_head < w_.config.bytes) {
            size_t wanted = 1 + random_.below(random_.one_in(4) ? 3000 : 300);
            StreamResult sent = send(wanted);
            if (sent.error == EAGAIN) {
                ++t_.refused;
                if (after_event && w_.config.producers == 1 && !w_.config.kill)
                    return t_.fail(t_.spurious_out);
            } else if (sent.error) {
                return t_.fail(t_.stuck);
            }
            after_event = false;
            if (sent.bytes < wanted) after_event = wait_for_room();
            if (random_.one_in(16)) usleep(random_.below(100));
        }
        t_.send_done = 1;
    }

  private:
    bool wait_for_room() {
        ConnectionMemory& m = w_.memory();
        ++t_.waits_out;
        uint64_t until = now_ms() + kPatienceMs, head = m.transmit_head;
        while (now_ms() < until && !t_.stop && !t_.send_done) {
            if (waiter_.wait(50)) return true;
            bool moved = m.transmit_head != head;
            bool full = m.transmit_head - m.transmit_tail > w_.view.transmit_size / 4 * 3;
            if (moved || full) head = m.transmit_head, until = now_ms() + kPatienceMs;
            // Another producer may have got the edge of the last room there was: the others' epolls have it
            // too.
        }
        if (!t_.stop && !t_.send_done) t_.fail(t_.lost_out);
        return false;
    }

    StreamResult send(size_t wanted) {
        unsigned char buffer[3000];
        StreamLock lock(w_.view, w_.pair.a, StreamLock::Which::transmit);
        if (lock.error()) return {0, lock.error(), false};
        uint64_t at = w_.memory().transmit_head;
        for (size_t i = 0; i < wanted; ++i) buffer[i] = send_byte(at + i);
        iovec iov[2] = {{buffer, wanted / 3}, {buffer + wanted / 3, wanted - wanted / 3}};
        Cursor from(iov, 2);
        ++t_.sends;
        return Sender<Policy>(w_.view, w_.pair.a).send(from, false);
    }

    World& w_;
    Tallies& t_;
    Random random_;
    Waiter waiter_;
};

}  // namespace stress
