// Sending: [MS-SMBD] 3.1.4.2, 3.1.5.1, 3.1.5.4. next_message() is the hot path.
#include <algorithm>

#include "connection/connection.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::connection {
namespace {

using Header = wire::DataTransferHeader;

}  // namespace

Result<void> Connection::announce_message(uint32_t length, uint32_t available,
                                          std::optional<uint32_t> invalidate_token) {
    if (state_ != State::established || ending_ || end_sent_) return ended();
    if (message_announced()) return fail(Reason::none, EALREADY);
    if (length == 0) return fail(Reason::none, EINVAL);
    if (length > negotiated_.max_fragmented_send_size) return fail(Reason::message_too_large, EMSGSIZE);
    message_length_ = length;
    message_available_ = std::min(available, length);
    message_sent_ = 0;
    message_token_ = settings_.send_with_invalidate ? invalidate_token : std::nullopt;
    return {};
}

void Connection::on_available(uint32_t available) {
    if (ending_ || end_sent_) return;  // what there was then is all
    message_available_ = std::max(message_available_, std::min(available, message_length_));
}

bool Connection::message_announced() const { return message_length_ != 0; }

bool Connection::is_held_back() const {
    const bool partly = message_available_ != message_length_ && message_available_ != message_sent_;
    return alive() && partly && !is_pushed();
}

void Connection::push() { pushed_ = is_held_back(); }

void Connection::end_stream() {
    if (state_ == State::established && settings_.half_close && !end_sent_) ending_ = true;
}

bool Connection::stream_end_sent() const { return end_sent_; }

// A message made only to grant, not more than once per half window: that is what lets two peers fall silent.
bool Connection::grant_due() const {
    return grantable_ != 0 && known_to_peer() <= std::max(1U, window() / 2);
}

// Something must go even where there is no data.
bool Connection::must_send() const {
    return answer_due_ || probe_due_ || ending_ || keepalive_ == Keepalive::pending || grant_due();
}

std::optional<OutgoingMessage> Connection::next_message(Nanoseconds now) {
    if (state_ != State::established) [[unlikely]] {
        // A failure response is the only thing that survives the end.
        return transport_established_ ? next_negotiate_message(now) : std::nullopt;
    }
    const uint32_t left = message_length_ - message_sent_;
    const uint32_t ready = end_sent_ ? 0 : message_available_ - message_sent_;
    uint32_t payload = 0;
    if (ready == left && left != 0) {
        payload = std::min(left, fragment_size_);
    } else if (ready >= fragment_size_ + kHeldBack || (ready != 0 && is_pushed())) {
        payload = std::min(ready, fragment_size_);
    } else if (!must_send()) {
        return std::nullopt;
    } else if (message_sent_ != 0) {
        // In the middle of a message whose rest is not there yet. When the program has used up even what was
        // held back, a fragment of no bytes goes that continues the sequence: RemainingDataLength stays, so
        // the literal receiver and Linux's both take it for nothing. The alternative is a dead connection.
        payload = std::min(ready, 1U);
    }  // else: an empty message, nothing has begun
    // [MS-SMBD] 3.1.5.1: the last credit is only spent on a message that grants
    if (send_credits_ == 0 || (send_credits_ == 1 && grantable_ == 0)) {
        count_stall();
        return std::nullopt;
    }
    return emit(payload, now);
}

void Connection::count_stall() {
    if (stalled_) return;
    stalled_ = true;
    (send_credits_ == 0 ? counters_.stalls_no_credit : counters_.stalls_last_credit) += 1;
}

OutgoingMessage Connection::emit(uint32_t payload, Nanoseconds now) {
    OutgoingMessage message;
    Header header;
    header.credits_requested = credits_requested_;
    header.credits_granted = static_cast<uint16_t>(std::min<uint32_t>(grantable_, 0xffff));
    if (keepalive_ == Keepalive::pending) {
        header.flags = wire::kSmbdResponseRequested;
        keepalive_ = Keepalive::sent;
        idle_deadline_ = now + settings_.keepalive_answer;  // [MS-SMBD] 3.1.5.1
        counters_.keepalives_sent += 1;
    } else if (probe_due_) {
        counters_.keepalives_sent += 1;
    }
    if (ending_ && payload == 0) {
        header.flags |= wire::kSmbdEndOfStream;
        ending_ = false;
        end_sent_ = true;
    }
    if (payload != 0 || message_sent_ != 0)
        header.remaining_data_length = message_length_ - message_sent_ - payload;
    if (payload != 0) {
        header.data_offset = Header::kPaddedSize;
        header.data_length = payload;
    }
    wire::build(header, std::span(header_).first<Header::kPaddedSize>());

    message.header = std::span(header_).first(payload != 0 ? Header::kPaddedSize : Header::kSize);
    message.payload_offset = message_sent_;
    message.payload_length = payload;
    message.credits_granted = header.credits_granted;
    message.flags = header.flags;
    message.remaining_data_length = header.remaining_data_length;
    counters_.messages_sent += 1;
    counters_.payload_bytes_sent += payload;
    counters_.credits_granted += header.credits_granted;
    counters_.empty_sent += payload == 0;
    counters_.keepalives_answered += answer_due_;

    send_credits_ -= 1;
    grantable_ -= header.credits_granted;
    answer_due_ = probe_due_ = stalled_ = false;  // any message is an answer; the flag is never echoed
    quiet_since_ = now;
    message_sent_ += payload;
    pushed_ = pushed_ && message_sent_ != message_available_;
    if (payload != 0 && message_sent_ == message_length_) {
        message.last_fragment = true;
        message.invalidate_token =
            message_token_;  // [MS-SMBD] 3.1.5.4: on one segment; the last, when all is said
        counters_.upper_messages_sent += 1;
        message_length_ = message_available_ = message_sent_ = 0;
    }
    return message;
}

}  // namespace smbdirect::connection
