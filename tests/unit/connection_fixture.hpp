// A Connection in the hands of a test: what a driver does, in small steps, with bytes as hex text.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "connection/connection.hpp"
#include "support/bytes.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::test {

using connection::Connection;
using connection::Delivery;
using connection::Nanoseconds;
using connection::OutgoingMessage;
using connection::Role;
using connection::Settings;
using connection::State;

constexpr Nanoseconds kSecond = 1'000'000'000;

// The sizes that Linux offers, and the least fragmented size.
inline Settings linux_sizes(uint16_t target = 255) {
    Settings settings;
    settings.send_credit_target = settings.receive_credit_max = target;
    settings.max_send_size = settings.max_receive_size = 1364;
    settings.max_fragmented_receive_size = 131072;
    settings.keepalive_interval = 120 * kSecond;
    settings.keepalive_answer = 5 * kSecond;
    return settings;
}

inline Bytes message_bytes(const wire::DataTransferHeader& header, size_t payload = 0) {
    Bytes bytes(24 + payload, std::byte{0x5a});
    wire::build(header, std::span(bytes).first<24>());
    if (payload == 0) bytes.resize(20);
    return bytes;
}

struct Driver {
    Connection core;
    Nanoseconds now = 0;

    explicit Driver(Role role, const Settings& settings = linux_sizes()) : core(role, settings) {
        core.start(now);
    }

    // All receives that are wanted. Returns how many.
    uint32_t post() {
        const uint32_t wanted = core.receives_wanted();
        core.on_receives_posted(wanted);
        return wanted;
    }
    std::string next() {
        const auto message = core.next_message(now);
        return message ? to_hex(message->header) : "";
    }
    Result<Delivery> data(std::span<const std::byte> bytes, std::optional<uint32_t> token = {}) {
        return core.on_data_transfer(bytes.first(std::min<size_t>(bytes.size(), 24)),
                                     static_cast<uint32_t>(bytes.size()), token, now);
    }
    Result<Delivery> data(std::string_view hex) { return data(from_hex(hex)); }
    Result<void> negotiate(std::string_view hex) { return core.on_negotiate_message(from_hex(hex), now); }

    bool violated(Reason reason = Reason::protocol_violation) const {
        return core.state() == State::terminated && core.termination() == Error{reason, ECONNRESET} &&
               std::string_view(core.termination_detail()).starts_with("[MS-SMBD] ");
    }
};

// As acceptor, the peer having asked for `target` credits and taken the response: it holds `target` credits,
// we none.
inline Driver established_passive(uint16_t target = 255, Settings settings = linux_sizes()) {
    Driver d(Role::passive, settings);
    d.core.on_transport_established(0);
    wire::NegotiateRequest request{0x100, 0x100, target, 8192, 8192, 1 << 20};
    Bytes bytes(20);
    wire::build(request, std::span(bytes).first<20>());
    (void)d.core.on_negotiate_message(bytes, 0);
    d.post();
    d.next();
    return d;
}

// As initiator, with `credits` granted by the peer, which asked for `target`. Receives are posted but not
// announced.
inline Driver established_active(uint16_t credits = 255, uint16_t target = 255,
                                 Settings settings = linux_sizes(), uint32_t peer_receive_size = 8192) {
    Driver d(Role::active, settings);
    d.core.on_transport_established(0);
    d.next();
    wire::NegotiateResponse response{0x100,  0x100, 0x100, target, credits, 0, 8192, 1024, peer_receive_size,
                                     1 << 20};
    Bytes bytes(32);
    wire::build(response, std::span(bytes).first<32>());
    (void)d.core.on_negotiate_message(bytes, 0);
    d.post();
    return d;
}

inline std::string empty_message(uint16_t granted, uint16_t flags = 0, uint16_t requested = 255) {
    return to_hex(message_bytes({requested, granted, flags, 0, 0, 0}));
}

}  // namespace smbdirect::test
