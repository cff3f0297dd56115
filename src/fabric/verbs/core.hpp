// What all endpoints and listeners of the verbs fabric share: the event channel of the connection manager
// and the devices in use.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string_view>

#include "fabric/event_loop.hpp"
#include "fabric/fabric.hpp"
#include "fabric/verbs/background.hpp"
#include "fabric/verbs/handles.hpp"

namespace smbdirect::fabric::verbs {

// A connection manager event, copied: the original was acknowledged before anybody heard of it, so that
// whoever handles it may destroy the identifier.
struct CmEvent {
    rdma_cm_event_type type{};
    int status = 0;
    rdma_cm_id* id = nullptr;  // connect request: the new identifier, whose owner the handler becomes
    PrivateData private_data;
    uint8_t responder_resources = 0, initiator_depth = 0;
};

// The context of an rdma_cm_id. The removal of its device is not for it: Device::remove() tells all users.
class CmHandler {
  public:
    virtual void on_cm_event(const CmEvent&) = 0;

  protected:
    ~CmHandler() = default;
};

// Uses a device, and lets go of everything of it when told. Its identifier it hands over where it has one
// still: with the last of them librdmacm may close the device, which is too early then.
class DeviceUser {
  public:
    virtual CmId on_device_removed() = 0;

  protected:
    ~DeviceUser() = default;
};

// Whom the completion channel of a device and its asynchronous events concern.
class QueuePairOwner {
  public:
    virtual void on_cq_event() = 0;
    virtual void on_qp_async_event(ibv_event_type) = 0;

  protected:
    ~QueuePairOwner() = default;
};

class Core;

// An opened device: its completion channel, its asynchronous events, and who uses it.
class Device final : public std::enable_shared_from_this<Device>, private Watcher {
  public:
    Device(Core& core, ibv_context* context);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    Result<void> open();
    ibv_context* context() const { return context_; }
    const char* name() const { return ibv_get_device_name(context_->device); }
    bool is_iwarp() const { return context_->device->transport_type == IBV_TRANSPORT_IWARP; }
    bool is_siw() const;
    const ibv_device_attr& attributes() const { return attributes_; }
    uint32_t max_message() const { return max_message_; }
    ibv_comp_channel* completion_channel() const { return completions_.get(); }

    void add_user(DeviceUser* user) { users_.insert(user); }
    void remove_user(DeviceUser* user) { users_.erase(user); }
    // It goes away: everybody lets go of it, then we do. The kernel waits for that.
    void remove();
    void take_async_events();

  private:
    void on_ready(uint32_t) override;
    void take_cq_events();
    void sever();
    void fill_gap_of_siw();

    Core& core_;
    ibv_context* const context_;
    ibv_device_attr attributes_{};
    uint32_t max_message_ = 0;
    CompletionChannel completions_;
    CompletionQueue placeholder_;
    std::set<DeviceUser*> users_;
    bool removed_ = false;
};

class Core final : private Watcher {
  public:
    explicit Core(EventLoop& loop);
    ~Core();
    Core(const Core&) = delete;
    Core& operator=(const Core&) = delete;

    // Both fail with Reason::fabric_unavailable as long as the host has no RDMA device, or without rdma_ucm.
    Result<void> open_channel();
    Result<CmId> create_id(CmHandler* handler);
    // Of an identifier that is bound to a device.
    Result<std::shared_ptr<Device>> device_of(const rdma_cm_id* id);

    void forget(const Device* device);
    void remove_device(std::string_view uverbs_name);

    // Called when addresses may have become usable, or stopped being so.
    std::function<void()> on_addresses_may_have_changed;

    EventLoop& loop;

  private:
    void on_ready(uint32_t) override;

    EventChannel channel_;
    std::map<ibv_context*, std::weak_ptr<Device>> devices_;

  public:
    Background background;  // last: what runs there uses the channel
};

// The bytes that this process may lock in memory, by RLIMIT_MEMLOCK. That CAP_IPC_LOCK is above it holds
// neither in a user namespace nor for the siw of older kernels; who has it raises the limit (monitor.cpp).
uint64_t lockable_bytes();

// What a call of rdma-core that failed with this errno means to somebody who waits for memory or a queue.
Error resource_error(int errnum);

}  // namespace smbdirect::fabric::verbs
