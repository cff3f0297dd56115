#include "peer_model.hpp"

#include <algorithm>
#include <utility>

namespace smbdirect::test {
namespace {

constexpr Nanoseconds kIdle = 120 * kSecond, kAnswer = 5 * kSecond;

uint32_t read(const Bytes& b, size_t offset, size_t size) {
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= std::to_integer<uint32_t>(b[offset + i]) << (8 * i);
    return value;
}

}  // namespace

void PeerModel::take(const Bytes& m, Nanoseconds now) {
    if (dead_) return;
    if (established_) return take_data(m, now);
    if (role_ == Role::passive) {
        hold(m.size() >= 20, "the model got no request");
        max_send_ = std::min(own_.max_send, read(m, 12, 4));
        receive_target_ = std::min<uint32_t>(read(m, 6, 2), own_.credit_max);
        pool_ = std::min<uint32_t>(receive_target_, own_.credit_max);
        response_due_ = true;
        return;
    }
    hold(m.size() >= 32 && read(m, 12, 4) == 0, "the model got no response");
    max_send_ = std::min(own_.max_send, read(m, 24, 4));
    receive_target_ = std::min<uint32_t>(read(m, 8, 2), own_.credit_max);
    send_credits_ = read(m, 10, 2);
    pool_ = receive_target_;
    establish(now);
}

void PeerModel::establish(Nanoseconds now) {
    established_ = true;
    idle_ = now + kIdle;
}

void PeerModel::take_data(const Bytes& m, Nanoseconds now) {
    hold(known_ > 0, "the model was sent a message without a credit");
    if (kind_ != ModelKind::lc) {  // whose timer counts from its own sending
        idle_ = now + kIdle;
        keepalive_ = Keepalive::none;
    }
    known_ -= 1;
    const uint32_t remaining = read(m, 8, 4), offset = read(m, 12, 4), length = read(m, 16, 4);
    if (read(m, 0, 2) == 0 || offset % 8 != 0 || uint64_t{offset} + length > m.size() ||
        uint64_t{length} + remaining > own_.max_fragmented) {
        dead_ = true;
        throw Broken("the model was sent a malformed message");
    }
    const uint32_t target = std::min<uint32_t>(read(m, 0, 2), own_.credit_max);
    const bool raised = target > receive_target_;
    const bool queue_was_empty = queue_.empty() && to_send.empty();
    if (kind_ == ModelKind::literal) {  // the text adjusts the target after it looked at the credits
        after_receive(queue_was_empty, false);
        receive_target_ = target;
    } else {
        receive_target_ = target;
        after_receive(queue_was_empty, raised);
    }
    if (read(m, 4, 2) & 1) {
        if (kind_ != ModelKind::lx) keepalive_ = Keepalive::pending;  // so the next message carries the flag
        if (kind_ != ModelKind::lc || known_ + 1 < receive_target_) send_immediate_ = true;
    }
    send_credits_ += read(m, 2, 2);
    if (length == 0 && kind_ != ModelKind::literal) return;
    partial_.insert(partial_.end(), m.begin() + offset, m.begin() + offset + length);
    if (reassembly_left_ == 0)
        reassembly_left_ = remaining;
    else
        reassembly_left_ -= length;
    if (remaining != 0) return;
    hold(kind_ != ModelKind::literal || reassembly_left_ == 0, "the literal text ends the connection here");
    reassembly_left_ = 0;
    if (!partial_.empty()) received.push_back(std::exchange(partial_, {}));
}

void PeerModel::manage_credits() {
    const uint32_t posted = known_ + pool_;
    if (posted != 0 && posted >= receive_target_) return;
    pool_ += std::max(1U, std::min<uint32_t>(receive_target_, own_.credit_max)) - posted;
}

void PeerModel::after_receive(bool queue_was_empty, bool target_raised) {
    switch (kind_) {
        case ModelKind::literal:  // 3.1.5.8: an empty queue and new credits make an empty message
            if (!queue_was_empty) return;
            manage_credits();
            if (pool_ > 0) send_immediate_ = true;
            return;
        case ModelKind::lc:
            manage_credits();
            if (known_ + 1 < receive_target_) send_immediate_ = true;
            return;
        case ModelKind::lx:
            manage_credits();
            if (pool_ == 0) return;
            if (known_ <= receive_target_ / 4 || target_raised || pool_ >= 2 || receive_target_ == 1)
                send_immediate_ = true;
    }
}

void PeerModel::segment_next() {
    if (!queue_.empty() || to_send.empty()) return;
    const Bytes message = std::move(to_send.front());
    to_send.pop_front();
    for (size_t at = 0; at < message.size();) {
        const size_t part = std::min<size_t>(message.size() - at, max_send_ - 24);
        Entry entry;
        entry.payload.assign(message.begin() + static_cast<long>(at),
                             message.begin() + static_cast<long>(at + part));
        at += part;
        entry.remaining = static_cast<uint32_t>(message.size() - at);
        queue_.push_back(std::move(entry));
    }
}

bool PeerModel::may_send_head() {
    if (send_credits_ == 0) return false;
    manage_credits();
    if (send_credits_ > 1 || pool_ > 0) return true;
    if (kind_ == ModelKind::lc) return true;      // no last-credit rule
    return kind_ == ModelKind::lx && known_ > 0;  // the weaker one
}

std::optional<Bytes> PeerModel::give(Nanoseconds now) {
    if (dead_) return std::nullopt;
    Bytes bytes;
    if (request_due_) {
        request_due_ = false;
        bytes.resize(20);
        wire::build(wire::NegotiateRequest{0x100, 0x100, own_.target, own_.max_send, own_.max_receive,
                                           own_.max_fragmented},
                    std::span(bytes).first<20>());
        return bytes;
    }
    if (response_due_) {
        response_due_ = false;
        bytes.resize(32);
        known_ = std::exchange(pool_, 0);
        wire::build(wire::NegotiateResponse{0x100, 0x100, 0x100, own_.target, static_cast<uint16_t>(known_),
                                            0, 1 << 20, max_send_, own_.max_receive, own_.max_fragmented},
                    std::span(bytes).first<32>());
        establish(now);
        return bytes;
    }
    if (!established_) return std::nullopt;
    segment_next();
    if (queue_.empty()) {
        if (!send_immediate_ && !(keepalive_ == Keepalive::pending && kind_ != ModelKind::lc))
            return std::nullopt;
        if (!may_send_head()) return std::nullopt;
        queue_.emplace_back();
    } else if (!may_send_head()) {
        return std::nullopt;
    }
    const Entry entry = std::move(queue_.front());
    queue_.pop_front();
    wire::DataTransferHeader header;
    header.credits_requested = own_.target;
    header.credits_granted = static_cast<uint16_t>(pool_);
    known_ += std::exchange(pool_, 0);
    send_credits_ -= 1;
    if (keepalive_ == Keepalive::pending) {
        header.flags = 1;
        keepalive_ = Keepalive::sent;
        if (kind_ != ModelKind::lc) idle_ = now + kAnswer;
    }
    if (kind_ == ModelKind::lc) idle_ = now + kIdle, keepalive_ = Keepalive::none;
    send_immediate_ = false;
    header.remaining_data_length = entry.remaining;
    if (!entry.payload.empty()) {
        header.data_offset = 24;
        header.data_length = static_cast<uint32_t>(entry.payload.size());
    }
    bytes.resize(24);
    wire::build(header, std::span(bytes).first<24>());
    if (entry.payload.empty()) bytes.resize(20);
    bytes.insert(bytes.end(), entry.payload.begin(), entry.payload.end());
    return bytes;
}

std::optional<Nanoseconds> PeerModel::deadline() const {
    if (dead_ || !established_ || !asks) return std::nullopt;
    return idle_;
}

void PeerModel::timer(Nanoseconds now) {
    if (dead_ || !established_ || !asks || now < idle_) return;
    if (kind_ == ModelKind::lc) {  // finds PENDING: drops; else a plain empty message
        dead_ = keepalive_ == Keepalive::pending;
        send_immediate_ = true;
        idle_ = now + kIdle;
        return;
    }
    if (keepalive_ != Keepalive::none) {
        dead_ = true;
        return;
    }
    keepalive_ = Keepalive::pending;
    idle_ = now + (kind_ == ModelKind::lx ? kAnswer : kIdle);
}

}  // namespace smbdirect::test
