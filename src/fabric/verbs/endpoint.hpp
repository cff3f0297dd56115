// One RDMA connection over rdma-core: an rdma_cm_id with a reliable-connected queue pair.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "fabric/verbs/posted_sends.hpp"
#include "fabric/verbs/resources.hpp"

namespace smbdirect::fabric::verbs {

class VerbsEndpoint final : public Endpoint,
                            private CmHandler,
                            private DeviceUser,
                            private QueuePairOwner,
                            private Poller {
  public:
    explicit VerbsEndpoint(Core& core);
    ~VerbsEndpoint() override;

    // Active side: from `source`, an address of a device, to parameters.remote, whose port is the final one.
    Result<void> start_connecting(const ConnectParameters& parameters, const sockaddr_storage& source,
                                  EndpointEvents* events);
    // Passive side: a connection request; the identifier is ours from now on.
    Result<void> take_request(CmId id, const CmEvent& request, const QueueDepths& depths);

    Result<void> accept(const AcceptParameters& parameters, EndpointEvents* events) override;
    void reject(const PrivateData& data) override;
    Result<MemoryRegion> register_memory(std::byte* address, size_t length, uint32_t access) override;
    void deregister_memory(const MemoryRegion& region) override;
    Result<void> post_receive(uint64_t wr_id, std::span<const Sge> sges) override;
    Result<void> post_send(const SendRequest& request) override;
    void flush() override;
    void peer_is_own_kind() override { own_kind_ = true; }
    size_t poll(std::span<Completion> out) override;
    void disconnect() override;
    void abort() override;
    const Limits& limits() const override { return limits_; }
    sockaddr_storage local_address() const override { return local_; }
    sockaddr_storage remote_address() const override { return remote_; }
    const char* fabric_name() const override { return name_.c_str(); }
    uint64_t unacknowledged_bytes() const override { return bytes_outstanding_; }

  private:
    enum class Phase : uint8_t {
        setup,        // resolving, connecting, or not yet accepted
        established,  // sends may be posted
        closing,      // disconnect() was called: what was posted still goes out
        dead,         // nothing of the device is ours any more; what was outstanding is flushed
    };
    static constexpr size_t kMostSges = 4, kBatch = 32, kSignalEvery = 8;

    // connection management: endpoint.cpp
    void on_cm_event(const CmEvent&) override;
    CmId on_device_removed() override;
    Result<void> adopt(QueueDepths depths);
    Result<void> resolve_address();
    void on_address_error(int errnum);
    void connect();
    void connect_in_background(std::shared_ptr<struct ConnectCall> call);
    void become_established(const CmEvent& event);
    void await_first_message(Nanoseconds patience);
    void disconnect_now();
    void break_off(Error error);
    void die(Error error);
    void release();
    void deliver_later(std::function<void()> task);

    // work: endpoint_work.cpp
    void on_cq_event() override;
    void on_qp_async_event(ibv_event_type) override;
    bool look() override;
    bool arm() override;
    void on_found() override { on_completions(); }
    void on_completions();
    Result<void> check_send(const SendRequest& request, uint64_t length) const;
    void signal(size_t place_in_batch);
    bool post_batch();
    void take_hardware_completions();
    void take(const ibv_wc& completion);
    void complete(const PostedSend& posted, const ibv_wc& completion);
    bool post_own(ibv_send_wr work, Opcode opcode);
    bool post_reset();
    void post_empty_read();
    void on_flushed();
    void on_bad_completion(const ibv_wc& completion, Opcode opcode);
    void flush_outstanding();

    Core& core_;
    EndpointEvents* events_ = nullptr;
    Phase phase_ = Phase::setup;
    bool passive_ = false, armed_ = false, disconnect_sent_ = false;
    bool own_kind_ = false, resetting_ = false, reset_by_peer_ = false;
    bool waits_for_peer_ = false;  // iWARP, before the MPA Reply: destroying the identifier would block
    std::shared_ptr<struct ConnectCall> call_;  // runs in the background, as job_
    uint64_t job_ = 0;
    std::shared_ptr<Resources> resources_;
    ConnectParameters wanted_;
    Nanoseconds deadline_ = 0, unreachable_at_ = 0;  // of the connection, of resolving its address
    uint64_t timer_ = 0, first_message_timer_ = 0;
    bool has_received_ = false;
    Limits limits_;
    sockaddr_storage local_{}, remote_{};
    std::string name_ = "verbs";
    uint64_t next_region_ = 1;
    std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // expires with us: for deferred tasks

    // The batch that flush() hands over in one call.
    size_t batched_ = 0, signal_every_ = kSignalEvery;
    std::array<ibv_send_wr, kBatch> batch_{};
    std::array<std::array<ibv_sge, kMostSges>, kBatch> batch_sges_{};

    PostedSends sends_;
    std::deque<uint64_t> receives_;  // their wr_ids, oldest first
    std::deque<Completion> completed_;
    uint64_t bytes_outstanding_ = 0;
};

}  // namespace smbdirect::fabric::verbs
