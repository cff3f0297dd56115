// MPA connection setup: the Request and Reply frames of RFC 5044 7.1.1 with the enhanced words of RFC 6581 6
// and 9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace smbdirect::wire {

constexpr size_t mpa_header_size = 20;
constexpr size_t mpa_words_size = 4;  // the IRD and ORD words that lead the private data when S is set
constexpr size_t mpa_max_private_data = 512;  // RFC 5044 7.1.1: PD_Length, words included
constexpr size_t mpa_max_frame = mpa_header_size + mpa_max_private_data;
constexpr uint16_t mpa_no_negotiation = 0x3fff;  // RFC 6581 9.1: "do not negotiate"; mirrored

enum class MpaKind : uint8_t { request, reply };

struct MpaFrame {
    MpaKind kind = MpaKind::request;
    uint8_t revision = 2;
    bool markers = false;   // M: the sender of this frame wants markers in what it receives
    bool crc = false;       // C
    bool reject = false;    // R, reply only
    bool enhanced = false;  // S: the words below are there; only means something in revision 2
    // RFC 6581 9: IRD word
    bool peer_to_peer = false;  // A
    bool rtr_send = false;      // B
    uint16_t ird = 0;           // inbound reads the sender of this frame serves
    // ORD word
    bool rtr_write = false;                   // C
    bool rtr_read = false;                    // D
    uint16_t ord = 0;                         // outbound reads it wants to issue
    std::span<const std::byte> private_data;  // of the upper layer, without the words
};

enum class MpaError : uint8_t {
    incomplete,     // more bytes are needed
    wrong_key,      // not this kind of frame; a Request where a Reply is due is other_kind
    other_kind,     // both ends are initiators (RFC 5044 7.1.2)
    too_long,       // PD_Length beyond 512
    words_missing,  // S, but no room for the words
};

// `bytes` is what has arrived so far. The private data of the result points into it. `consumed` (may be null)
// is set to the size of the frame on success.
std::expected<MpaFrame, MpaError> parse_mpa(MpaKind expected, std::span<const std::byte> bytes,
                                            size_t* consumed);

// Returns the size of the frame; 0 when `out` is too small or the private data too long.
size_t build_mpa(const MpaFrame& frame, std::span<std::byte> out);

}  // namespace smbdirect::wire
