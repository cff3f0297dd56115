// Calls that may block, each on a thread of its own: siw makes its TCP connection inside rdma_connect(), and
// destroying an iWARP identifier that still waits for the peer's MPA Reply waits for it as well.
#pragma once

#include <pthread.h>

#include <functional>
#include <list>
#include <memory>
#include <thread>

#include "fabric/event_loop.hpp"

namespace smbdirect::fabric::verbs {

class Background final : private Watcher {
  public:
    explicit Background(EventLoop& loop);
    ~Background();  // interrupts what still runs, and waits for it
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    // Runs `work` on a thread; afterwards `done` on the loop's. The number identifies the job; 0: no thread
    // could be had, and nothing was or will be called.
    uint64_t run(std::function<void()> work, std::function<void()> done);
    // Makes every system call that the job sleeps in return with EINTR, until it has finished.
    void interrupt(uint64_t job);

  private:
    struct Job;
    void on_ready(uint32_t) override;

    EventLoop& loop_;
    int finished_fd_ = -1;
    uint64_t last_job_ = 0;
    std::list<std::unique_ptr<Job>> jobs_;
    std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // expires with us: for timers
};

}  // namespace smbdirect::fabric::verbs
