// What the segments of a stream mean, and every check on them: RFC 5041 7.1, RFC 5040 7, RFC 5042 8.
#include "fabric/iwarp/receiver.hpp"

namespace smbdirect::fabric::iwarp {
namespace {

namespace violation = wire::violation;

wire::Violation for_tagged(soft::Refusal refusal) {
    switch (refusal) {
        case soft::Refusal::unknown_key:
            return violation::tagged_stag;
        case soft::Refusal::out_of_bounds:
            return violation::tagged_bounds;
        case soft::Refusal::no_right:
            return violation::rdmap_access;
    }
    return violation::tagged_stag;
}

wire::Violation for_read_request(soft::Refusal refusal) {
    switch (refusal) {
        case soft::Refusal::unknown_key:
            return violation::rdmap_stag;
        case soft::Refusal::out_of_bounds:
            return violation::rdmap_bounds;
        case soft::Refusal::no_right:
            return violation::rdmap_access;
    }
    return violation::rdmap_stag;
}

}  // namespace

bool Receiver::fail_with(wire::Violation why, Reason reason) {
    fault_ = {why, reason};
    return false;
}

std::span<const std::byte> Receiver::fault_header() const {
    if (!header_known_) return {};
    const size_t size = segment_.tagged ? wire::tagged_header_size : wire::untagged_header_size;
    return std::span(header_).subspan(wire::fpdu_length_size, size);
}

Sge Receiver::destination(Target target, uint64_t number, uint64_t offset, uint32_t length) const {
    constexpr Sge none{nullptr, 0, 0};
    if (target == Target::control) {
        return {const_cast<std::byte*>(control_.data()) + offset, length, 0};
    }
    if (target == Target::region) {
        const auto at =
            stream_.regions.remote(static_cast<uint32_t>(number), offset, length, access_remote_write);
        return at ? Sge{*at, length, 0} : none;
    }
    const auto list =
        target == Target::receive ? stream_.receives[number].list() : stream_.sends[number].list();
    const Sge piece = soft::piece_at(list, offset);
    return piece.address && stream_.regions.local(piece) ? piece : none;
}

// ---- the header of a segment is there

bool Receiver::begin_segment() {
    segment_ = wire::parse_segment(std::span(header_).first(need_));
    header_known_ = true;
    placed_ = 0;
    if (stream_.crc) {
        crc_.reset();
        crc_.add(header_.data(), need_);
    }
    bool good;
    switch (segment_.opcode) {
        case wire::Rdmap::write:
            good = begin_write();
            break;
        case wire::Rdmap::read_response:
            good = begin_read_response();
            break;
        default:
            good = begin_untagged();
            break;
    }
    if (!good) return false;
    phase_ = segment_.payload_length ? Phase::payload : Phase::trailer;
    have_ = 0;
    return true;
}

bool Receiver::begin_untagged() {
    if (segment_.is_send()) return begin_send();
    target_ = Target::control;
    target_base_ = 0;
    if (segment_.offset != 0) return fail_with(violation::untagged_offset);
    if (segment_.opcode == wire::Rdmap::terminate) {
        if (segment_.queue != wire::queue_terminate) return fail_with(violation::untagged_queue);
        if (segment_.payload_length > control_.size()) return fail_with(violation::untagged_too_long);
        return true;
    }
    if (segment_.queue != wire::queue_read_request) return fail_with(violation::untagged_queue);
    if (segment_.msn != read_msn_) return fail_with(violation::untagged_msn);
    // RFC 5040 5.2.2 with RFC 6581: more reads than we agreed to serve.
    if (stream_.inbound_reads.size() >= stream_.ird) return fail_with(violation::untagged_no_buffer);
    return true;
}

bool Receiver::begin_send() {
    if (segment_.queue != wire::queue_send) return fail_with(violation::untagged_queue);
    if (segment_.msn != send_msn_) return fail_with(violation::untagged_msn);
    if (segment_.offset != message_received_) return fail_with(violation::untagged_offset);
    if (message_open_ && segment_.opcode != message_opcode_) return fail_with(violation::rdmap_opcode);
    if (stream_.receives.empty()) return fail_with(violation::untagged_no_buffer, Reason::receive_overrun);
    const uint64_t end = segment_.offset + segment_.payload_length;
    if (end > stream_.receives.front().capacity) {
        return fail_with(violation::untagged_too_long, Reason::receive_overrun);
    }
    target_ = Target::receive;
    target_number_ = stream_.receives.begin_number();
    target_base_ = segment_.offset;
    message_opcode_ = segment_.opcode;
    return true;
}

bool Receiver::begin_write() {
    if (tagged_open_ && (tagged_.opcode != segment_.opcode || tagged_.stag != segment_.stag)) {
        return fail_with(violation::tagged_stag);  // RFC 5041 5.1: one tagged message at a time
    }
    if (tagged_open_ && tagged_next_ != segment_.offset) return fail_with(violation::tagged_bounds);
    target_ = Target::region;
    target_number_ = segment_.stag;
    target_base_ = segment_.offset;
    if (segment_.payload_length == 0) return true;  // RFC 5041 5.2: a zero-length message names nothing
    const auto at =
        stream_.regions.remote(segment_.stag, segment_.offset, segment_.payload_length, access_remote_write);
    return at || fail_with(for_tagged(at.error()), Reason::remote_access_violation);
}

bool Receiver::begin_read_response() {
    if (tagged_open_ && tagged_.opcode != segment_.opcode) return fail_with(violation::tagged_stag);
    if (stream_.outbound_reads.empty()) return fail_with(violation::rdmap_opcode);  // nobody asked
    const OutboundRead& read = stream_.outbound_reads.front();
    const uint32_t left = read.length - read.placed;
    if (segment_.payload_length) {
        if (segment_.stag != read.sink_stag) return fail_with(violation::tagged_stag);
        if (segment_.offset != read.sink_offset + read.placed) return fail_with(violation::tagged_bounds);
    }
    // As long as what was asked for, no byte more or less (RFC 5040 5.2.2).
    if (segment_.payload_length > left || segment_.last != (segment_.payload_length == left)) {
        return fail_with(violation::tagged_bounds);
    }
    target_ = Target::sink;
    target_number_ = read.work;
    target_base_ = read.placed;
    return true;
}

// ---- the segment is whole and its CRC is right

bool Receiver::finish_segment() {
    switch (segment_.opcode) {
        case wire::Rdmap::write:
        case wire::Rdmap::read_response:
            tagged_open_ = !segment_.last;
            tagged_ = segment_;
            tagged_next_ = segment_.offset + segment_.payload_length;
            return segment_.opcode == wire::Rdmap::write || finish_read_response();
        case wire::Rdmap::read_request:
            return finish_read_request();
        case wire::Rdmap::terminate:
            return finish_terminate();
        default:
            return finish_send();
    }
}

bool Receiver::finish_send() {
    message_open_ = !segment_.last;
    message_received_ += segment_.payload_length;
    if (message_open_) return true;
    const uint32_t length = message_received_;
    message_received_ = 0;
    ++send_msn_;
    std::optional<uint32_t> invalidated;
    if (segment_.invalidates()) {
        // RFC 5040 5.3: before the receive completes.
        if (!stream_.regions.invalidate(segment_.stag)) {
            return fail_with(violation::rdmap_cannot_invalidate, Reason::remote_access_violation);
        }
        invalidated = segment_.stag;
    }
    const soft::PostedReceive receive = stream_.receives.front();
    stream_.receives.pop();
    events_.on_message(receive, length, invalidated);
    return true;
}

bool Receiver::finish_read_request() {
    ++read_msn_;
    const auto request = wire::parse_read_request(std::span(control_).first<wire::read_request_size>());
    if (request.length) {
        const auto at = stream_.regions.remote(request.source_stag, request.source_offset, request.length,
                                               access_remote_read);
        if (!at) return fail_with(for_read_request(at.error()), Reason::remote_access_violation);
    }
    stream_.inbound_reads.push() = {.request = request};
    events_.on_read_requested();
    return true;
}

bool Receiver::finish_read_response() {
    OutboundRead& read = stream_.outbound_reads.front();
    read.placed += segment_.payload_length;
    if (!segment_.last) return true;
    const uint64_t work = read.work;
    stream_.outbound_reads.pop();
    events_.on_read_done(work);
    return true;
}

bool Receiver::finish_terminate() {
    peer_violation_ = wire::parse_terminate(std::span(control_).first<wire::terminate_control_size>());
    return fail_with(peer_violation_, Reason::remote_terminate);
}

}  // namespace smbdirect::fabric::iwarp
