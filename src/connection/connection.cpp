// Life and timers. negotiate.cpp, receive.cpp and send.cpp hold the rest.
#include "connection/connection.hpp"

#include <algorithm>

#include "wire/smbd.hpp"

namespace smbdirect::connection {
namespace {

// Peers judge us after 120 s of silence (Windows and Linux alike), whatever our own interval is. While the
// peer cannot ask for a sign of life we give one at half of that.
constexpr Nanoseconds kCommonIdleInterval = 120'000'000'000;

Nanoseconds probe_interval(const Settings& settings) {
    return std::max<Nanoseconds>(1, std::min(settings.keepalive_interval, kCommonIdleInterval) / 2);
}

Settings sane(Settings settings) {
    constexpr uint32_t kMostBytes = 1U << 30;  // keeps sums of sizes within 32 bits
    settings.send_credit_target = std::max<uint16_t>(settings.send_credit_target, 1);
    settings.receive_credit_max = std::max<uint16_t>(settings.receive_credit_max, Connection::kLeastWindow);
    settings.max_send_size = std::clamp(settings.max_send_size, wire::kSmbdLeastReceiveSize, kMostBytes);
    settings.max_receive_size =
        std::clamp(settings.max_receive_size, wire::kSmbdLeastReceiveSize, kMostBytes);
    settings.max_fragmented_receive_size =
        std::max(settings.max_fragmented_receive_size, wire::kSmbdLeastFragmentedSize);
    return settings;
}

}  // namespace

Connection::Connection(Role role, const Settings& settings) : role_(role), settings_(sane(settings)) {
    credits_requested_ = settings_.send_credit_target;
    ceiling_ = settings_.receive_credit_max;
    negotiated_.max_send_size = settings_.max_send_size;
    negotiated_.max_receive_size = settings_.max_receive_size;
    negotiated_.max_fragmented_receive_size = settings_.max_fragmented_receive_size;
    negotiated_.max_read_write_size = role == Role::passive ? settings_.max_read_write_size : 0;
    negotiated_.keepalive_interval_ms = static_cast<uint32_t>(settings_.keepalive_interval / 1'000'000);
}

void Connection::start(Nanoseconds now) {
    if (state_ != State::idle) return;
    state_ = State::connecting;
    // [MS-SMBD] 3.1.4.1, 3.1.7.2: the Negotiation Timer runs from the connect call or the arrival
    negotiate_deadline_ = now + (role_ == Role::active ? settings_.negotiate_timeout_active
                                                       : settings_.negotiate_timeout_passive);
}

void Connection::on_transport_established(Nanoseconds) {
    if (state_ != State::connecting) return;
    state_ = State::negotiating;
    transport_established_ = true;
    if (role_ == Role::active) {
        phase_ = Phase::request_due;  // [MS-SMBD] 3.1.5.2: at once
    } else if (early_request_) {
        early_request_ = false;
        (void)take_request(std::span(early_).first(early_length_));
    }
}

void Connection::on_transport_lost() {
    if (phase_ == Phase::refusal_due) phase_ = Phase::done;  // nobody is left to be told
    if (!alive()) return;
    state_ = State::terminated;
    end_ = {Reason::transport_error, ECONNRESET};
    detail_ = "the transport was lost";
    phase_ = Phase::done;
}

// [MS-SMBD] 3.1.6: no goodbye on the wire. Only a failure response may still be due, the caller sees to that.
std::unexpected<Error> Connection::terminate(Reason reason, int errnum, const char* detail) {
    state_ = State::terminated;
    end_ = {reason, errnum};
    ended_by_us_ = true;
    detail_ = detail;
    phase_ = Phase::done;
    return std::unexpected(end_);
}

std::unexpected<Error> Connection::violate(const char* detail) {
    return terminate(Reason::protocol_violation, ECONNRESET, detail);
}

std::unexpected<Error> Connection::ended() const {
    if (alive()) return fail(Reason::none, ENOTCONN);
    return std::unexpected(end_);
}

std::optional<Nanoseconds> Connection::deadline() const {
    switch (state_) {
        case State::connecting:
        case State::negotiating:
            return negotiate_deadline_;
        case State::established:
            if (peer_starved()) return std::min(idle_deadline_, quiet_since_ + probe_interval(settings_));
            return idle_deadline_;
        default:
            return std::nullopt;
    }
}

void Connection::on_timer(Nanoseconds now) {
    if (state_ == State::connecting || state_ == State::negotiating) {
        if (now < negotiate_deadline_) return;
        // [MS-SMBD] 3.1.6.1
        if (!transport_established_ && role_ == Role::active)
            (void)terminate(Reason::connect_timeout, ETIMEDOUT,
                            "[MS-SMBD] 3.1.6.1: the transport did not connect");
        else
            (void)terminate(Reason::negotiate_timeout, ETIMEDOUT,
                            "[MS-SMBD] 3.1.6.1: the Negotiation Timer expired");
        return;
    }
    if (state_ != State::established) return;
    if (now >= idle_deadline_) on_idle(now);
    if (alive() && peer_starved() && now >= quiet_since_ + probe_interval(settings_)) {
        // The peer hears nothing from us and cannot ask: speak before it gives us up. Without
        // RESPONSE_REQUESTED, because it may be unable to answer.
        probe_due_ = true;
        quiet_since_ = now;
    }
}

// The Idle Connection Timer [MS-SMBD] 3.1.6.2, with one departure: who cannot answer is not asked.
void Connection::on_idle(Nanoseconds now) {
    if (peer_starved()) {
        // A starved peer is silent because it must be. We cannot have asked it before: it only gets poorer by
        // sending, and whatever it sends clears the question.
        probe_due_ = true;
        idle_deadline_ = now + settings_.keepalive_interval;
        return;
    }
    if (keepalive_ != Keepalive::none) {
        (void)terminate(Reason::keepalive_timeout, ETIMEDOUT,
                        keepalive_ == Keepalive::sent
                            ? "[MS-SMBD] 3.1.6.2: RESPONSE_REQUESTED was not answered"
                            : "[MS-SMBD] 3.1.6.2: nothing came for two intervals, and no credit to ask with");
        return;
    }
    // Sending it shortens the timer to keepalive_answer. Where no credit is left to send it with, we are the
    // starved one, and the peer gets a whole interval more to say something by itself.
    keepalive_ = Keepalive::pending;
    idle_deadline_ = now + settings_.keepalive_interval;
}

State Connection::state() const { return state_; }
std::optional<Error> Connection::termination() const {
    if (!ended_by_us_) return std::nullopt;
    return end_;
}
const char* Connection::termination_detail() const { return detail_; }
const Negotiated& Connection::negotiated() const { return negotiated_; }
const Settings& Connection::settings() const { return settings_; }
const Counters& Connection::counters() const { return counters_; }
uint32_t Connection::send_credits() const { return send_credits_; }
uint32_t Connection::receives_outstanding() const { return posted_; }
uint32_t Connection::receive_credit_target() const { return target_; }

// Not more than the last credit: that one may not be spent without a grant [MS-SMBD] 3.1.5.1, and a peer
// whose own program does not read has nothing to grant. With two, it can always answer; with messages of it
// in flight, they arrive before we judge.
bool Connection::peer_starved() const { return known_to_peer() <= 1; }

}  // namespace smbdirect::connection
