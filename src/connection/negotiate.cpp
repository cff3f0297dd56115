// Negotiation: [MS-SMBD] 3.1.5.2, 3.1.5.3, 3.1.5.6, 3.1.5.7.
#include <algorithm>

#include "connection/connection.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::connection {

bool Connection::expects_negotiate_message() const {
    if (!alive() || phase_ == Phase::done) return false;
    return role_ == Role::active || (phase_ == Phase::awaiting && !early_request_);
}

Result<void> Connection::on_negotiate_message(std::span<const std::byte> message, Nanoseconds now) {
    if (!alive()) return ended();
    if (!expects_negotiate_message()) return violate("[MS-SMBD] 3.1.5.5: a second negotiate message");
    if (role_ == Role::active) return take_response(message, now);
    if (transport_established_) return take_request(message);
    // The receive completion overtook the event (mlx5, irdma): keep it, so that the result is the same.
    early_length_ = static_cast<uint8_t>(std::min(message.size(), early_.size()));
    std::copy_n(message.begin(), early_length_, early_.begin());
    early_request_ = true;
    return {};
}

Result<void> Connection::take_request(std::span<const std::byte> message) {
    const auto request = wire::parse_negotiate_request(message);
    if (!request) return violate("[MS-SMBD] 3.1.5.6: the Negotiate Request is shorter than 20 bytes");
    if (request->min_version > wire::kSmbdVersion || request->max_version < wire::kSmbdVersion) {
        (void)terminate(Reason::negotiate_version, EOPNOTSUPP,
                        "[MS-SMBD] 3.1.5.6: version 1.0 is not within MinVersion..MaxVersion");
        phase_ = Phase::refusal_due;  // the failure response goes out before the disconnect
        refusal_status_ = wire::kStatusNotSupported;
        return ended();
    }
    if (request->credits_requested == 0) return violate("[MS-SMBD] 3.1.5.6: CreditsRequested is 0");
    if (request->max_receive_size < wire::kSmbdLeastReceiveSize)
        return violate("[MS-SMBD] 3.1.5.6: MaxReceiveSize is below 128");
    if (request->max_fragmented_size < wire::kSmbdLeastFragmentedSize)
        return violate("[MS-SMBD] 3.1.5.6: MaxFragmentedSize is below 131072");

    negotiated_.version = wire::kSmbdVersion;
    negotiated_.max_receive_size = std::max(
        wire::kSmbdLeastReceiveSize, std::min(settings_.max_receive_size, request->preferred_send_size));
    negotiated_.max_send_size = std::min(settings_.max_send_size, request->max_receive_size);
    negotiated_.max_fragmented_send_size = request->max_fragmented_size;
    set_target(request->credits_requested);
    phase_ = Phase::response_due;  // as soon as receives are posted: it grants them
    // The peer has spoken in time, which is what 5 s are for. When to answer is up to the program that
    // accepts; the initiator waits for 120 s [MS-SMBD] 3.1.4.1, and Linux 7.x makes it wait for accept() as
    // well.
    negotiate_deadline_ += settings_.negotiate_timeout_active - settings_.negotiate_timeout_passive;
    return {};
}

Result<void> Connection::take_response(std::span<const std::byte> message, Nanoseconds now) {
    if (phase_ != Phase::request_sent)
        return violate("[MS-SMBD] 3.1.5.7: a Negotiate Response before the Negotiate Request was sent");
    const auto response = wire::parse_negotiate_response(message);
    if (!response) return violate("[MS-SMBD] 3.1.5.7: the Negotiate Response is shorter than 32 bytes");
    // A refusal carries zeros elsewhere: name it first, the outcome is the same.
    if (response->status != wire::kStatusSuccess)
        return terminate(Reason::negotiate_refused, ECONNREFUSED, "[MS-SMBD] 3.1.5.7: Status is not 0");
    if (response->negotiated_version != wire::kSmbdVersion)
        return terminate(Reason::negotiate_version, ECONNREFUSED,
                         "[MS-SMBD] 3.1.5.7: NegotiatedVersion is not 1.0");
    if (response->max_receive_size < wire::kSmbdLeastReceiveSize)
        return violate("[MS-SMBD] 3.1.5.7: MaxReceiveSize is below 128");
    if (response->max_fragmented_size < wire::kSmbdLeastFragmentedSize)
        return violate("[MS-SMBD] 3.1.5.7: MaxFragmentedSize is below 131072");
    if (response->credits_granted == 0) return violate("[MS-SMBD] 3.1.5.7: CreditsGranted is 0");
    if (response->credits_requested == 0) return violate("[MS-SMBD] 3.1.5.7: CreditsRequested is 0");
    if (response->preferred_send_size > settings_.max_receive_size)
        return violate("[MS-SMBD] 3.1.5.7: PreferredSendSize is above our MaxReceiveSize");

    negotiated_.version = wire::kSmbdVersion;
    negotiated_.max_receive_size = std::max(
        wire::kSmbdLeastReceiveSize, std::min(settings_.max_receive_size, response->preferred_send_size));
    negotiated_.max_send_size = std::min(settings_.max_send_size, response->max_receive_size);
    negotiated_.max_read_write_size = std::min(settings_.max_read_write_size, response->max_read_write_size);
    negotiated_.max_fragmented_send_size = response->max_fragmented_size;
    send_credits_ = response->credits_granted;
    counters_.credits_received = response->credits_granted;
    set_target(response->credits_requested);
    establish(now);
    return {};
}

void Connection::on_no_receives() {
    if (!alive() || posted_ != 0) return;
    if (phase_ == Phase::response_due) {
        (void)terminate(Reason::engine_resources, ENOMEM, "[MS-SMBD] 3.1.5.6: no receive could be posted");
        phase_ = Phase::refusal_due;
        refusal_status_ = wire::kStatusInsufficientResources;
    } else if (state_ == State::established && role_ == Role::active && counters_.messages_received == 0) {
        (void)terminate(Reason::engine_resources, ENOMEM, "[MS-SMBD] 3.1.5.7: no receive could be posted");
    }
}

void Connection::establish(Nanoseconds now) {
    state_ = State::established;
    phase_ = Phase::done;
    fragment_size_ = negotiated_.max_send_size - wire::DataTransferHeader::kPaddedSize;
    idle_deadline_ = now + settings_.keepalive_interval;  // [MS-SMBD] 3.1.5.6, 3.1.5.7
    quiet_since_ = now;
}

std::optional<OutgoingMessage> Connection::next_negotiate_message(Nanoseconds now) {
    OutgoingMessage message;
    const auto header = std::span(header_);
    if (phase_ == Phase::request_due) {  // [MS-SMBD] 3.1.5.2
        wire::NegotiateRequest request;
        request.credits_requested = credits_requested_;
        request.preferred_send_size = settings_.max_send_size;
        request.max_receive_size = settings_.max_receive_size;
        request.max_fragmented_size = settings_.max_fragmented_receive_size;
        wire::build(request, header.first<wire::NegotiateRequest::kSize>());
        message.header = header.first(wire::NegotiateRequest::kSize);
        phase_ = Phase::request_sent;
        return message;
    }
    wire::NegotiateResponse response;
    if (phase_ == Phase::response_due && posted_ > 0) {  // [MS-SMBD] 3.1.5.3
        response.negotiated_version = wire::kSmbdVersion;
        response.credits_requested = credits_requested_;
        response.credits_granted = static_cast<uint16_t>(std::min<uint32_t>(grantable_, 0xffff));
        response.max_read_write_size = settings_.max_read_write_size;
        response.preferred_send_size = negotiated_.max_send_size;
        response.max_receive_size = negotiated_.max_receive_size;
        response.max_fragmented_size = settings_.max_fragmented_receive_size;
        grantable_ -= response.credits_granted;
        counters_.credits_granted += response.credits_granted;
        message.credits_granted = response.credits_granted;
        // Established when the response is posted, not when that completes: the first data may overtake it.
        establish(now);
    } else if (phase_ == Phase::refusal_due) {
        response.status = refusal_status_;
        phase_ = Phase::done;
    } else {
        return std::nullopt;
    }
    wire::build(response, header.first<wire::NegotiateResponse::kSize>());
    message.header = header.first(wire::NegotiateResponse::kSize);
    return message;
}

}  // namespace smbdirect::connection
