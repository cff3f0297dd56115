// Tells when an RDMA device or an address of this host comes or goes.
#pragma once

#include <functional>
#include <string_view>

#include "fabric/event_loop.hpp"

namespace smbdirect::fabric::verbs {

class ChangeEvents {
  public:
    virtual void on_change() = 0;
    // The kernel is taking away the device whose character device has this name ("uverbs0"). Drivers that
    // cannot part with an opened device (rxe, siw) make it wait there until all have closed it, and say so in
    // no other way when ib_uverbs was loaded after rdma_cm.
    virtual void on_removal(std::string_view uverbs_name) = 0;

  protected:
    ~ChangeEvents() = default;
};

class ChangeWatch final : private Watcher {
  public:
    ChangeWatch(EventLoop& loop, ChangeEvents* events);
    ~ChangeWatch();
    ChangeWatch(const ChangeWatch&) = delete;
    ChangeWatch& operator=(const ChangeWatch&) = delete;

  private:
    void on_ready(uint32_t) override;
    bool take_uevent(std::string_view uevent);
    void look_later();
    int open(int protocol, uint32_t groups);

    EventLoop& loop_;
    ChangeEvents* const events_;
    int devices_ = -1, addresses_ = -1;
    uint64_t timer_ = 0;
};

}  // namespace smbdirect::fabric::verbs
