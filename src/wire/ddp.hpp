// What an FPDU carries: MPA's length and trailer (RFC 5044 4), the DDP header (RFC 5041 4) and RDMAP's part
// of it and its own messages (RFC 5040 4). Offsets count from the first byte of the FPDU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace smbdirect::wire {

constexpr size_t fpdu_length_size = 2;
constexpr size_t fpdu_control_size = 4;  // length and the two control bytes: enough to know the header's size
constexpr size_t crc_size = 4;
constexpr size_t tagged_header_size = 14;  // without the length field
constexpr size_t untagged_header_size = 18;
constexpr size_t fpdu_tagged_header = fpdu_length_size + tagged_header_size;      // 16
constexpr size_t fpdu_untagged_header = fpdu_length_size + untagged_header_size;  // 20
constexpr size_t read_request_size = 28;      // RFC 5040 4.4, behind the untagged header
constexpr size_t terminate_control_size = 4;  // RFC 5040 4.8
constexpr size_t terminate_max_size = 4 + 2 + untagged_header_size + read_request_size;
constexpr uint32_t max_mulpdu = 64768;  // RFC 5044 4.5

enum class Rdmap : uint8_t {  // RFC 5040 4.2
    write = 0,
    read_request = 1,
    read_response = 2,
    send = 3,
    send_invalidate = 4,
    send_solicited = 5,
    send_solicited_invalidate = 6,
    terminate = 7,
};

enum Queue : uint32_t { queue_send = 0, queue_read_request = 1, queue_terminate = 2 };  // RFC 5040 5.1

// How a Terminate names a violation: RFC 5040 4.8, RFC 5041 8.2, RFC 5044 8; RFC 6581 10 adds the last two.
struct Violation {
    uint8_t layer = 0, type = 0, code = 0;
    friend bool operator==(const Violation&, const Violation&) = default;
};
namespace violation {
constexpr Violation rdmap_catastrophic{0, 0, 0};
constexpr Violation rdmap_stag{0, 1, 0x00}, rdmap_bounds{0, 1, 0x01}, rdmap_access{0, 1, 0x02},
    rdmap_wrap{0, 1, 0x04}, rdmap_cannot_invalidate{0, 1, 0x09};
constexpr Violation rdmap_version{0, 2, 0x05}, rdmap_opcode{0, 2, 0x06}, rdmap_stream{0, 2, 0x07};
constexpr Violation tagged_stag{1, 1, 0x00}, tagged_bounds{1, 1, 0x01}, tagged_wrap{1, 1, 0x03},
    tagged_version{1, 1, 0x04};
constexpr Violation untagged_queue{1, 2, 0x01}, untagged_no_buffer{1, 2, 0x02}, untagged_msn{1, 2, 0x03},
    untagged_offset{1, 2, 0x04}, untagged_too_long{1, 2, 0x05}, untagged_version{1, 2, 0x06};
constexpr Violation mpa_crc{2, 0, 0x02}, mpa_length{2, 0, 0x03}, mpa_bad_frame{2, 0, 0x04},
    mpa_local{2, 0, 0x05}, mpa_ird{2, 0, 0x06}, mpa_no_rtr{2, 0, 0x07};
}  // namespace violation

struct Segment {
    bool tagged = false;
    bool last = false;
    Rdmap opcode = Rdmap::send;
    uint16_t ulpdu_length = 0;
    uint32_t payload_length = 0;  // behind the DDP header
    uint32_t stag = 0;            // tagged: STag; untagged: Invalidate STag
    uint64_t offset = 0;          // tagged: TO; untagged: MO
    uint32_t queue = 0, msn = 0;  // untagged

    bool is_send() const { return opcode >= Rdmap::send && opcode <= Rdmap::send_solicited_invalidate; }
    bool invalidates() const {
        return opcode == Rdmap::send_invalidate || opcode == Rdmap::send_solicited_invalidate;
    }
};

struct ReadRequest {  // RFC 5040 4.4
    uint32_t sink_stag = 0;
    uint64_t sink_offset = 0;
    uint32_t length = 0;
    uint32_t source_stag = 0;
    uint64_t source_offset = 0;
};

// Bytes of an FPDU's header including the length field, judged by its first four bytes. Refuses at once what
// can never become valid: unknown versions and opcodes, T against opcode, a length that is shorter than its
// header (a peer that announced too little would else keep us waiting for ever).
std::expected<size_t, Violation> fpdu_header_size(std::span<const std::byte, fpdu_control_size> control);

// `header` has the size that fpdu_header_size() told.
Segment parse_segment(std::span<const std::byte> header);

// Writes length and header; returns the header's size. payload_length decides the length field.
size_t build_segment(const Segment& segment, std::byte* out);

ReadRequest parse_read_request(std::span<const std::byte, read_request_size> bytes);
void build_read_request(const ReadRequest& request, std::byte* out);

// RFC 5040 4.8: the control word, and with `header` (as it stood on the wire, length field excluded) a copy
// of the DDP header that was at fault. Returns the size of the Terminate payload.
size_t build_terminate(const Violation& why, uint16_t segment_length, std::span<const std::byte> header,
                       std::byte* out);
// Reads the control word in RFC order.
Violation parse_terminate(std::span<const std::byte, terminate_control_size> control);

// Pad bytes that make length field, ULPDU and pad a multiple of four (RFC 5044 4.1).
constexpr uint32_t fpdu_pad(uint32_t ulpdu_length) { return -(2 + ulpdu_length) & 3; }

}  // namespace smbdirect::wire
