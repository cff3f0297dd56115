// A loopback TCP connection that makes a program's listener readable for an SMBDIRECT arrival.
#pragma once

#include "engine/listeners.hpp"

namespace smbdirect::engine {

class Knock final : public fabric::Watcher {
  public:
    Knock(ListenerTable* table, ProgramListener* listener, Driver* driver);
    ~Knock();

    // Publishes the source address, then connects. ENOBUFS: the table is full.
    Result<void> start(fabric::EventLoop*, const sockaddr_storage& listener_address);
    void on_ready(uint32_t epoll_events) override;

    Driver* driver() const { return driver_; }
    ProgramListener* listener() const { return listener_; }
    uint64_t ticket() const { return ticket_; }

  private:
    Result<void> publish();

    ListenerTable* const table_;
    ProgramListener* const listener_;
    Driver* const driver_;
    fabric::EventLoop* loop_ = nullptr;
    session::KnockEntry* entry_ = nullptr;
    uint64_t ticket_ = 0;
    int socket_ = -1;
    bool connected_ = false;
};

}  // namespace smbdirect::engine
