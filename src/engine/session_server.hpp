// The engine's side of the session protocol (session/messages.hpp): one request and one reply a connection to the
// meeting socket. A client that is slow or talks nonsense holds up nobody but itself.
#pragma once

#include <map>
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

    Engine* const engine_;
    const int meeting_socket_;
    std::map<Client*, std::unique_ptr<Client>> clients_;
};

}  // namespace smbdirect::engine
