// The protocol as it is, with time lost between its steps, and as readiness.md and chain.md say it must not
// be.
#pragma once

#include <sched.h>

#include <atomic>

#include "session/memory.hpp"
#include "session/mirror_policy.hpp"
#include "stress_world.hpp"

namespace stress {

inline thread_local Random jitter_random{1};

struct Jitter : Correct {
    static void step() {
        uint32_t dice = jitter_random.below(64);
        if (dice == 0)
            sched_yield();
        else if (dice < 8)
            for (uint32_t i = jitter_random.below(400); i > 0; --i) asm volatile("" ::: "memory");
    }
};

struct ClearThenDrainAllTokens : Jitter {
    static constexpr Drain token_drain = Drain::clear_then_all;
};
struct DrainAllThenClearTokens : Jitter {
    static constexpr Drain token_drain = Drain::all_then_clear;
};
struct AddWithoutItsSend : Jitter {
    static constexpr bool every_add_has_its_send = false;
};
struct NoTakingBack : Jitter {
    static constexpr bool takes_back = false;
};
struct OwedLeftOwing : Jitter {
    static constexpr bool waits_for_owed = false;
    // The last word of page 0, which nobody else uses.
    static std::atomic<uint64_t>& left_owing(const ConnectionView& view) {
        static_assert(sizeof(ConnectionMemory) <= 4096 - sizeof(uint64_t));
        return *reinterpret_cast<std::atomic<uint64_t>*>(view.base + 4096 - sizeof(uint64_t));
    }
};
struct ClearThenDrainAllStuffing : Jitter {
    static constexpr Drain stuffing_drain = Drain::clear_then_all;
};
struct DrainAllThenClearStuffing : Jitter {
    static constexpr Drain stuffing_drain = Drain::all_then_clear;
};
struct CountBeforeTokens : Jitter {
    static constexpr bool looks_at_tokens_first = false;
};

}  // namespace stress
