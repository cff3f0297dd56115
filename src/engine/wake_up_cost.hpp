// What it costs on this machine to wake a thread that sleeps on a descriptor: some microseconds where
// processors sleep lightly, some hundred in a virtual machine. Measured once, beside the first work of the
// loop, within some 20 ms.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "fabric/event_loop.hpp"

namespace smbdirect::engine {

class WakeUpCost final : private fabric::Watcher {
  public:
    explicit WakeUpCost(fabric::EventLoop& loop);
    ~WakeUpCost();
    WakeUpCost(const WakeUpCost&) = delete;
    WakeUpCost& operator=(const WakeUpCost&) = delete;

    fabric::Nanoseconds cost() const { return cost_; }  // 0: not known (yet)

  private:
    void on_ready(uint32_t) override;
    void wake_again_and_again();
    void stop();

    fabric::EventLoop& loop_;
    int wake_up_ = -1;
    std::atomic<fabric::Nanoseconds> woken_at_ = 0;
    std::atomic<bool> stopped_ = false;
    std::thread waker_;
    uint64_t times_woken_ = 0;
    std::vector<fabric::Nanoseconds> samples_;
    fabric::Nanoseconds cost_ = 0;
};

}  // namespace smbdirect::engine
