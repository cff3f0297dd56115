#include "engine/spin_guard.hpp"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <string>

namespace smbdirect::engine {

namespace {

// Of the control group that we are in, or that our container shows as its root: "QUOTA PERIOD", or "max
// PERIOD".
unsigned cores_by_quota() {
    char path[512] = "";
    if (FILE* file = std::fopen("/proc/self/cgroup", "r")) {
        if (std::fscanf(file, "0::%400s", path) != 1) path[0] = '\0';
        std::fclose(file);
    }
    unsigned cores = UINT_MAX;
    if (FILE* file = std::fopen((std::string("/sys/fs/cgroup") + path + "/cpu.max").c_str(), "r")) {
        unsigned long quota = 0, period = 0;
        if (std::fscanf(file, "%lu %lu", &quota, &period) == 2 && period != 0)
            cores = static_cast<unsigned>(quota / period);
        std::fclose(file);
    }
    return cores;
}

unsigned cores_at_hand() {
    cpu_set_t ours;
    if (sched_getaffinity(0, sizeof ours, &ours) != 0) return 1;
    return std::min(static_cast<unsigned>(CPU_COUNT(&ours)), cores_by_quota());
}

}  // namespace

SpinGuard::SpinGuard(fabric::EventLoop* loop)
    : loadavg_(open("/proc/loadavg", O_RDONLY | O_CLOEXEC)), cores_(cores_at_hand()) {
    if (loop && cores_ >= 2) wake_up_cost_.emplace(*loop);
}

SpinGuard::~SpinGuard() {
    if (loadavg_ >= 0) close(loadavg_);
}

fabric::Nanoseconds SpinGuard::usual_wait() const {
    if (cores_ < 2) return 0;
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
