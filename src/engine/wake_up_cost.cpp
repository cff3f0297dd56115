#include "engine/wake_up_cost.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

namespace smbdirect::engine {
namespace {

constexpr int kSamples = 9;

}  // namespace

WakeUpCost::WakeUpCost(fabric::EventLoop& loop)
    : loop_(loop), wake_up_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake_up_ < 0 || !loop_.watch(wake_up_, EPOLLIN, this)) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the loop's thread
    try {
        waker_ = std::thread([this] { wake_again_and_again(); });
    } catch (const std::system_error&) {
        stop();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

WakeUpCost::~WakeUpCost() { stop(); }

void WakeUpCost::stop() {
    stopped_ = true;
    if (waker_.joinable()) waker_.join();
    if (wake_up_ < 0) return;
    loop_.unwatch(wake_up_, this);
    close(wake_up_);
    wake_up_ = -1;
}

// Time enough between two for the loop to fall asleep, and its processor with it.
void WakeUpCost::wake_again_and_again() {
    const timespec pause{0, 2'000'000};
    for (int i = 0; i < kSamples && !stopped_; ++i) {
        nanosleep(&pause, nullptr);
        woken_at_ = fabric::monotonic_now();
        eventfd_write(wake_up_, 1);
    }
}

// The median: now and then the loop was not asleep, or had something else to do first.
void WakeUpCost::on_ready(uint32_t) {
    eventfd_t count = 0;
    eventfd_read(wake_up_, &count);
    samples_.push_back(fabric::monotonic_now() - woken_at_);
    if ((times_woken_ += count) < kSamples) return;
    std::sort(samples_.begin(), samples_.end());
    cost_ = samples_[samples_.size() / 2];
    stop();
}

}  // namespace smbdirect::engine
