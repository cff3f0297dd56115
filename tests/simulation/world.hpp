// Two nodes and the two queues between them, one clock, one seed.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>

#include "node.hpp"
#include "support/catch.hpp"

namespace smbdirect::test {

class World {
  public:
    World(std::unique_ptr<Node> active, std::unique_ptr<Node> passive, uint64_t seed)
        : random(seed), nodes{std::move(active), std::move(passive)} {}

    // The transport stands on both sides at once; a message may overtake the event.
    void connect(bool late_event = false);
    // One random thing happens.
    void step();
    // Everything that can happen without time passing, in turns. Returns how many messages were carried.
    uint64_t settle(uint64_t at_most = ~uint64_t{0}, bool until_delivered = false);
    // On to the next deadline of either side. False: there is none.
    bool pass_time();
    bool delivered() const;
    void send_random(uint32_t messages, uint32_t largest);
    void check_delivered() const;

    Random random;
    std::unique_ptr<Node> nodes[2];
    Nanoseconds now = 0;
    uint64_t carried = 0;
    bool mutate_targets =
        false;  // the link rewrites CreditsRequested: targets raised and lowered in mid-stream
    uint16_t largest_target = 8;

  private:
    struct InFlight {
        Bytes bytes;
        uint32_t granted = 0;
        bool data = false;  // costs a credit
    };
    bool give(int from);
    bool take(int at);
    void check_conservation(int sender) const;

    std::deque<InFlight> link_[2];  // towards nodes[i]
    int standing_ = 0;
    bool pending_event_[2] = {false, false};
};

// Runs body for many seeds; a failure names its seed. SMBDIRECT_SEED=n runs that one alone,
// SMBDIRECT_ROUNDS=n more.
inline void for_seeds(uint64_t rounds, const std::function<void(uint64_t seed)>& body) {
    if (const char* one = std::getenv("SMBDIRECT_SEED")) {
        body(std::strtoull(one, nullptr, 10));
        return;
    }
    if (const char* more = std::getenv("SMBDIRECT_ROUNDS")) rounds = std::strtoull(more, nullptr, 10);
    for (uint64_t seed = 1; seed <= rounds; ++seed) {
        try {
            body(seed);
        } catch (const Broken& broken) {
            FAIL("SMBDIRECT_SEED=" << seed << ": " << broken.what());
        }
    }
}

}  // namespace smbdirect::test
