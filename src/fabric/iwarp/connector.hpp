// The initiator's way to a stream: TCP connect, MPA Request, MPA Reply, all within one time limit.
#pragma once

#include <array>
#include <functional>

#include "fabric/iwarp/core.hpp"

namespace smbdirect::fabric::iwarp {

struct Connected {
    Socket socket;
    Agreement agreement;
    PrivateData peer;
};

class Connector final : public Watcher {
  public:
    // Called once from the loop; it may destroy the connector.
    using Done = std::function<void(Result<Connected>)>;

    Connector(Core& core, const ConnectParameters& parameters, Done done);
    ~Connector();
    Connector(const Connector&) = delete;

    // What fails at once is returned, and `done` is not called.
    Result<void> start();
    sockaddr_storage local_address() const { return local_address_of(socket_.fd()); }

  private:
    enum class Step : uint8_t { connecting, awaiting_reply };

    void on_ready(uint32_t events) override;
    Result<void> open();
    void send_request();
    void arm_reply_timer();
    void read_reply();
    void on_reply(const wire::MpaFrame& reply);
    // The peer closed without a word: an RFC 5044 one may do so on revision 2.
    void on_silent_close(int errnum);
    void finish(Result<Connected> result);
    void close();

    Core& core_;
    ConnectParameters parameters_;
    Done done_;
    Socket socket_;
    Step step_ = Step::connecting;
    Wishes wishes_;
    uint8_t revision_;
    uint64_t timer_ = 0;
    Nanoseconds deadline_ = 0;
    std::array<std::byte, wire::mpa_max_frame> buffer_;
    size_t have_ = 0;
};

}  // namespace smbdirect::fabric::iwarp
