// The event loop on which fabrics and the engine run: epoll, monotonic timers, and tasks for "later in this
// turn". One thread runs a loop and everything that was registered with it; nothing here is thread-safe
// except wake().
#pragma once

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

// Looks for events that need no descriptor to be seen, while the loop spins.
class Poller {
  public:
    virtual void look() = 0;  // defers what it finds, which ends the spinning

  protected:
    ~Poller() = default;
};

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

    // Before it sleeps at the end of this turn, the loop looks for events for so long. For exchanges of small
    // messages, where waking up costs more than the work; to be asked for anew in every turn, so that an idle
    // loop never spins.
    void spin(Nanoseconds duration);
    void add_poller(Poller* poller);
    void remove_poller(Poller* poller);

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
