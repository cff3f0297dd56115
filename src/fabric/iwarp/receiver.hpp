// The receiving half of an iWARP stream: takes FPDUs apart, checks them, and places payload straight from the
// socket into posted receives, registered memory and read sinks. It reads through ByteSource, so tests and
// fuzzers feed it too.
//
// Speed comes from reading many FPDUs in one call: the layout of the bytes to come is guessed (the next Sends
// have the size of the last one and go to the next receives; a read response goes on as it began), and an
// iovec sends each part where it belongs. Nothing is believed of a guess: the parser walks over what has
// arrived, and where a byte does not lie where it must, the rest is moved aside and copied.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "fabric/iwarp/crc.hpp"
#include "fabric/iwarp/stream.hpp"

namespace smbdirect::fabric::iwarp {

class ByteSource {
  public:
    // As readv(2): bytes, 0 at the end, -1 with errno.
    virtual ssize_t read_bytes(const iovec* iov, int count) = 0;

  protected:
    ~ByteSource() = default;
};

class ReceiverEvents {
  public:
    // A whole message; the receive has left the queue.
    virtual void on_message(const soft::PostedReceive& receive, uint32_t length,
                            std::optional<uint32_t> invalidated) = 0;
    virtual void on_read_done(uint64_t work) = 0;
    virtual void on_read_requested() = 0;

  protected:
    ~ReceiverEvents() = default;
};

// Buffers for one reading turn. Nothing stays in them between turns, so all streams of a loop share one.
struct ReceiveStaging {
    static constexpr size_t tail_size = 64 * 1024, guess_size = 256 * 1024, max_iov = 64, scratch_size = 32;
    std::array<iovec, max_iov> iov;
    std::array<std::array<std::byte, scratch_size>, max_iov> scratch;
    std::array<std::byte, tail_size> tail;
    std::array<std::byte, guess_size + 2 * tail_size + 4096> repair;
};

class Receiver {
  public:
    enum class Turn : uint8_t { drained, more, end_of_stream, io_error, fault };

    Receiver(Stream& stream, ReceiverEvents& events, ReceiveStaging& staging)
        : stream_(stream), events_(events), staging_(staging) {}

    // Reads at most about a quarter of a MiB.
    Turn turn(ByteSource& source);
    int io_errno() const { return io_errno_; }
    const Fault& fault() const { return fault_; }
    // The header at fault, for the Terminate; empty when it is not whole.
    std::span<const std::byte> fault_header() const;
    // The peer's Terminate, when fault().reason is remote_terminate.
    wire::Violation peer_violation() const { return peer_violation_; }
    // Between two messages: an end of stream here loses nothing.
    bool at_boundary() const {
        return phase_ == Phase::header && have_ == 0 && !message_open_ && !tagged_open_;
    }

  private:
    enum class Phase : uint8_t { header, payload, trailer };
    enum class Target : uint8_t { receive, region, sink, control };

    // ---- the bytes of this turn
    struct View {
        size_t index = 0, position = 0, left = 0;
        size_t guarded = 0;  // iovecs below this index lie in the user's memory
    };
    std::span<std::byte> front() const;
    void advance(size_t count);
    void linearise();

    // ---- laying out the next read
    size_t lay_out();
    bool lay_payload(Target target, uint64_t number, uint64_t offset, uint32_t length);
    void lay(std::byte* at, size_t length);
    struct Guess {
        uint64_t number = 0, offset = 0;  // as for destination()
        uint32_t length = 0;              // 0: none
    };
    Guess guess(uint32_t count) const;
    size_t guess_header_size() const;
    void lay_guesses(size_t& gap);

    // ---- taking apart
    bool consume();
    bool take_header();
    bool take_payload();
    bool take_trailer();
    bool begin_segment();
    bool begin_untagged();
    bool begin_send();
    bool begin_write();
    bool begin_read_response();
    bool finish_segment();
    bool finish_send();
    bool finish_read_request();
    bool finish_read_response();
    bool finish_terminate();
    void note_for_guessing();
    // The first contiguous piece for `length` bytes, judged anew at every call: whoever deregisters memory in
    // the middle of a segment is safe from the rest of it. Null address: may not be touched. receive: number
    // of the receive, offset in the message; region: STag and TO; sink: number of the work, offset in it.
    Sge destination(Target target, uint64_t number, uint64_t offset, uint32_t length) const;
    uint32_t trailer_size() const { return wire::fpdu_pad(segment_.ulpdu_length) + wire::crc_size; }
    bool fail_with(wire::Violation violation, Reason reason = Reason::ddp_violation);

    Stream& stream_;
    ReceiverEvents& events_;
    ReceiveStaging& staging_;
    View view_;
    size_t iov_count_ = 0, laid_ = 0, scratch_used_ = 0;

    Phase phase_ = Phase::header;
    Target target_ = Target::control;
    wire::Segment segment_;
    std::array<std::byte, wire::fpdu_untagged_header> header_;
    std::array<std::byte, 8> trailer_;
    std::array<std::byte, wire::terminate_max_size> control_;
    uint32_t have_ = 0, need_ = wire::fpdu_control_size;  // of header or trailer
    uint32_t placed_ = 0;                                 // of this segment's payload
    uint64_t target_number_ = 0, target_base_ = 0;        // where it goes: see destination()
    Crc32c crc_;

    uint32_t send_msn_ = 1, read_msn_ = 1;  // RFC 5041 5.1: the first is 1
    uint32_t message_received_ = 0;         // of the untagged message that is open
    bool message_open_ = false;
    wire::Rdmap message_opcode_ = wire::Rdmap::send;
    bool tagged_open_ = false;
    wire::Segment tagged_;      // the last segment of the open tagged message
    uint64_t tagged_next_ = 0;  // TO that continues it

    uint32_t guess_length_ = 0;  // payload of the FPDUs to come; 0 = no guess
    Target guess_kind_ = Target::receive;
    unsigned guess_misses_ = 0;

    int io_errno_ = 0;
    Fault fault_;
    wire::Violation peer_violation_;
    bool header_known_ = false;
};

}  // namespace smbdirect::fabric::iwarp
