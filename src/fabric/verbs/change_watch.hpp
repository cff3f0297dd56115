// Tells when an RDMA device or an address of this host comes or goes.
#pragma once

#include <functional>

#include "fabric/event_loop.hpp"

namespace smbdirect::fabric::verbs {

class ChangeWatch final : private Watcher {
  public:
    ChangeWatch(EventLoop& loop, std::function<void()> on_change);
    ~ChangeWatch();
    ChangeWatch(const ChangeWatch&) = delete;
    ChangeWatch& operator=(const ChangeWatch&) = delete;

  private:
    void on_ready(uint32_t) override;
    int open(int protocol, uint32_t groups);

    EventLoop& loop_;
    const std::function<void()> on_change_;
    int devices_ = -1, addresses_ = -1;
    uint64_t timer_ = 0;
};

}  // namespace smbdirect::fabric::verbs
