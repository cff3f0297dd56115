#include "fabric/verbs/background.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <system_error>

namespace smbdirect::fabric::verbs {
namespace {

constexpr int kInterruption = SIGURG;  // ignored by default, so that nobody is hurt who gets one by mistake
constexpr size_t kMostJobs = 256;

void install_handler() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_handler = [](int) {};  // without SA_RESTART: the call returns
        sigaction(kInterruption, &action, nullptr);
    });
}

}  // namespace

struct Background::Job {
    uint64_t number = 0;
    std::function<void()> done;
    std::atomic<bool> finished = false;
    std::thread thread;
};

Background::Background(EventLoop& loop) : loop_(loop) {}

Background::~Background() {
    // A signal that comes just before the job falls asleep is lost: again, until it has finished.
    for (auto& job : jobs_)
        while (!job->finished) {
            pthread_kill(job->thread.native_handle(), kInterruption);
            usleep(1000);
        }
    for (auto& job : jobs_) job->thread.join();
    if (finished_fd_ < 0) return;
    loop_.unwatch(finished_fd_, this);
    close(finished_fd_);
}

uint64_t Background::run(std::function<void()> work, std::function<void()> done) {
    install_handler();
    if (finished_fd_ < 0) {
        finished_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (finished_fd_ < 0 || !loop_.watch(finished_fd_, EPOLLIN, this)) return 0;
    }
    if (jobs_.size() >= kMostJobs) return 0;
    auto job = std::make_unique<Job>();
    job->number = ++last_job_;
    job->done = std::move(done);
    // Signals are for the loop's thread.
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, kInterruption);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        job->thread = std::thread([this, work = std::move(work), raw = job.get()]() mutable {
            work();
            work = nullptr;
            raw->finished = true;
            eventfd_write(finished_fd_, 1);
        });
    } catch (const std::system_error&) {
        job.reset();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!job) return 0;
    jobs_.push_back(std::move(job));
    return last_job_;
}

void Background::interrupt(uint64_t number) {
    constexpr Nanoseconds kAgain = 10'000'000;
    for (auto& job : jobs_) {
        if (job->number != number || job->finished) continue;
        pthread_kill(job->thread.native_handle(), kInterruption);
        // One that came just before the job fell asleep is lost.
        loop_.add_timer(loop_.now() + kAgain, [this, number, alive = std::weak_ptr<int>(alive_)] {
            if (!alive.expired()) interrupt(number);
        });
    }
}

void Background::on_ready(uint32_t) {
    eventfd_t count = 0;
    eventfd_read(finished_fd_, &count);
    for (auto it = jobs_.begin(); it != jobs_.end();) {
        if (!(*it)->finished) {
            ++it;
            continue;
        }
        auto job = std::move(*it);
        it = jobs_.erase(it);
        job->thread.join();
        if (job->done) job->done();
    }
}

}  // namespace smbdirect::fabric::verbs
