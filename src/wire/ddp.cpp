#include "wire/ddp.hpp"

#include <cstring>

#include "wire/big_endian.hpp"

namespace smbdirect::wire {
namespace {

constexpr uint8_t ddp_tagged = 0x80, ddp_last = 0x40, ddp_version_mask = 0x03,
                  ddp_version = 1;                                                      // RFC 5041 4.1
constexpr uint8_t rdmap_version_mask = 0xc0, rdmap_version = 0x40, opcode_mask = 0x0f;  // RFC 5040 4.1

bool opcode_is_tagged(Rdmap opcode) { return opcode == Rdmap::write || opcode == Rdmap::read_response; }

size_t least_ulpdu(Rdmap opcode) {
    switch (opcode) {
        case Rdmap::write:
        case Rdmap::read_response:
            return tagged_header_size;
        case Rdmap::read_request:
            return untagged_header_size + read_request_size;
        case Rdmap::terminate:
            return untagged_header_size + terminate_control_size;
        default:
            return untagged_header_size;
    }
}

}  // namespace

std::expected<size_t, Violation> fpdu_header_size(std::span<const std::byte, fpdu_control_size> control) {
    const auto ulpdu = load_be<uint16_t>(control.data());
    const auto ddp = std::to_integer<uint8_t>(control[2]), rdmap = std::to_integer<uint8_t>(control[3]);
    const bool tagged = ddp & ddp_tagged;
    if (ulpdu < tagged_header_size) return std::unexpected(violation::mpa_length);
    if ((ddp & ddp_version_mask) != ddp_version) {
        return std::unexpected(tagged ? violation::tagged_version : violation::untagged_version);
    }
    if ((rdmap & rdmap_version_mask) != rdmap_version) return std::unexpected(violation::rdmap_version);
    const auto opcode = static_cast<Rdmap>(rdmap & opcode_mask);
    if (opcode > Rdmap::terminate) return std::unexpected(violation::rdmap_opcode);
    if (opcode_is_tagged(opcode) != tagged) return std::unexpected(violation::rdmap_opcode);
    if (ulpdu < least_ulpdu(opcode)) return std::unexpected(violation::mpa_length);
    // A Read Request has one size and one segment (RFC 5040 4.4).
    if (opcode == Rdmap::read_request && (ulpdu != least_ulpdu(opcode) || !(ddp & ddp_last))) {
        return std::unexpected(violation::rdmap_stream);
    }
    return tagged ? fpdu_tagged_header : fpdu_untagged_header;
}

Segment parse_segment(std::span<const std::byte> header) {
    Segment segment;
    const auto ddp = std::to_integer<uint8_t>(header[2]), rdmap = std::to_integer<uint8_t>(header[3]);
    segment.tagged = ddp & ddp_tagged;
    segment.last = ddp & ddp_last;
    segment.opcode = static_cast<Rdmap>(rdmap & opcode_mask);
    segment.ulpdu_length = load_be<uint16_t>(&header[0]);
    segment.stag = load_be<uint32_t>(&header[4]);
    if (segment.tagged) {
        segment.offset = load_be<uint64_t>(&header[8]);
        segment.payload_length = segment.ulpdu_length - tagged_header_size;
    } else {
        segment.queue = load_be<uint32_t>(&header[8]);
        segment.msn = load_be<uint32_t>(&header[12]);
        segment.offset = load_be<uint32_t>(&header[16]);
        segment.payload_length = segment.ulpdu_length - untagged_header_size;
    }
    return segment;
}

size_t build_segment(const Segment& segment, std::byte* out) {
    const size_t header = segment.tagged ? tagged_header_size : untagged_header_size;
    store_be<uint16_t>(out, static_cast<uint16_t>(header + segment.payload_length));
    uint8_t ddp = ddp_version;
    if (segment.tagged) ddp |= ddp_tagged;
    if (segment.last) ddp |= ddp_last;
    out[2] = std::byte{ddp};
    out[3] = std::byte{static_cast<uint8_t>(rdmap_version | static_cast<uint8_t>(segment.opcode))};
    store_be<uint32_t>(out + 4, segment.stag);
    if (segment.tagged) {
        store_be<uint64_t>(out + 8, segment.offset);
    } else {
        store_be<uint32_t>(out + 8, segment.queue);
        store_be<uint32_t>(out + 12, segment.msn);
        store_be<uint32_t>(out + 16, static_cast<uint32_t>(segment.offset));
    }
    return fpdu_length_size + header;
}

ReadRequest parse_read_request(std::span<const std::byte, read_request_size> bytes) {
    ReadRequest request;
    request.sink_stag = load_be<uint32_t>(&bytes[0]);
    request.sink_offset = load_be<uint64_t>(&bytes[4]);
    request.length = load_be<uint32_t>(&bytes[12]);
    request.source_stag = load_be<uint32_t>(&bytes[16]);
    request.source_offset = load_be<uint64_t>(&bytes[20]);
    return request;
}

void build_read_request(const ReadRequest& request, std::byte* out) {
    store_be<uint32_t>(out, request.sink_stag);
    store_be<uint64_t>(out + 4, request.sink_offset);
    store_be<uint32_t>(out + 12, request.length);
    store_be<uint32_t>(out + 16, request.source_stag);
    store_be<uint64_t>(out + 20, request.source_offset);
}

size_t build_terminate(const Violation& why, uint16_t segment_length, std::span<const std::byte> header,
                       std::byte* out) {
    constexpr uint8_t has_length = 0x80, has_ddp_header = 0x40;
    out[0] = std::byte{static_cast<uint8_t>(why.layer << 4 | (why.type & 0x0f))};
    out[1] = std::byte{why.code};
    out[2] = std::byte{static_cast<uint8_t>(header.empty() ? 0 : has_length | has_ddp_header)};
    out[3] = std::byte{0};
    if (header.empty()) return terminate_control_size;
    store_be<uint16_t>(out + 4, segment_length);
    std::memcpy(out + 6, header.data(), header.size());
    return terminate_control_size + 2 + header.size();
}

Violation parse_terminate(std::span<const std::byte, terminate_control_size> control) {
    const auto first = std::to_integer<uint8_t>(control[0]);
    return {static_cast<uint8_t>(first >> 4), static_cast<uint8_t>(first & 0x0f),
            std::to_integer<uint8_t>(control[1])};
}

}  // namespace smbdirect::wire
