// Connection: the MS-SMBD 1.0 state machine [MS-SMBD] 3.1, sans I/O. It owns no fd, clock, thread or buffer
// and allocates nothing after construction. A driver feeds it events (time is an argument) and carries out
// what it asks for.
//
// Receiving: the driver posts receives (posting a receive is what makes credits grantable). A Data Transfer
// message is received as a private header buffer of 24 bytes plus one slot: payload that starts at DataOffset
// 24 lies at offset 0 of the slot. Before negotiation ends, one receive of a private buffer of >= 512 bytes
// is used instead.
//
// Sending is pulled: the driver announces the upper-layer message at the head of its stream and how many of
// its bytes are there; next_message() then yields one wire message after another while credits and rules
// allow.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.hpp"

namespace smbdirect::connection {

using Nanoseconds = int64_t;

enum class Role : uint8_t { active, passive };  // [MS-SMBD] 3.1.1.1: initiator, acceptor

// What we want. All sizes in bytes.
struct Settings {
    uint16_t send_credit_target = 255;  // CreditsRequested, 1..65535 (<= 255 stays visible to Wireshark)
    uint16_t receive_credit_max = 255;  // receives outstanding at most, >= 3
    uint32_t max_send_size = 8136;      // offered as PreferredSendSize; strangers accept 1029..8136
    uint32_t max_receive_size = 8192;   // >= 128
    uint32_t max_fragmented_receive_size = 8 * 1024 * 1024 + 64 * 1024;  // >= 131072
    uint32_t max_read_write_size = 8 * 1024 * 1024;
    Nanoseconds negotiate_timeout_active = 120'000'000'000;
    Nanoseconds negotiate_timeout_passive = 5'000'000'000;
    // Above the 120 s and 5 s of others on purpose: Linux's older client (Debian 12) keeps alive with a plain
    // empty message after 120 s, and ends the connection when our question crosses that (see README.md).
    Nanoseconds keepalive_interval = 150'000'000'000;
    Nanoseconds keepalive_answer = 30'000'000'000;
    bool send_with_invalidate = true;  // the fabric can
    bool half_close = false;           // the peer knows wire::kSmbdEndOfStream
};

struct Negotiated {
    uint16_t version = 0;
    uint32_t max_send_size = 0, max_receive_size = 0;
    uint32_t max_fragmented_send_size = 0, max_fragmented_receive_size = 0;
    uint32_t max_read_write_size = 0;
    uint32_t keepalive_interval_ms = 0;
};

enum class State : uint8_t { idle, connecting, negotiating, established, terminated };

// One message to post now. header lives in the Connection until the next call.
struct OutgoingMessage {
    std::span<const std::byte> header;  // 20 (empty or request), 24 (data) or 32 bytes (response)
    uint32_t payload_offset =
        0;  // from the first not yet sent byte's message start: offset in the announced message
    uint32_t payload_length = 0;
    bool last_fragment = false;  // ends the announced message: announce the next one
    std::optional<uint32_t> invalidate_token;
    uint16_t credits_granted = 0;
    uint16_t flags = 0;
    uint32_t remaining_data_length = 0;
};

// What a received message means for the upper layer.
struct Delivery {
    uint32_t slot_offset = 0;  // payload lies here in the slot of the receive
    uint32_t length = 0;       // 0: nothing to deliver, the slot is free again
    bool first_fragment = false;
    uint32_t message_length = 0;  // of the whole upper-layer message; valid with first_fragment
    bool last_fragment = false;
    bool end_of_stream = false;                 // the peer sends no more data
    std::optional<uint32_t> invalidated_token;  // goes up with the last fragment [MS-SMBD] 3.1.5.8
    uint16_t credits_granted = 0, flags = 0;    // for the trace
    uint32_t remaining_data_length = 0;
};

struct Counters {
    uint64_t messages_sent = 0, messages_received = 0;  // Data Transfer messages, empty ones included
    uint64_t empty_sent = 0, empty_received = 0;
    uint64_t payload_bytes_sent = 0, payload_bytes_received = 0;
    uint64_t upper_messages_sent = 0, upper_messages_received = 0;
    uint64_t credits_granted = 0, credits_received = 0;
    uint64_t keepalives_sent = 0, keepalives_answered = 0;
    uint64_t stalls_no_credit = 0, stalls_last_credit = 0;  // times a message had to wait
};

class Connection {
  public:
    // Receives are kept posted for at least so many messages, whatever the peer asks for and the driver
    // allows. A peer with one credit may not spend it without a grant; with a window of 1, two of them can
    // wait for each other for ever once targets were lowered, and below 3 two idle peers pass a grant to and
    // fro for ever.
    static constexpr uint16_t kLeastWindow = 3;
    // While a message is only partly there, this many of its bytes stay behind. Nothing but its own fragments
    // may be sent before its end, so they are the carriers for grants and answers, one byte each, until the
    // program goes on.
    static constexpr uint32_t kHeldBack = 64;

    Connection(Role role, const Settings& settings);

    // ---- life
    void start(Nanoseconds now);                     // arms the negotiation timer
    void on_transport_established(Nanoseconds now);  // active: the Negotiate Request becomes due
    void on_transport_lost();                        // no action may follow
    void on_timer(Nanoseconds now);                  // call at or after deadline()
    std::optional<Nanoseconds> deadline() const;
    State state() const;
    // Set when state() became terminated by this side's decision: the driver disconnects (after sending what
    // next_message() still yields: a failure response [MS-SMBD] 3.1.5.6).
    std::optional<Error> termination() const;
    // For the trace: the rule that was broken, or what else ended the connection; "" while there is nothing
    // to say.
    const char* termination_detail() const;
    const Negotiated& negotiated() const;
    const Settings& settings() const;
    const Counters& counters() const;

    // ---- receiving
    // How many more receives of negotiated().max_receive_size (header of 24 + slot) should be posted now.
    uint32_t receives_wanted() const;
    // [MS-SMBD] 3.1.5.9: the last credit only goes with a grant, and there is nothing to grant: one more
    // receive at least, whatever else memory is wanted for.
    bool needs_receive_to_send() const;
    void on_receives_posted(uint32_t count);
    // Not one receive could be posted at the end of negotiation: the passive side answers with a failure
    // response [MS-SMBD] 3.1.5.6, the active side gives up [MS-SMBD] 3.1.5.7. Later on, just post fewer than
    // wanted.
    void on_no_receives();
    // A negotiation message, in the private buffer. Returns an error when it ended the connection.
    Result<void> on_negotiate_message(std::span<const std::byte> message, Nanoseconds now);
    // A Data Transfer message of byte_length bytes whose first min(24, byte_length) bytes are `header` (a
    // private copy). One posted receive was consumed by it.
    Result<Delivery> on_data_transfer(std::span<const std::byte> header, uint32_t byte_length,
                                      std::optional<uint32_t> invalidated_token, Nanoseconds now);
    bool expects_negotiate_message() const;

    // ---- sending
    // The head of the driver's stream: a message of `length` bytes (> 0), `available` of which are there
    // already. Call announce once a message, and on_available as more arrives. Error: EMSGSIZE beyond
    // MaxFragmentedSendSize.
    Result<void> announce_message(uint32_t length, uint32_t available,
                                  std::optional<uint32_t> invalidate_token);
    void on_available(uint32_t available);  // total bytes of the announced message that are there
    bool message_announced() const;         // and not yet wholly handed out
    // What is there goes even where it does not fill a fragment, this once; nothing is held back.
    void push();
    bool is_held_back()
        const;  // something is there that waits for the rest of its message: push() would help
    // Where the peer knows it (Settings::half_close): after all that is there the end of our stream goes, in
    // the middle of a message as well. Nothing may be announced after it.
    void end_stream();
    bool stream_end_sent() const;
    // The next message to post, if any may go now: negotiation, fragment, grant, keep-alive or answer.
    std::optional<OutgoingMessage> next_message(Nanoseconds now);

    // ---- to look at
    uint32_t send_credits() const;
    uint32_t receives_outstanding() const;   // posted, not yet consumed by a message
    uint32_t receive_credit_target() const;  // the peer's latest CreditsRequested, clamped to 3..max
    // Receives to keep posted: the window. Opens with use; the driver may lower the ceiling (memory) at any
    // time.
    void set_receive_ceiling(uint32_t receives);  // 3..receive_credit_max
    // The peer holds at most its last credit, which it may be unable to spend (because the program here does
    // not read): silence says nothing about its life then, and only the transport can judge it.
    bool peer_starved() const;

  private:
    enum class Keepalive : uint8_t { none, pending, sent };  // KeepaliveRequested [MS-SMBD] 3.1.1.1
    enum class Phase : uint8_t { awaiting, request_due, request_sent, response_due, refusal_due, done };

    bool alive() const { return state_ != State::terminated; }
    std::unexpected<Error> terminate(Reason reason, int errnum, const char* detail);
    std::unexpected<Error> violate(const char* detail);
    std::unexpected<Error> ended() const;

    Result<void> take_request(std::span<const std::byte> message);
    Result<void> take_response(std::span<const std::byte> message, Nanoseconds now);
    void establish(Nanoseconds now);
    std::optional<OutgoingMessage> next_negotiate_message(Nanoseconds now);

    void set_target(uint16_t credits_requested);
    uint32_t window() const { return target_ < ceiling_ ? target_ : ceiling_; }
    uint32_t known_to_peer() const {
        return posted_ - grantable_;
    }  // credits of the peer, those in flight included
    bool grant_due() const;
    bool must_send() const;
    bool is_pushed() const { return pushed_ || ending_; }
    void on_idle(Nanoseconds now);
    void count_stall();
    OutgoingMessage emit(uint32_t payload, Nanoseconds now);

    // What next_message() needs, close together.
    State state_ = State::idle;
    Keepalive keepalive_ = Keepalive::none;
    bool answer_due_ = false;  // SendImmediate [MS-SMBD] 3.1.1.1: the peer asked for a sign of life
    bool probe_due_ = false;   // a keep-alive without RESPONSE_REQUESTED, see peer_starved()
    bool stalled_ = false;     // the present wait was counted
    bool pushed_ = false, ending_ = false, end_sent_ = false;  // see push(), end_stream()
    uint16_t credits_requested_ = 1;
    uint32_t send_credits_ = 0;  // SendCredits; saturates
    uint32_t posted_ = 0;        // receives posted and not consumed
    uint32_t grantable_ = 0;     // of these: not yet announced to the peer
    uint32_t target_ = 0;        // ReceiveCreditTarget, clamped
    uint32_t ceiling_ = 0;
    uint32_t fragment_size_ = 0;   // payload of a full fragment
    uint32_t message_length_ = 0;  // announced message; 0 = none
    uint32_t message_available_ = 0, message_sent_ = 0;
    std::array<std::byte, 32> header_{};
    Nanoseconds idle_deadline_ = 0;
    Nanoseconds quiet_since_ = 0;  // when we last sent something, or wanted to
    Counters counters_;
    std::optional<uint32_t> message_token_;

    // Receiving.
    uint32_t receive_left_ = 0;  // FragmentReassemblyRemaining; > 0 inside a sequence
    std::optional<uint32_t> invalidated_token_;
    bool peer_ended_ = false;  // its stream

    // Life.
    Role role_;
    Phase phase_ = Phase::awaiting;
    bool transport_established_ = false;
    bool early_request_ = false;  // the request overtook on_transport_established()
    uint8_t early_length_ = 0;
    uint32_t refusal_status_ = 0;
    Nanoseconds negotiate_deadline_ = 0;
    std::array<std::byte, 32> early_{};
    Error end_;
    bool ended_by_us_ = false;
    const char* detail_ = "";
    Settings settings_;
    Negotiated negotiated_;
};

}  // namespace smbdirect::connection
