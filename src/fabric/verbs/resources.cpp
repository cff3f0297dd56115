#include "fabric/verbs/resources.hpp"

#include <algorithm>
#include <cerrno>

namespace smbdirect::fabric::verbs {
namespace {

// A send is a header and a payload that may lie in two pieces; a receive is a header and a slot.
constexpr uint32_t kSendSges = 3, kReceiveSges = 2, kWantedSges = 4;
constexpr uint32_t kWantedInline = 256;  // a small SMB request with its header
constexpr uint32_t kLeastDepth = 16;

ibv_qp_init_attr attributes_for(const ibv_device_attr& device, const QueueDepths& depths, ibv_cq* queue) {
    ibv_qp_init_attr attributes{};
    const auto most_wr = static_cast<uint32_t>(std::max(device.max_qp_wr, 1));
    const auto most_sge = static_cast<uint32_t>(std::max(device.max_sge, 1));
    attributes.send_cq = attributes.recv_cq = queue;
    attributes.qp_type = IBV_QPT_RC;
    attributes.cap.max_send_wr = std::min(depths.send, most_wr);
    attributes.cap.max_recv_wr = std::min(depths.receive, most_wr);
    attributes.cap.max_send_sge = attributes.cap.max_recv_sge = std::min(kWantedSges, most_sge);
    attributes.cap.max_inline_data = kWantedInline;
    return attributes;
}

}  // namespace

Result<void> Resources::create_queue_pair(Core& core, const QueueDepths& wanted, QueuePairOwner* owner) {
    auto opened = core.device_of(id.get());
    if (!opened) return std::unexpected(opened.error());
    device = *opened;
    const auto& limits = device->attributes();
    if (static_cast<uint32_t>(limits.max_sge) < kSendSges) return fail(Reason::rdma_resources, EOPNOTSUPP);
    static_assert(kReceiveSges <= kSendSges);
    protection_domain.reset(ibv_alloc_pd(id->verbs));
    if (!protection_domain) return std::unexpected(resource_error(errno));
    const auto entries = std::min(static_cast<int>(wanted.send + wanted.receive + 1), limits.max_cqe);
    errno = ENOMEM;  // not every provider says why
    completion_queue.reset(ibv_create_cq(id->verbs, entries, owner, device->completion_channel(), 0));
    if (!completion_queue) return std::unexpected(resource_error(errno));

    // What a device announces is not always what one queue pair can have: some take the inline size from
    // the elements, some round the depths up beyond their own limit.
    auto attributes = attributes_for(limits, wanted, completion_queue.get());
    attributes.qp_context = owner;
    auto attempt = attributes;
    while (rdma_create_qp(id.get(), protection_domain.get(), &attempt) != 0) {
        auto& cap = attributes.cap;
        const bool shrinkable = errno == EINVAL || errno == ENOMEM || errno == ENOSPC;
        if (shrinkable && cap.max_inline_data > 0)
            cap.max_inline_data = cap.max_inline_data > 64 ? 64 : 0;
        else if (shrinkable && std::max(cap.max_send_wr, cap.max_recv_wr) > kLeastDepth)
            cap.max_send_wr = std::max(cap.max_send_wr / 2, kLeastDepth),
            cap.max_recv_wr = std::max(cap.max_recv_wr / 2, kLeastDepth);
        else
            return std::unexpected(resource_error(errno));
        attempt = attributes;
    }
    capabilities = attempt.cap;
    // What was rounded up is not ours to use: the completion queue has room for what was asked.
    capabilities.max_send_wr = attributes.cap.max_send_wr;
    capabilities.max_recv_wr = attributes.cap.max_recv_wr;
    return {};
}

void Resources::detach() {
    if (id) id->context = nullptr;
    if (completion_queue) completion_queue->cq_context = nullptr;
    if (queue_pair()) queue_pair()->qp_context = nullptr;
}

void Resources::destroy() {
    if (queue_pair()) rdma_destroy_qp(id.get());
    completion_queue.reset();
    for (auto& [handle, region] : regions) ibv_dereg_mr(region);
    regions.clear();
    protection_domain.reset();
    id.reset();
}

}  // namespace smbdirect::fabric::verbs
