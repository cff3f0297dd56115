// The engine's side of the session protocol (session/messages.hpp): one request and one reply a connection to
// the meeting socket. A client has two seconds to ask, and one user only so many of them at once, so that who
// is slow or talks nonsense holds up nobody else.
#pragma once

#include <list>
#include <memory>

#include "engine/engine.hpp"

namespace smbdirect::engine {

class SessionServer final : public fabric::Watcher {
  public:
    // meeting_socket stays the caller's.
    SessionServer(Engine*, int meeting_socket);
    ~SessionServer();
    void on_ready(uint32_t epoll_events) override;

  private:
    class Client;
    void forget(Client*);
    bool make_room(uid_t uid);
    void pause();

    Engine* const engine_;
    const int meeting_socket_;
    std::list<std::unique_ptr<Client>> clients_;  // the oldest first
    uint64_t pause_timer_ = 0;
};

}  // namespace smbdirect::engine
