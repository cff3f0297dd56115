// Whether a core is left for looking on instead of sleeping. Spinning while more threads want to run than
// there are cores takes time from those whose answer is awaited.
#pragma once

#include "fabric/event_loop.hpp"

namespace smbdirect::engine {

class SpinGuard {
  public:
    SpinGuard();
    ~SpinGuard();
    SpinGuard(const SpinGuard&) = delete;
    SpinGuard& operator=(const SpinGuard&) = delete;

    // Bulk is under way: its requests are small messages too, but what follows them keeps every core busy.
    void saw_bulk(fabric::Nanoseconds now) { last_bulk_ = now; }
    // Asks the kernel at most every 20 ms (a read of /proc/loadavg, some microseconds).
    bool allows(fabric::Nanoseconds now);

  private:
    const int loadavg_;
    const unsigned cores_;
    fabric::Nanoseconds asked_ = 0, last_bulk_ = 0;
    bool allows_ = false;
};

}  // namespace smbdirect::engine
