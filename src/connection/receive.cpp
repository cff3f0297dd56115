// Receiving Data Transfer messages [MS-SMBD] 3.1.5.8 and keeping receives posted for them [MS-SMBD] 3.1.5.9.
#include <algorithm>
#include <limits>

#include "connection/connection.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::connection {
namespace {

using Header = wire::DataTransferHeader;

// The rule that the message breaks by itself, if any. All sums in 64 bits: both pairs overflow 32.
const char* broken_rule(const Header& header, uint32_t byte_length, uint32_t max_fragmented) {
    if (header.credits_requested == 0) return "[MS-SMBD] 3.1.5.8: CreditsRequested is 0";
    if (header.data_offset % 8 != 0) return "[MS-SMBD] 3.1.5.8: DataOffset is not a multiple of 8";
    if (uint64_t{header.data_offset} + header.data_length > byte_length)
        return "[MS-SMBD] 3.1.5.8: DataOffset + DataLength is beyond the message";
    if (uint64_t{header.data_length} + header.remaining_data_length > max_fragmented)
        return "[MS-SMBD] 3.1.5.8: DataLength + RemainingDataLength is above MaxFragmentedSize";
    // The text has no such check, but header bytes are no payload.
    if (header.data_length != 0 && header.data_offset < Header::kSize)
        return "[MS-SMBD] 2.2.3: DataOffset points into the header";
    return nullptr;
}

}  // namespace

Result<Delivery> Connection::on_data_transfer(std::span<const std::byte> bytes, uint32_t byte_length,
                                              std::optional<uint32_t> invalidated_token, Nanoseconds now) {
    if (!alive()) return ended();
    if (state_ != State::established)
        return violate("[MS-SMBD] 3.1.5.5: a second message before negotiation was finished");
    // [MS-SMBD] 3.1.5.5, before anything else
    idle_deadline_ = now + settings_.keepalive_interval;
    keepalive_ = Keepalive::none;
    if (known_to_peer() == 0)
        return terminate(Reason::receive_overrun, ECONNRESET,
                         "[MS-SMBD] 3.1.5.1: the peer sent without a credit");
    posted_ -= 1;

    const auto header = wire::parse_data_transfer_header(bytes);
    if (!header || byte_length < Header::kSize) return violate("[MS-SMBD] 3.1.5.8: shorter than 20 bytes");
    if (const char* rule = broken_rule(*header, byte_length, settings_.max_fragmented_receive_size))
        return violate(rule);

    counters_.messages_received += 1;
    counters_.credits_received += header->credits_granted;
    set_target(header->credits_requested);
    if (header->flags & wire::kSmbdResponseRequested) answer_due_ = true;  // unknown flags mean nothing
    const bool ends = settings_.half_close && (header->flags & wire::kSmbdEndOfStream);
    if (header->data_length != 0 && (ends || peer_ended_)) return violate("data after the end of the stream");
    peer_ended_ = peer_ended_ || ends;
    // A peer may grant for ever: the counter saturates instead of wrapping.
    send_credits_ = static_cast<uint32_t>(std::min<uint64_t>(
        uint64_t{send_credits_} + header->credits_granted, std::numeric_limits<uint32_t>::max()));
    if (invalidated_token) invalidated_token_ = invalidated_token;  // the last one wins

    Delivery delivery;
    delivery.credits_granted = header->credits_granted;
    delivery.flags = header->flags;
    delivery.remaining_data_length = header->remaining_data_length;
    delivery.end_of_stream = ends;
    if (header->data_length == 0) {  // also between fragments: some peers do that, and no byte is touched
        counters_.empty_received += 1;
        return delivery;
    }

    // The text lets a sequence go wrong unnoticed; we hold it to its first announcement.
    delivery.first_fragment = receive_left_ == 0;
    if (delivery.first_fragment) {
        delivery.message_length = header->data_length + header->remaining_data_length;
    } else if (header->data_length > receive_left_ ||
               header->remaining_data_length != receive_left_ - header->data_length) {
        return violate("[MS-SMBD] 3.1.5.8: RemainingDataLength does not continue the message");
    }
    receive_left_ = header->remaining_data_length;
    delivery.slot_offset = header->data_offset - Header::kPaddedSize;
    delivery.length = header->data_length;
    counters_.payload_bytes_received += header->data_length;
    if (receive_left_ == 0) {
        delivery.last_fragment = true;
        delivery.invalidated_token = invalidated_token_;
        invalidated_token_.reset();
        counters_.upper_messages_received += 1;
    }
    return delivery;
}

void Connection::set_target(uint16_t credits_requested) {
    target_ = std::clamp<uint32_t>(credits_requested, kLeastWindow, settings_.receive_credit_max);
}

void Connection::set_receive_ceiling(uint32_t receives) {
    ceiling_ = std::clamp<uint32_t>(receives, kLeastWindow, settings_.receive_credit_max);
}

uint32_t Connection::receives_wanted() const {
    if (state_ != State::established && phase_ != Phase::response_due) return 0;
    if (posted_ < window()) return window() - posted_;
    // The peer's target is the limit for that, not our ceiling.
    return needs_receive_to_send() && posted_ < target_ ? 1 : 0;
}

bool Connection::needs_receive_to_send() const {
    return send_credits_ == 1 && message_announced() && grantable_ == 0;
}

void Connection::on_receives_posted(uint32_t count) {
    if (!alive()) return;
    posted_ += count;
    grantable_ += count;  // drained by the next message, whatever it is
}

}  // namespace smbdirect::connection
