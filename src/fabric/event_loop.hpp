// The event loop on which fabrics and the engine run: epoll, monotonic timers, and tasks for "later in this
// turn". One thread runs a loop and everything that was registered with it; nothing here is thread-safe
// except wake().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace smbdirect::fabric {

using Nanoseconds = int64_t;  // CLOCK_MONOTONIC, since boot

// Receives the readiness of one fd. The object must outlive its registration; unwatch() may be called from
// inside on_ready(), also for other objects: a handler that was unwatched is never called again, even in the
// same turn.
class Watcher {
  public:
    virtual void on_ready(uint32_t epoll_events) = 0;

  protected:
    ~Watcher() = default;
};

// Something whose events are seen by a look at memory, and told by a descriptor only when that was asked for.
// Being told costs whoever causes the event a system call, and the loop a few: it is asked for only before
// the loop sleeps. To be forgotten (EventLoop::forget) before it goes.
class Poller {
  public:
    virtual bool look() = 0;      // whether there is something
    virtual bool arm() = 0;       // asks to be told from now on; whether there is something already
    virtual void on_found() = 0;  // called in the turn that follows, when one of the two said so

  protected:
    ~Poller() = default;

  private:
    friend class EventLoop;
    static constexpr size_t kNowhere = SIZE_MAX;
    size_t place_ = kNowhere;  // among those that the loop looks at
};

Nanoseconds monotonic_now();

class EventLoop {
  public:
    EventLoop();
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    // epoll_events as for epoll_ctl, EPOLLET allowed. One watcher an fd.
    bool watch(int fd, uint32_t epoll_events, Watcher* watcher);
    bool modify(int fd, uint32_t epoll_events, Watcher* watcher);
    void unwatch(int fd, Watcher* watcher);

    // One-shot timer. The returned id is never 0 and never reused; cancelling a fired or unknown id does
    // nothing.
    uint64_t add_timer(Nanoseconds deadline, std::function<void()> fire);
    void cancel_timer(uint64_t id);

    // Runs `task` in this turn, after the events already fetched, before sleeping. For work that should be
    // batched.
    void defer(std::function<void()> task);

    // Until so long after this turn's time the loop looks for events instead of sleeping, whatever comes
    // meanwhile. For exchanges of small messages, where waking up costs more than the work.
    void spin(Nanoseconds duration);

    // Looks at it in every turn, and arms it before the loop sleeps, which ends the looking. Again and again
    // while the loop spins.
    void look_at(Poller* poller);
    void forget(Poller* poller);

    Nanoseconds now() const;        // the time of this turn (refreshed once per wake-up)
    void run();                     // until stop()
    bool run_once(int timeout_ms);  // one turn; -1 waits for an event; false after stop()
    void stop();
    void wake();  // from any thread or signal handler: makes a sleeping loop take a turn

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace smbdirect::fabric
