// Accepts TCP connections, reads their MPA Requests, and hands them up as endpoints.
#pragma once

#include <list>

#include "fabric/iwarp/endpoint.hpp"

namespace smbdirect::fabric::iwarp {

class IwarpListener final : public Listener, private Watcher {
  public:
    IwarpListener(Core& core, ListenerEvents* events);
    ~IwarpListener() override;

    Result<void> start(const ListenParameters& parameters);

    sockaddr_storage local_address() const override { return local_address_of(fd()); }
    int fd() const override { return inherited_ >= 0 ? inherited_ : socket_.fd(); }

  private:
    class HalfOpen;  // a connection that owes its Request
    using HalfOpens = std::list<std::unique_ptr<HalfOpen>>;

    void on_ready(uint32_t events) override;
    void take(Socket socket);
    void pause();
    void make_room(const sockaddr_storage& peer);
    void drop(HalfOpen* connection);
    void on_request(HalfOpen* connection);

    Core& core_;
    ListenerEvents* events_;
    uint32_t send_queue_ = 0, receive_queue_ = 0;
    Socket socket_;
    int inherited_ = -1;
    uint64_t pause_timer_ = 0;
    HalfOpens half_open_;  // oldest first
};

}  // namespace smbdirect::fabric::iwarp
