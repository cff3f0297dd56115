#include "smb2/channel_use.hpp"

#include <algorithm>

namespace smbdirect::smb2 {

using namespace wire::smb2;

void Negotiated::learn(std::span<const std::byte> start) {
    const auto header = parse_header(start);
    if (!header || header->command != Command::negotiate || header->status != kStatusSuccess ||
        !(header->flags & server_to_redirector))
        return;
    if (const auto reply = parse_negotiate_reply(start)) {
        dialect = reply->dialect;
        max_read_size = reply->max_read_size;
        max_write_size = reply->max_write_size;
    }
}

uint32_t look_wanted(std::span<const std::byte> start, uint32_t length) {
    const auto begins_with = [start](uint32_t identifier) {
        for (size_t i = 0; i < std::min(start.size(), sizeof identifier); ++i)
            if (static_cast<uint8_t>(start[i]) != static_cast<uint8_t>(identifier >> (8 * i))) return false;
        return true;
    };
    if (begins_with(kProtocolId)) return std::min(kLook, length);
    return begins_with(kTransformId) ? std::min<uint32_t>(sizeof kTransformId, length) : 1;
}

Unused why_unused(std::span<const std::byte> start, uint32_t length, const Negotiated& negotiated) {
    if (protocol_id(start) == kTransformId)
        return length >= kChannelThreshold ? Unused::encryption : Unused::none;
    const auto header = parse_header(start);
    if (!header || (header->flags & server_to_redirector) || !is_transfer(header->command))
        return Unused::none;
    const auto transfer = parse_transfer(start, header->command);
    if (!transfer || transfer->channel != Channel::none || transfer->length < kChannelThreshold)
        return Unused::none;
    if (header->flags & is_signed) return Unused::signing;
    return negotiated.is_version_3() ? Unused::none : Unused::dialect;
}

}  // namespace smbdirect::smb2
