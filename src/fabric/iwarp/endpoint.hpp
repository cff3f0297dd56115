// One iWARP connection.
#pragma once

#include "fabric/iwarp/connector.hpp"
#include "fabric/soft/endpoint.hpp"

namespace smbdirect::fabric::iwarp {

class IwarpEndpoint final : public soft::SoftEndpoint,
                            private Watcher,
                            private ByteSource,
                            private ByteSink,
                            private ReceiverEvents {
  public:
    explicit IwarpEndpoint(Core& core);
    ~IwarpEndpoint() override;

    // Active side.
    Result<void> start_connecting(const ConnectParameters& parameters, EndpointEvents* events);
    // Passive side: a connection whose Request is there. Its private data lives in `request_bytes`.
    void take_request(Socket socket, std::span<const std::byte> request_bytes);
    const wire::MpaFrame& request() const { return request_; }

    Result<void> accept(const AcceptParameters& parameters, EndpointEvents* events) override;
    void reject(const PrivateData& data) override;
    void peer_is_own_kind() override;
    void flush() override;
    void disconnect() override;
    void abort() override;
    const char* fabric_name() const override { return "iwarp"; }
    uint64_t unacknowledged_bytes() const override;

  private:
    // How the socket goes.
    enum class Parting : uint8_t { fin, reset };

    void on_ready(uint32_t events) override;
    ssize_t read_bytes(const iovec* iov, int count) override;
    ssize_t write_bytes(const iovec* iov, int count) override;
    void on_message(const soft::PostedReceive& receive, uint32_t length,
                    std::optional<uint32_t> invalidated) override;
    void on_read_done(uint64_t work) override;
    void on_read_requested() override {}
    void on_deregistered(std::span<std::byte> region) override { transmitter_.on_deregistered(region); }

    void on_connected(Result<Connected> result);
    void begin_stream(const Agreement& agreement);
    void set_mulpdu(uint32_t mulpdu);
    void watch(uint32_t events);
    void read();
    void write();
    void on_end_of_stream();
    void on_fault(const Fault& fault, std::span<const std::byte> header);
    void on_peer_terminate();
    void send_reply(const wire::MpaFrame& reply);
    void part(Error error, Parting how);

    Core& core_;
    std::unique_ptr<Connector> connector_;
    Socket socket_;
    uint64_t close_timer_ = 0;
    uint32_t watched_ = 0;  // epoll events
    std::array<std::byte, wire::mpa_max_frame> request_bytes_;
    wire::MpaFrame request_;
    bool passive_ = false, streaming_ = false;
    bool blocked_ = false;  // the socket is full: EPOLLOUT is awaited
    Stream stream_;
    Receiver receiver_;
    Transmitter transmitter_;
};

}  // namespace smbdirect::fabric::iwarp
