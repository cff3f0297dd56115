#include "engine/spin_guard.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>

namespace smbdirect::engine {

SpinGuard::SpinGuard(fabric::EventLoop* loop)
    : loadavg_(open("/proc/loadavg", O_RDONLY | O_CLOEXEC)), cores_(std::thread::hardware_concurrency()) {
    if (loop && cores_ >= 2) wake_up_cost_.emplace(*loop);
}

SpinGuard::~SpinGuard() {
    if (loadavg_ >= 0) close(loadavg_);
}

fabric::Nanoseconds SpinGuard::usual_wait() const {
    constexpr fabric::Nanoseconds kLeast = 150'000, kMost = 1'000'000, kWakeUps = 10;
    return std::clamp(wake_up_cost_ ? kWakeUps * wake_up_cost_->cost() : 0, kLeast, kMost);
}

bool SpinGuard::allows(fabric::Nanoseconds now) {
    constexpr fabric::Nanoseconds kInterval = 20'000'000, kAfterBulk = 10'000'000;
    if (last_bulk_ && now - last_bulk_ < kAfterBulk) return false;
    if (asked_ && now - asked_ < kInterval) return allows_;
    asked_ = now;
    char text[64] = {};
    unsigned runnable = 0;  // "0.73 1.29 2.48 2/210 12345": the fourth; this thread is one of them
    allows_ = cores_ >= 2 && pread(loadavg_, text, sizeof text - 1, 0) > 0 &&
              std::sscanf(text, "%*f %*f %*f %u/", &runnable) == 1 && runnable <= cores_;
    return allows_;
}

}  // namespace smbdirect::engine
