#include "wire/mpa.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "wire/big_endian.hpp"

namespace smbdirect::wire {
namespace {

constexpr std::string_view request_key = "MPA ID Req Frame";
constexpr std::string_view reply_key = "MPA ID Rep Frame";
constexpr size_t key_size = 16;

constexpr uint8_t flag_markers = 0x80, flag_crc = 0x40, flag_reject = 0x20, flag_enhanced = 0x10;
constexpr uint16_t word_high = 0x8000, word_low = 0x4000, word_value = 0x3fff;

std::string_view key_of(MpaKind kind) { return kind == MpaKind::request ? request_key : reply_key; }

bool begins_like(std::span<const std::byte> bytes, std::string_view key) {
    return std::memcmp(bytes.data(), key.data(), std::min(bytes.size(), key.size())) == 0;
}

void parse_words(const std::byte* at, MpaFrame& frame) {
    const auto ird = load_be<uint16_t>(at), ord = load_be<uint16_t>(at + 2);
    frame.peer_to_peer = ird & word_high;
    // RFC 6581 9.2: without A the other control flags mean nothing.
    frame.rtr_send = frame.peer_to_peer && (ird & word_low);
    frame.rtr_write = frame.peer_to_peer && (ord & word_high);
    frame.rtr_read = frame.peer_to_peer && (ord & word_low);
    frame.ird = ird & word_value;
    frame.ord = ord & word_value;
}

}  // namespace

std::expected<MpaFrame, MpaError> parse_mpa(MpaKind expected, std::span<const std::byte> bytes,
                                            size_t* consumed) {
    const MpaKind other = expected == MpaKind::request ? MpaKind::reply : MpaKind::request;
    if (bytes.empty()) return std::unexpected(MpaError::incomplete);
    if (!begins_like(bytes, key_of(expected))) {
        const bool is_other = bytes.size() >= key_size && begins_like(bytes, key_of(other));
        // Up to the letter in which the keys differ, a prefix of the other one is a prefix of ours.
        if (bytes.size() < key_size && begins_like(bytes, key_of(other))) {
            return std::unexpected(MpaError::incomplete);
        }
        return std::unexpected(is_other ? MpaError::other_kind : MpaError::wrong_key);
    }
    if (bytes.size() < mpa_header_size) return std::unexpected(MpaError::incomplete);

    MpaFrame frame;
    frame.kind = expected;
    const auto flags = std::to_integer<uint8_t>(bytes[16]);
    frame.revision = std::to_integer<uint8_t>(bytes[17]);
    frame.markers = flags & flag_markers;
    frame.crc = flags & flag_crc;
    // siw echoes unknown request flags, R included; in a request R means nothing.
    frame.reject = expected == MpaKind::reply && (flags & flag_reject);
    frame.enhanced =
        (flags & flag_enhanced) && frame.revision >= 2;  // RFC 6581 6: S is reserved in revision 1
    const size_t length = load_be<uint16_t>(&bytes[18]);
    if (length > mpa_max_private_data) return std::unexpected(MpaError::too_long);
    if (frame.enhanced && length < mpa_words_size) {
        if (!frame.reject) return std::unexpected(MpaError::words_missing);
        frame.enhanced = false;  // siw rejects with S and no words
    }
    if (bytes.size() < mpa_header_size + length) return std::unexpected(MpaError::incomplete);

    frame.private_data = bytes.subspan(mpa_header_size, length);
    if (frame.enhanced) {
        parse_words(frame.private_data.data(), frame);
        frame.private_data = frame.private_data.subspan(mpa_words_size);
    }
    if (consumed) *consumed = mpa_header_size + length;
    return frame;
}

size_t build_mpa(const MpaFrame& frame, std::span<std::byte> out) {
    const size_t words = frame.enhanced ? mpa_words_size : 0;
    const size_t length = words + frame.private_data.size();
    if (length > mpa_max_private_data || out.size() < mpa_header_size + length) return 0;
    std::memcpy(out.data(), key_of(frame.kind).data(), key_size);
    uint8_t flags = 0;
    if (frame.markers) flags |= flag_markers;
    if (frame.crc) flags |= flag_crc;
    if (frame.reject) flags |= flag_reject;
    if (frame.enhanced) flags |= flag_enhanced;
    out[16] = std::byte{flags};
    out[17] = std::byte{frame.revision};
    store_be<uint16_t>(&out[18], static_cast<uint16_t>(length));
    if (frame.enhanced) {
        unsigned ird = frame.ird & word_value, ord = frame.ord & word_value;
        if (frame.peer_to_peer) ird |= word_high;
        if (frame.rtr_send) ird |= word_low;
        if (frame.rtr_write) ord |= word_high;
        if (frame.rtr_read) ord |= word_low;
        store_be<uint16_t>(&out[20], static_cast<uint16_t>(ird));
        store_be<uint16_t>(&out[22], static_cast<uint16_t>(ord));
    }
    if (!frame.private_data.empty()) {
        std::memcpy(&out[mpa_header_size] + words, frame.private_data.data(), frame.private_data.size());
    }
    return mpa_header_size + length;
}

}  // namespace smbdirect::wire
