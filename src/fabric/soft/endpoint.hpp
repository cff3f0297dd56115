// What the endpoints of the software fabrics have in common: memory regions, queues of posted work,
// completions, and events that are delivered from the loop.
#pragma once

#include <memory>
#include <optional>

#include "fabric/fabric.hpp"
#include "fabric/soft/region_table.hpp"
#include "fabric/soft/work_queues.hpp"

namespace smbdirect::fabric::soft {

class SoftEndpoint : public Endpoint {
  public:
    explicit SoftEndpoint(EventLoop& loop);
    ~SoftEndpoint() override;

    Result<MemoryRegion> register_memory(std::byte* address, size_t length, uint32_t access) override;
    void deregister_memory(const MemoryRegion& region) override;
    Result<void> post_receive(uint64_t wr_id, std::span<const Sge> sges) override;
    Result<void> post_send(const SendRequest& request) override;
    size_t poll(std::span<Completion> out) override;
    const Limits& limits() const override { return limits_; }
    sockaddr_storage local_address() const override { return local_; }
    sockaddr_storage remote_address() const override { return remote_; }
    void set_depths(uint32_t send_queue, uint32_t receive_queue);

  protected:
    enum class Phase : uint8_t {
        setup,  // not yet connected or accepted
        established,
        closing,  // disconnect() was called: what was posted still goes out
        dead,     // everything has been flushed
    };

    // Bytes of a region that was just deregistered must not be touched from now on.
    virtual void on_deregistered(std::span<std::byte>) {}

    void announce_established(std::span<const std::byte> peer_private_data);
    // Ends the endpoint: flushes all posted work and announces the error. Only the first call counts.
    void die(Error error);
    void set_events(EndpointEvents* events);

    void complete_receive(const PostedReceive& receive, uint32_t length, std::optional<uint32_t> invalidated);
    // Turns work that is done into completions, in posting order.
    void retire_sends();

    EventLoop& loop_;
    EndpointEvents* events_ = nullptr;
    Phase phase_ = Phase::setup;
    RegionTable regions_;
    Ring<SendWork> sends_;
    Ring<PostedReceive> receives_;
    Limits limits_;
    sockaddr_storage local_{}, remote_{};

  private:
    // Keeps a deferred delivery harmless when the endpoint is destroyed before it runs, or in one of its
    // callbacks.
    struct Delivery {
        SoftEndpoint* owner;
        bool scheduled = false;
    };
    static void run(Delivery& delivery);
    void schedule();
    bool has_news() const;
    void push_completion(const Completion& completion);
    static bool may_inline(const SendRequest& request, uint64_t length);
    Result<void> check_send(const SendRequest& request, uint64_t length) const;

    std::shared_ptr<Delivery> delivery_;
    Ring<Completion> completions_;
    PrivateData peer_private_;
    std::optional<Error> end_;
    bool established_news_ = false, end_news_ = false;
    bool completions_armed_ = true;  // on_completions() is due for the next completion
};

}  // namespace smbdirect::fabric::soft
