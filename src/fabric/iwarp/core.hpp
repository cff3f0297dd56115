// What all streams, listeners and connectors of one iwarp fabric share.
#pragma once

#include <memory>
#include <unordered_map>

#include "fabric/iwarp/receiver.hpp"
#include "fabric/iwarp/socket.hpp"
#include "fabric/iwarp/transmitter.hpp"

namespace smbdirect::fabric::iwarp {

// Sockets after our FIN: what the peer still sends is read and thrown away until it closes too, because
// closing with unread bytes would send RST, and that may destroy our last FPDU or Terminate on its way (RFC
// 5040 6.2.2).
class Lingerer {
  public:
    Lingerer(EventLoop& loop, Nanoseconds patience);
    ~Lingerer();

    // Sends FIN and takes the socket.
    void take(Socket socket);
    size_t size() const { return waiting_.size(); }

  private:
    class Waiting;
    void done(int fd);

    EventLoop& loop_;
    Nanoseconds patience_;
    std::unordered_map<int, std::unique_ptr<Waiting>> waiting_;
};

struct Core {
    Core(EventLoop& event_loop, const Settings& wanted)
        : loop(event_loop), settings(wanted), lingerer(event_loop, wanted.linger) {}

    EventLoop& loop;
    const Settings settings;
    Lingerer lingerer;
    BatchPool batches;
    std::unique_ptr<ReceiveStaging> staging = std::make_unique<ReceiveStaging>();
};

}  // namespace smbdirect::fabric::iwarp
