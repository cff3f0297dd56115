#include "fabric/event_loop.hpp"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <map>
#include <span>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

namespace smbdirect::fabric {
namespace {

// Tasks that keep deferring tasks may not keep the loop from its events for ever.
constexpr int defer_rounds = 16;

}  // namespace

Nanoseconds monotonic_now() {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return Nanoseconds{ts.tv_sec} * 1'000'000'000 + ts.tv_nsec;
}

struct EventLoop::Impl {
    // What epoll hands back is (fd, generation): an event that was fetched before its watcher was unwatched,
    // or before its fd number was reused, no longer matches and is dropped.
    struct Entry {
        Watcher* watcher = nullptr;
        uint32_t generation = 0;
    };
    using TimerKey = std::pair<Nanoseconds, uint64_t>;

    int epoll = -1;
    int wakeup = -1;
    std::vector<Entry> entries;
    std::map<TimerKey, std::function<void()>> timers;
    std::unordered_map<uint64_t, Nanoseconds> deadlines;
    uint64_t next_timer = 1;
    std::vector<std::function<void()>> deferred, running;
    Nanoseconds time = monotonic_now();
    Nanoseconds spin_until = 0;
    std::vector<Poller*> unarmed, found;
    std::atomic<bool> stopped = false;

    Impl() {
        epoll = epoll_create1(EPOLL_CLOEXEC);
        wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        epoll_event event{.events = EPOLLIN, .data = {.u64 = pack(wakeup, 0)}};
        // A loop without its two descriptors is good for nothing: construction is the one place that throws.
        if (epoll < 0 || wakeup < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wakeup, &event) < 0) {
            const int saved = errno;
            if (epoll >= 0) close(epoll);
            if (wakeup >= 0) close(wakeup);
            throw std::system_error(saved, std::generic_category(), "event loop");
        }
    }
    ~Impl() {
        close(epoll);
        close(wakeup);
    }

    static uint64_t pack(int fd, uint32_t generation) {
        return static_cast<uint64_t>(generation) << 32 | static_cast<uint32_t>(fd);
    }

    bool control(int operation, int fd, uint32_t events, Watcher* watcher) {
        if (fd < 0) return false;
        if (entries.size() <= static_cast<size_t>(fd)) entries.resize(static_cast<size_t>(fd) + 1);
        Entry& entry = entries[static_cast<size_t>(fd)];
        epoll_event event{.events = events, .data = {.u64 = pack(fd, entry.generation)}};
        if (epoll_ctl(epoll, operation, fd, &event) < 0) return false;
        entry.watcher = watcher;
        return true;
    }

    void drop(int fd, const Watcher* watcher) {
        if (fd < 0 || entries.size() <= static_cast<size_t>(fd)) return;
        Entry& entry = entries[static_cast<size_t>(fd)];
        if (entry.watcher != watcher) return;
        entry.watcher = nullptr;
        ++entry.generation;
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr);
    }

    bool is_idle() const { return found.empty() && deferred.empty(); }

    int sleep_time(int limit_ms) const {
        if (!is_idle()) return 0;
        if (timers.empty()) return limit_ms;
        const Nanoseconds left = timers.begin()->first.first - monotonic_now();
        if (left <= 0) return 0;
        const Nanoseconds ms = std::min<Nanoseconds>((left + 999'999) / 1'000'000, 1'000'000'000);
        return limit_ms < 0 ? static_cast<int>(ms) : static_cast<int>(std::min<Nanoseconds>(ms, limit_ms));
    }

    void look_at(Poller* poller) {
        if (poller->place_ != Poller::kNowhere) return;
        poller->place_ = unarmed.size();
        unarmed.push_back(poller);
    }

    void forget(Poller* poller) {
        if (poller->place_ != Poller::kNowhere) unarmed[poller->place_] = nullptr;
        poller->place_ = Poller::kNowhere;
        std::replace(found.begin(), found.end(), poller, static_cast<Poller*>(nullptr));
    }

    void move_to_found(bool (Poller::*has_something)()) {
        size_t kept = 0;
        for (size_t i = 0; i < unarmed.size(); ++i) {
            Poller* poller = unarmed[i];
            if (!poller) continue;
            const bool here = (poller->*has_something)();
            poller->place_ = here ? Poller::kNowhere : kept;
            if (here)
                found.push_back(poller);
            else
                unarmed[kept++] = poller;
        }
        unarmed.resize(kept);
    }

    // Looks at memory and descriptors for so long. The number of events that came by descriptors.
    int look_awhile(std::span<epoll_event> events) {
        move_to_found(&Poller::look);
        while (spin_until != 0 && is_idle() && !stopped) {
            const int count = epoll_wait(epoll, events.data(), static_cast<int>(events.size()), 0);
            if (count != 0) return count;
            const Nanoseconds now = monotonic_now();
            if (!timers.empty() && timers.begin()->first.first <= now) break;
            if (now >= spin_until) spin_until = 0;
            sched_yield();  // whoever makes what is awaited may want this processor
            move_to_found(&Poller::look);
        }
        return 0;
    }

    // From here on a descriptor tells.
    void arm() {
        move_to_found(&Poller::arm);
        for (Poller* poller : unarmed) poller->place_ = Poller::kNowhere;
        unarmed.clear();
    }

    void tell_found() {
        for (size_t i = 0; i < found.size(); ++i)
            if (found[i]) found[i]->on_found();
        found.clear();
    }

    void dispatch(const epoll_event& event) {
        const auto fd = static_cast<int>(static_cast<uint32_t>(event.data.u64));
        if (fd == wakeup) {
            uint64_t count;
            [[maybe_unused]] const ssize_t n = read(wakeup, &count, sizeof count);
            return;
        }
        const Entry entry = entries[static_cast<size_t>(fd)];
        if (entry.watcher && entry.generation == event.data.u64 >> 32) entry.watcher->on_ready(event.events);
    }

    void fire_timers() {
        const uint64_t first_new =
            next_timer;  // a timer armed by a timer waits for the next turn, even when due
        auto at = timers.begin();
        while (at != timers.end() && at->first.first <= time) {
            if (at->first.second >= first_new) {
                ++at;
                continue;
            }
            auto fire = std::move(at->second);
            deadlines.erase(at->first.second);
            timers.erase(at);
            fire();
            at = timers.begin();
        }
    }

    void run_deferred() {
        for (int round = 0; round < defer_rounds && !deferred.empty(); ++round) {
            running.swap(deferred);
            for (auto& task : running) task();
            running.clear();
        }
    }
};

EventLoop::EventLoop() : impl_(std::make_unique<Impl>()) {}
EventLoop::~EventLoop() = default;

bool EventLoop::watch(int fd, uint32_t epoll_events, Watcher* watcher) {
    return impl_->control(EPOLL_CTL_ADD, fd, epoll_events, watcher);
}
bool EventLoop::modify(int fd, uint32_t epoll_events, Watcher* watcher) {
    return impl_->control(EPOLL_CTL_MOD, fd, epoll_events, watcher);
}
void EventLoop::unwatch(int fd, Watcher* watcher) { impl_->drop(fd, watcher); }

uint64_t EventLoop::add_timer(Nanoseconds deadline, std::function<void()> fire) {
    const uint64_t id = impl_->next_timer++;
    impl_->timers.emplace(Impl::TimerKey{deadline, id}, std::move(fire));
    impl_->deadlines.emplace(id, deadline);
    return id;
}

void EventLoop::cancel_timer(uint64_t id) {
    const auto found = impl_->deadlines.find(id);
    if (found == impl_->deadlines.end()) return;
    impl_->timers.erase({found->second, id});
    impl_->deadlines.erase(found);
}

void EventLoop::spin(Nanoseconds duration) {
    impl_->spin_until = std::max(impl_->spin_until, impl_->time + duration);
}

void EventLoop::look_at(Poller* poller) { impl_->look_at(poller); }
void EventLoop::forget(Poller* poller) { impl_->forget(poller); }

void EventLoop::defer(std::function<void()> task) { impl_->deferred.push_back(std::move(task)); }
Nanoseconds EventLoop::now() const { return impl_->time; }

void EventLoop::run() {
    while (run_once(-1)) {
    }
}

bool EventLoop::run_once(int timeout_ms) {
    if (impl_->stopped) return false;
    std::array<epoll_event, 64> events;
    int count = impl_->look_awhile(events);
    if (count == 0) {
        if (impl_->sleep_time(timeout_ms) != 0) impl_->arm();
        count = epoll_wait(impl_->epoll, events.data(), static_cast<int>(events.size()),
                           impl_->sleep_time(timeout_ms));
    }
    impl_->time = monotonic_now();
    for (int i = 0; i < count; ++i) impl_->dispatch(events[static_cast<size_t>(i)]);
    impl_->tell_found();
    impl_->fire_timers();
    impl_->run_deferred();
    return !impl_->stopped;
}

void EventLoop::stop() { impl_->stopped = true; }

void EventLoop::wake() {
    const int saved = errno;  // a signal handler may call this
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(impl_->wakeup, &one, sizeof one);
    errno = saved;
}

}  // namespace smbdirect::fabric
