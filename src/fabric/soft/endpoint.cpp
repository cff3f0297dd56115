#include "fabric/soft/endpoint.hpp"

#include <limits>
#include <memory>

namespace smbdirect::fabric::soft {

SoftEndpoint::SoftEndpoint(EventLoop& loop)
    : loop_(loop),
      delivery_(std::make_shared<Delivery>(Delivery{this})),
      completions_(std::numeric_limits<size_t>::max()) {
    limits_.max_sge = limits_.max_read_sge = max_sge;
    limits_.max_inline = max_inline;
    limits_.send_with_invalidate = true;
    limits_.remote_invalidate_registered = true;
    set_depths(max_queue_depth, max_queue_depth);
}

SoftEndpoint::~SoftEndpoint() { delivery_->owner = nullptr; }

void SoftEndpoint::set_depths(uint32_t send_queue, uint32_t receive_queue) {
    limits_.max_send_wr = std::clamp(send_queue, 1u, max_queue_depth);
    limits_.max_recv_wr = std::clamp(receive_queue, 1u, max_queue_depth);
    sends_.set_depth(limits_.max_send_wr);
    receives_.set_depth(limits_.max_recv_wr);
}

// ---- memory

Result<MemoryRegion> SoftEndpoint::register_memory(std::byte* address, size_t length, uint32_t access) {
    return regions_.add(address, length, access);
}

void SoftEndpoint::deregister_memory(const MemoryRegion& region) {
    const auto bytes = regions_.remove(region);
    if (!bytes.empty()) on_deregistered(bytes);
}

// ---- posting and polling

Result<void> SoftEndpoint::post_receive(uint64_t wr_id, std::span<const Sge> sges) {
    if (phase_ == Phase::dead) return fail(Reason::transport_error, ENOTCONN);
    if (receives_.full()) return fail(Reason::engine_resources, ENOBUFS);
    const uint64_t capacity = total_length(sges);
    if (sges.size() > max_sge || capacity > std::numeric_limits<uint32_t>::max()) {
        return fail(Reason::engine_refused, EINVAL);
    }
    for (const Sge& sge : sges) {
        if (sge.length && !regions_.local(sge)) return fail(Reason::engine_refused, EINVAL);
    }
    PostedReceive& receive = receives_.push();
    receive.wr_id = wr_id;
    receive.capacity = static_cast<uint32_t>(capacity);
    receive.sge_count = static_cast<uint8_t>(sges.size());
    std::copy(sges.begin(), sges.end(), receive.sges.begin());
    return {};
}

// Small messages are copied at once and need no registration; that spares the wire an element as well.
bool SoftEndpoint::may_inline(const SendRequest& request, uint64_t length) {
    return request.opcode != Opcode::rdma_read && length <= max_inline;
}

Result<void> SoftEndpoint::check_send(const SendRequest& request, uint64_t length) const {
    if (phase_ != Phase::established) return fail(Reason::transport_error, ENOTCONN);
    if (sends_.full()) return fail(Reason::engine_resources, ENOBUFS);
    if (request.sges.size() > max_sge || length > limits_.max_message || request.opcode == Opcode::receive ||
        (request.opcode == Opcode::rdma_read && limits_.max_ord == 0)) {
        return fail(Reason::engine_refused, EINVAL);
    }
    if (may_inline(request, length)) return {};
    for (const Sge& sge : request.sges) {
        if (sge.length && !regions_.local(sge)) return fail(Reason::engine_refused, EINVAL);
    }
    return {};
}

Result<void> SoftEndpoint::post_send(const SendRequest& request) {
    const uint64_t length = total_length(request.sges);
    if (auto checked = check_send(request, length); !checked) return checked;
    SendWork& work = sends_.push();
    work.wr_id = request.wr_id;
    work.remote_offset = request.remote_offset;
    work.length = static_cast<uint32_t>(length);
    work.invalidate_rkey = request.invalidate_rkey;
    work.remote_rkey = request.remote_rkey;
    work.opcode = request.opcode;
    work.status = Status::success;
    work.done = false;
    work.is_inline = may_inline(request, length);
    if (work.is_inline) {
        std::byte* to = work.inline_bytes.data();
        for (const Sge& sge : request.sges) {
            if (sge.length) to = std::copy_n(sge.address, sge.length, to);
        }
        work.sge_count = 0;
    } else {
        std::copy(request.sges.begin(), request.sges.end(), work.sges.begin());
        work.sge_count = static_cast<uint8_t>(request.sges.size());
    }
    return {};
}

size_t SoftEndpoint::poll(std::span<Completion> out) {
    size_t count = 0;
    while (count < out.size() && !completions_.empty()) {
        out[count++] = completions_.front();
        completions_.pop();
    }
    if (count < out.size()) completions_armed_ = true;
    return count;
}

void SoftEndpoint::push_completion(const Completion& completion) {
    completions_.push() = completion;
    schedule();
}

void SoftEndpoint::complete_receive(const PostedReceive& receive, uint32_t length,
                                    std::optional<uint32_t> invalidated) {
    push_completion({.wr_id = receive.wr_id,
                     .opcode = Opcode::receive,
                     .byte_length = length,
                     .invalidated = invalidated.has_value(),
                     .invalidated_rkey = invalidated.value_or(0)});
}

void SoftEndpoint::retire_sends() {
    while (!sends_.empty() && sends_.front().done) {
        const SendWork& work = sends_.front();
        push_completion({.wr_id = work.wr_id,
                         .opcode = work.opcode,
                         .status = work.status,
                         .byte_length = work.opcode == Opcode::rdma_read ? work.length : 0});
        sends_.pop();
    }
}

void SoftEndpoint::die(Error error) {
    if (phase_ == Phase::dead) return;
    phase_ = Phase::dead;
    for (uint64_t n = sends_.begin_number(); n != sends_.end_number(); ++n) {
        SendWork& work = sends_[n];
        if (!work.done && work.status == Status::success) work.status = Status::flushed;
        work.done = true;
    }
    retire_sends();
    while (!receives_.empty()) {
        push_completion(
            {.wr_id = receives_.front().wr_id, .opcode = Opcode::receive, .status = Status::flushed});
        receives_.pop();
    }
    end_ = error;
    end_news_ = true;
    schedule();
}

// ---- events

void SoftEndpoint::set_events(EndpointEvents* events) {
    events_ = events;
    if (has_news()) schedule();
}

void SoftEndpoint::announce_established(std::span<const std::byte> peer_private_data) {
    if (phase_ != Phase::setup) return;  // has died meanwhile
    const size_t length = std::min(peer_private_data.size(), peer_private_.bytes.size());
    std::copy_n(peer_private_data.begin(), length, peer_private_.bytes.begin());
    peer_private_.length = static_cast<uint8_t>(length);
    phase_ = Phase::established;
    established_news_ = true;
    schedule();
}

bool SoftEndpoint::has_news() const {
    return established_news_ || end_news_ || (completions_armed_ && !completions_.empty());
}

void SoftEndpoint::schedule() {
    if (!events_ || delivery_->scheduled) return;
    delivery_->scheduled = true;
    // Owned by the task as well: a loop may end with tasks that never run.
    loop_.defer([delivery = delivery_] { run(*delivery); });
}

void SoftEndpoint::run(Delivery& delivery) {
    delivery.scheduled = false;
    SoftEndpoint* self = delivery.owner;
    if (self && self->established_news_) {
        self->established_news_ = false;
        self->events_->on_established(self->peer_private_);
        self = delivery.owner;  // null when the callback destroyed the endpoint
    }
    if (self && self->completions_armed_ && !self->completions_.empty()) {
        self->completions_armed_ = false;
        self->events_->on_completions();
        self = delivery.owner;
    }
    if (self && self->end_news_) {
        self->end_news_ = false;
        self->events_->on_disconnected(*self->end_);
    }
}

}  // namespace smbdirect::fabric::soft
