// What all parties of the readiness stress test share, across fork() and SIGKILL: one connection, its
// tallies, and the rule which byte stands where in either stream.
#pragma once

#include <sys/mman.h>
#include <sys/select.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "session/readiness.hpp"

namespace stress {

using namespace smbdirect::session;

inline constexpr int kPatienceMs = 4000;  // nothing moves for so long though it could: a lost wake-up
inline constexpr uint32_t kRingEntries = 64;

struct Config {
    const char* name = "";
    bool edge = false;  // EPOLLET on both sides
    bool use_select =
        false;  // consumers: select(), then a read that would block for ever on a false "readable"
    int consumers = 1, producers = 1;
    bool forked = true;  // processes, not threads
    bool paced = true;   // the engine has a clock of its own; else nothing but doorbells wakes it
    bool kill = false;
    bool starved = false;         // the ring is always full: the engine waits for half of it to come back
    uint64_t items = 200'000;     // descriptors to receive
    uint64_t bytes = 20'000'000;  // to send
    uint32_t transmit_size = 4096;
    uint64_t seed = 1;
    int most_seconds = 60;  // then it ends in good order, with fewer items
};

// Everything is counted up; `failed` ends the run.
struct Tallies {
    std::atomic<uint64_t> lost_in, lost_out, lost_doorbell, spurious_in, spurious_out, wrong_byte, foreign,
        stuck;
    std::atomic<uint64_t> receives, sends, refused, waits_in, waits_out, engine_sleeps, kills,
        full_receive_ring;
    std::atomic<uint64_t> receive_calls;  // counted under the receive lock, on the way in and on the way out
    std::atomic<uint32_t> stop, receive_done, send_done, time_up, quit;
    std::atomic<uint64_t> start_of[2 * kRingEntries];  // stream offset where descriptor i starts

    uint64_t failures() const {
        return lost_in + lost_out + lost_doorbell + spurious_in + spurious_out + wrong_byte + foreign + stuck;
    }
    void fail(std::atomic<uint64_t>& what) {
        ++what;
        stop = 1;
    }
};

inline unsigned char receive_byte(uint64_t offset) {
    return static_cast<unsigned char>((offset * 0x9E3779B97F4A7C15u) >> 56);
}
inline unsigned char send_byte(uint64_t offset) {
    return static_cast<unsigned char>((offset * 0xC2B2AE3D27D4EB4Fu) >> 56);
}

// Small, without state beyond a word: works in a forked child.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x1234567) {}
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545F4914F6CDD1Du;
    }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
    bool one_in(uint32_t n) { return below(n) == 0; }

  private:
    uint64_t state_;
};

struct World {
    Config config;
    ConnectionView view;
    MirrorPair pair;
    Tallies* tally = nullptr;

    ConnectionMemory& memory() const { return *view.memory; }
};

inline uint64_t now_ms() { return raw::clock_ns(CLOCK_MONOTONIC) / 1'000'000; }

}  // namespace stress
