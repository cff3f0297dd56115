// All that one connection has of a device, destroyed together and in the only order that works.
#pragma once

#include <map>
#include <memory>

#include "fabric/verbs/core.hpp"
#include "fabric/verbs/handles.hpp"

namespace smbdirect::fabric::verbs {

struct QueueDepths {
    uint32_t send = 256, receive = 256;
};

struct Resources {
    CmId id;
    std::shared_ptr<Device> device;
    ProtectionDomain protection_domain;  // of this connection alone: keys of one peer are unknown to others
    CompletionQueue completion_queue;
    std::map<uint64_t, ibv_mr*> regions;  // by handle
    ibv_qp_cap capabilities{};            // what the queue pair really has

    Resources() = default;
    ~Resources() { destroy(); }
    Resources(const Resources&) = delete;
    Resources& operator=(const Resources&) = delete;

    // Of an identifier that is bound to a device. Depths and inline size shrink to what the device can do.
    Result<void> create_queue_pair(Core& core, const QueueDepths& wanted, QueuePairOwner* owner);
    // Events that are still under way find nobody.
    void detach();
    // Everything but the device, which belongs to the loop's thread. After this the hardware touches nothing.
    void destroy();

    ibv_qp* queue_pair() const { return id ? id->qp : nullptr; }
};

}  // namespace smbdirect::fabric::verbs
