// Owners of what rdma-core hands out. Each is destroyed before what it was made from: endpoints declare them
// in that order (QP inside the identifier's scope, then CQ, regions, protection domain, identifier).
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>

namespace smbdirect::fabric::verbs {

template <auto destroy>
struct Destroyer {
    template <class T>
    void operator()(T* object) const {
        (void)destroy(object);  // fails only for a device that is gone, and there is nothing left to do then
    }
};

using CmId = std::unique_ptr<rdma_cm_id, Destroyer<rdma_destroy_id>>;
using EventChannel = std::unique_ptr<rdma_event_channel, Destroyer<rdma_destroy_event_channel>>;
using ProtectionDomain = std::unique_ptr<ibv_pd, Destroyer<ibv_dealloc_pd>>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, Destroyer<ibv_destroy_comp_channel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, Destroyer<ibv_destroy_cq>>;

}  // namespace smbdirect::fabric::verbs
