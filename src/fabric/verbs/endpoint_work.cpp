// Work requests and completions.
#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "fabric/verbs/endpoint.hpp"

namespace smbdirect::fabric::verbs {
namespace {

constexpr uint32_t kHeaderOnly = 24;  // bytes of a message without payload, at the most [MS-SMBD] 2.2.3
constexpr uint64_t kReceiveWork = UINT64_MAX;  // receives complete in order; sends have their number

ibv_wr_opcode hardware_opcode(Opcode opcode) {
    switch (opcode) {
        case Opcode::send_with_invalidate:
            return IBV_WR_SEND_WITH_INV;
        case Opcode::rdma_write:
            return IBV_WR_RDMA_WRITE;
        case Opcode::rdma_read:
            return IBV_WR_RDMA_READ;
        default:
            return IBV_WR_SEND;
    }
}

Status status_of(ibv_wc_status status) {
    switch (status) {
        case IBV_WC_SUCCESS:
            return Status::success;
        case IBV_WC_WR_FLUSH_ERR:
            return Status::flushed;
        case IBV_WC_REM_ACCESS_ERR:
            return Status::remote_access_error;
        case IBV_WC_REM_INV_REQ_ERR:
        case IBV_WC_REM_OP_ERR:
        case IBV_WC_REM_ABORT_ERR:
        case IBV_WC_RETRY_EXC_ERR:
        case IBV_WC_RNR_RETRY_EXC_ERR:
            return Status::remote_error;
        default:
            return Status::local_error;
    }
}

// Why the connection ends, as TCP would say it.
Error reason_of(ibv_wc_status status, Opcode opcode) {
    switch (status) {
        case IBV_WC_RETRY_EXC_ERR:
        case IBV_WC_RNR_RETRY_EXC_ERR:
            return {Reason::transport_timeout, ETIMEDOUT};
        case IBV_WC_LOC_LEN_ERR:
            if (opcode == Opcode::receive) return {Reason::receive_overrun, ECONNRESET};
            return {Reason::transport_error, ECONNRESET};
        case IBV_WC_REM_ACCESS_ERR:
            return {Reason::remote_access_violation, ECONNRESET};
        default:
            return {Reason::transport_error, ECONNRESET};
    }
}

uint64_t total_of(std::span<const Sge> sges) {
    uint64_t total = 0;
    for (const Sge& sge : sges) total += sge.length;
    return total;
}

size_t fill(std::span<const Sge> sges, std::span<ibv_sge> out) {
    size_t count = 0;
    for (const Sge& sge : sges)
        if (sge.length) out[count++] = {reinterpret_cast<uint64_t>(sge.address), sge.length, sge.lkey};
    return count;
}

}  // namespace

// ---------------------------------------------------------------- memory

Result<MemoryRegion> VerbsEndpoint::register_memory(std::byte* address, size_t length, uint32_t access) {
    if (phase_ == Phase::dead) return fail(Reason::transport_error, ENOTCONN);
    int flags = IBV_ACCESS_LOCAL_WRITE;
    if (access & access_remote_read) flags |= IBV_ACCESS_REMOTE_READ;
    if (access & access_remote_write) flags |= IBV_ACCESS_REMOTE_WRITE;
    // RFC 5040 5.1: on iWARP the response to a read is a tagged write, which the sink must allow.
    if ((access & access_read_sink) && resources_->device->is_iwarp()) flags |= IBV_ACCESS_REMOTE_WRITE;
    ibv_mr* region = ibv_reg_mr(resources_->protection_domain.get(), address, length, flags);
    if (!region) return std::unexpected(resource_error(errno));
    const uint64_t handle = next_region_++;
    resources_->regions[handle] = region;
    return MemoryRegion{handle, region->lkey, region->rkey, reinterpret_cast<uint64_t>(address), length};
}

void VerbsEndpoint::deregister_memory(const MemoryRegion& region) {
    if (!resources_) return;  // went with everything else
    auto found = resources_->regions.find(region.handle);
    if (found == resources_->regions.end()) return;
    ibv_dereg_mr(found->second);
    resources_->regions.erase(found);
}

// ---------------------------------------------------------------- posting

Result<void> VerbsEndpoint::post_receive(uint64_t wr_id, std::span<const Sge> sges) {
    if (phase_ == Phase::dead) return fail(Reason::transport_error, ENOTCONN);
    if (sges.size() > limits_.max_sge) return fail(Reason::transport_error, EINVAL);
    if (receives_.size() >= limits_.max_recv_wr) return fail(Reason::transport_error, ENOBUFS);
    std::array<ibv_sge, kMostSges> list;
    ibv_recv_wr request{}, *bad = nullptr;
    request.wr_id = kReceiveWork;
    request.sg_list = list.data();
    request.num_sge = static_cast<int>(fill(sges, list));
    // Some providers answer with a negative errno.
    if (const int error = std::abs(ibv_post_recv(resources_->queue_pair(), &request, &bad)); error != 0)
        return fail(Reason::transport_error, error == ENOMEM ? ENOBUFS : error);
    receives_.push_back(wr_id);
    return {};
}

Result<void> VerbsEndpoint::check_send(const SendRequest& request, uint64_t length) const {
    if (phase_ != Phase::established) return fail(Reason::transport_error, ENOTCONN);
    const bool reads = request.opcode == Opcode::rdma_read;
    if (request.opcode == Opcode::receive || length > limits_.max_message ||
        request.sges.size() > (reads ? limits_.max_read_sge : limits_.max_sge) ||
        (reads && limits_.max_ord == 0) ||
        (request.opcode == Opcode::send_with_invalidate && !limits_.send_with_invalidate))
        return fail(Reason::transport_error, EINVAL);
    const bool inlined = !reads && length <= limits_.max_inline;
    for (const Sge& sge : request.sges)
        if (sge.lkey == 0 && sge.length && !inlined) return fail(Reason::transport_error, EINVAL);
    if (sends_.size() >= limits_.max_send_wr) return fail(Reason::transport_error, ENOBUFS);
    return {};
}

Result<void> VerbsEndpoint::post_send(const SendRequest& request) {
    const uint64_t length = total_of(request.sges);
    if (auto checked = check_send(request, length); !checked) return checked;
    const bool inlined = request.opcode != Opcode::rdma_read && length <= limits_.max_inline;
    const bool unregistered =
        std::any_of(request.sges.begin(), request.sges.end(), [](const Sge& sge) { return sge.lkey == 0; });
    if (batched_ == kBatch && !post_batch()) return fail(Reason::transport_error, ENOTCONN);
    auto& list = batch_sges_[batched_];
    auto& work = batch_[batched_];
    work = {};
    work.wr_id = sends_.next_number();
    work.opcode = hardware_opcode(request.opcode);
    work.sg_list = list.data();
    work.num_sge = static_cast<int>(fill(request.sges, list));
    if (inlined && length) work.send_flags |= IBV_SEND_INLINE;
    if (request.opcode == Opcode::send_with_invalidate) {
        work.invalidate_rkey = request.invalidate_rkey;
        work.wr.rdma.rkey = request.invalidate_rkey;  // libsiw takes it from here; nobody else looks
    }
    if (request.opcode == Opcode::rdma_write || request.opcode == Opcode::rdma_read)
        work.wr.rdma = {request.remote_offset, request.remote_rkey};
    ++batched_;
    sends_.push({request.wr_id, request.opcode, static_cast<uint32_t>(length)});
    if (request.opcode == Opcode::rdma_read || batched_ % signal_every_ == 0) signal(batched_ - 1);
    bytes_outstanding_ += length;
    // Memory without a registration is the caller's again when this returns: the post copies it.
    if (unregistered && !post_batch()) return fail(Reason::transport_error, ENOTCONN);
    return {};
}

void VerbsEndpoint::flush() { post_batch(); }

bool VerbsEndpoint::post_own(ibv_send_wr work, Opcode opcode) {
    if (phase_ == Phase::dead || sends_.size() >= limits_.max_send_wr || !post_batch()) return false;
    ibv_send_wr* bad = nullptr;
    work.wr_id = sends_.next_number();
    work.opcode = hardware_opcode(opcode);
    work.send_flags = IBV_SEND_SIGNALED;
    if (ibv_post_send(resources_->queue_pair(), &work, &bad) != 0) return false;
    sends_.push({.wr_id = 0, .opcode = opcode, .length = 0, .is_own = true, .is_signaled = true});
    return true;
}

bool VerbsEndpoint::post_reset() { return post_own({}, Opcode::send); }

// The frame with which siw itself shows readiness under RFC 6581: of no bytes, so that its key means nothing.
void VerbsEndpoint::post_empty_read() {
    if (limits_.max_ord == 0 || resources_->regions.empty()) return;
    const ibv_mr& region = *resources_->regions.begin()->second;
    ibv_sge nowhere{reinterpret_cast<uint64_t>(region.addr), 0, region.lkey};
    ibv_send_wr work{};
    work.sg_list = &nowhere;
    work.num_sge = 1;
    work.wr.rdma.rkey = 1;
    post_own(work, Opcode::rdma_read);
}

void VerbsEndpoint::signal(size_t place_in_batch) {
    batch_[place_in_batch].send_flags |= IBV_SEND_SIGNALED;
    sends_.from_last(batched_ - 1 - place_in_batch).is_signaled = true;
}

// One in so many, and the last one of a batch, tells of its completion, which is that of those before it as
// well. So does the last one with a payload: a peer that has it may leave, and never acknowledge the grant
// behind it. False: the queue pair refused it, and the endpoint has died of that.
bool VerbsEndpoint::post_batch() {
    if (batched_ == 0) return true;
    if (phase_ == Phase::dead) return false;
    for (size_t i = 0; i + 1 < batched_; ++i) batch_[i].next = &batch_[i + 1];
    batch_[batched_ - 1].next = nullptr;
    signal(batched_ - 1);
    for (size_t i = batched_; i-- > 0;)
        if (sends_.from_last(batched_ - 1 - i).length > kHeaderOnly) {
            signal(i);
            break;
        }
    batched_ = 0;
    ibv_send_wr* bad = nullptr;
    const int error = ibv_post_send(resources_->queue_pair(), batch_.data(), &bad);
    if (error == 0) return true;
    die({Reason::transport_error, ECONNRESET});  // what was not taken is flushed with the rest
    return false;
}

// ---------------------------------------------------------------- completions

void VerbsEndpoint::on_cq_event() {
    armed_ = false;
    on_completions();
}

void VerbsEndpoint::on_completions() {
    if (events_) events_->on_completions();
}

bool VerbsEndpoint::look() {
    take_hardware_completions();
    return !completed_.empty();
}

// Armed first, looked at then: a completion between the two would tell nobody.
bool VerbsEndpoint::arm() {
    armed_ = ibv_req_notify_cq(resources_->completion_queue.get(), 0) == 0;
    if (!armed_) deliver_later([this] { break_off({Reason::transport_error, ECONNRESET}); });
    return look();
}

size_t VerbsEndpoint::poll(std::span<Completion> out) {
    size_t count = 0;
    for (;;) {
        for (; count < out.size() && !completed_.empty(); ++count) {
            out[count] = completed_.front();
            completed_.pop_front();
        }
        if (count == out.size() || phase_ == Phase::dead) break;
        take_hardware_completions();
        if (completed_.empty()) break;
    }
    // Whoever had no room for all of it comes again by itself.
    if (count < out.size() && !armed_ && phase_ != Phase::dead) core_.loop.look_at(this);
    return count;
}

void VerbsEndpoint::take_hardware_completions() {
    std::array<ibv_wc, 32> batch;
    int count = 0;
    do {
        if (!resources_ || !resources_->completion_queue) return;
        count = ibv_poll_cq(resources_->completion_queue.get(), batch.size(), batch.data());
        for (int i = 0; i < count; ++i) take(batch[static_cast<size_t>(i)]);
    } while (count == static_cast<int>(batch.size()));
    if (phase_ == Phase::closing && sends_.empty()) disconnect_now();
}

// What was flushed already, by us, is in no queue any more.
void VerbsEndpoint::take(const ibv_wc& completion) {
    if (completion.wr_id == kReceiveWork) {
        has_received_ = true;
        if (receives_.empty()) return;
        const PostedSend posted{receives_.front(), Opcode::receive, 0};
        receives_.pop_front();
        return complete(posted, completion);
    }
    sends_.complete(completion);
    while (const auto posted = sends_.take_completed()) complete(*posted, *posted->completion);
}

void VerbsEndpoint::complete(const PostedSend& posted, const ibv_wc& completion) {
    if (posted.opcode != Opcode::receive) bytes_outstanding_ -= posted.length;
    if (posted.is_own) return;
    Completion out{.wr_id = posted.wr_id, .opcode = posted.opcode, .status = status_of(completion.status)};
    if (out.status == Status::success) {
        if (posted.opcode == Opcode::receive || posted.opcode == Opcode::rdma_read)
            out.byte_length = posted.opcode == Opcode::receive ? completion.byte_len : posted.length;
        if (own_kind_ && posted.opcode == Opcode::receive && completion.byte_len == 0) {  // its abort()
            completed_.push_back({.wr_id = posted.wr_id, .opcode = posted.opcode, .status = Status::flushed});
            reset_by_peer_ = true;
            return deliver_later([this] { break_off({Reason::peer_reset, ECONNRESET}); });
        }
        if (posted.opcode == Opcode::receive && (completion.wc_flags & IBV_WC_WITH_INV)) {
            out.invalidated = true;
            out.invalidated_rkey = completion.invalidated_rkey;
        }
    }
    completed_.push_back(out);
    if (out.status == Status::flushed)
        on_flushed();
    else if (out.status != Status::success)
        on_bad_completion(completion, posted.opcode);
}

// The queue pair is in error. Mostly the connection manager is about to say why; but rxe gives up a queue
// pair whose packet its own network device refused (no carrier), and says nothing else.
void VerbsEndpoint::on_flushed() {
    constexpr Nanoseconds kPatience = 500'000'000;
    if (timer_ || disconnect_sent_ || (phase_ != Phase::established && phase_ != Phase::closing)) return;
    timer_ = core_.loop.add_timer(core_.loop.now() + kPatience, [this] {
        timer_ = 0;
        break_off({Reason::transport_error, ECONNRESET});
    });
}

// The queue pair is in error, which the peer does not know: tell it, and the owner.
void VerbsEndpoint::on_bad_completion(const ibv_wc& completion, Opcode opcode) {
    deliver_later([this, error = reason_of(completion.status, opcode)] { break_off(error); });
}

void VerbsEndpoint::on_qp_async_event(ibv_event_type type) {
    if (phase_ == Phase::dead) return;
    if (type == IBV_EVENT_COMM_EST) {  // the peer's first message overtook the last of the handshake
        rdma_notify(resources_->id.get(), type);
        return;
    }
    const bool access = type == IBV_EVENT_QP_ACCESS_ERR;
    break_off({access ? Reason::remote_access_violation : Reason::transport_error, ECONNRESET});
}

void VerbsEndpoint::flush_outstanding() {
    while (!sends_.empty()) {
        const PostedSend posted = sends_.take();
        if (posted.is_own) continue;
        const Status status = posted.completion ? status_of(posted.completion->status) : Status::flushed;
        completed_.push_back({.wr_id = posted.wr_id, .opcode = posted.opcode, .status = status});
    }
    for (const uint64_t wr_id : receives_)
        completed_.push_back({.wr_id = wr_id, .opcode = Opcode::receive, .status = Status::flushed});
    receives_.clear();
    bytes_outstanding_ = 0;
    batched_ = 0;
}

}  // namespace smbdirect::fabric::verbs
