// Whether a core is left for looking on instead of sleeping. Spinning while more threads want to run than
// there are cores takes time from those whose answer is awaited.
#pragma once

#include <optional>

#include "engine/wake_up_cost.hpp"
#include "fabric/event_loop.hpp"

namespace smbdirect::engine {

class SpinGuard {
  public:
    // How long is found out on this loop, when it is given.
    explicit SpinGuard(fabric::EventLoop* loop = nullptr);
    ~SpinGuard();
    SpinGuard(const SpinGuard&) = delete;
    SpinGuard& operator=(const SpinGuard&) = delete;

    // Bulk is under way: its requests are small messages too, but what follows them keeps every core busy.
    void saw_bulk(fabric::Nanoseconds now) { last_bulk_ = now; }
    // An answer to a small message takes a handful of wake-ups on its way here, and some work. Never shorter
    // than a server needs for a small request.
    fabric::Nanoseconds usual_wait() const;
    // Asks the kernel at most every 20 ms (a read of /proc/loadavg, some microseconds).
    bool allows(fabric::Nanoseconds now);

  private:
    const int loadavg_;
    const unsigned cores_;
    std::optional<WakeUpCost> wake_up_cost_;
    fabric::Nanoseconds asked_ = 0, last_bulk_ = 0;
    bool allows_ = false;
};

}  // namespace smbdirect::engine
