// The layouts of MS-SMBD 1.0 [MS-SMBD] 2.2: parse and build, nothing else. No rule of the protocol is checked
// here; parse() only refuses what is too short to hold the layout. All fields are little endian, unsigned and
// packed; reserved fields and padding are ignored when parsed and zero when built [MS-SMBD] 2.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace smbdirect::wire {

constexpr uint16_t kSmbdVersion = 0x0100;
constexpr uint16_t kSmbdResponseRequested = 0x0001;  // Flags: SMB_DIRECT_RESPONSE_REQUESTED
// Not in [MS-SMBD], which has no half-close: a flag of empty messages between two engines that have told each
// other that they know it. The sender's stream ends here, be it in the middle of a message.
constexpr uint16_t kSmbdEndOfStream = 0x8000;

// Least values that a peer may offer [MS-SMBD] 3.1.5.6, 3.1.5.7.
constexpr uint32_t kSmbdLeastReceiveSize = 128;
constexpr uint32_t kSmbdLeastFragmentedSize = 131072;

// NTSTATUS values of a negotiate response.
constexpr uint32_t kStatusSuccess = 0;
constexpr uint32_t kStatusNotSupported = 0xC00000BB;
constexpr uint32_t kStatusInsufficientResources = 0xC000009A;

// [MS-SMBD] 2.2.1, the initiator's first message.
struct NegotiateRequest {
    static constexpr size_t kSize = 20;
    uint16_t min_version = kSmbdVersion;
    uint16_t max_version = kSmbdVersion;
    uint16_t credits_requested = 0;
    uint32_t preferred_send_size = 0;
    uint32_t max_receive_size = 0;
    uint32_t max_fragmented_size = 0;

    friend bool operator==(const NegotiateRequest&, const NegotiateRequest&) = default;
};

// [MS-SMBD] 2.2.2.
struct NegotiateResponse {
    static constexpr size_t kSize = 32;
    uint16_t min_version = kSmbdVersion;
    uint16_t max_version = kSmbdVersion;
    uint16_t negotiated_version = 0;
    uint16_t credits_requested = 0;
    uint16_t credits_granted = 0;
    uint32_t status = 0;
    uint32_t max_read_write_size = 0;
    uint32_t preferred_send_size = 0;
    uint32_t max_receive_size = 0;
    uint32_t max_fragmented_size = 0;

    friend bool operator==(const NegotiateResponse&, const NegotiateResponse&) = default;
};

// [MS-SMBD] 2.2.3: the header of a Data Transfer message. An empty message is these 20 bytes; with a payload
// 4 bytes of padding follow, so that it starts at offset 24.
struct DataTransferHeader {
    static constexpr size_t kSize = 20;
    static constexpr size_t kPaddedSize = 24;
    uint16_t credits_requested = 0;
    uint16_t credits_granted = 0;
    uint16_t flags = 0;
    uint32_t remaining_data_length = 0;
    uint32_t data_offset = 0;
    uint32_t data_length = 0;

    friend bool operator==(const DataTransferHeader&, const DataTransferHeader&) = default;
};

// [MS-SMBD] 2.2.3.1, found inside SMB2 messages: part of a registered buffer of the peer.
struct BufferDescriptorV1 {
    static constexpr size_t kSize = 16;
    uint64_t offset = 0;
    uint32_t token = 0;
    uint32_t length = 0;

    friend bool operator==(const BufferDescriptorV1&, const BufferDescriptorV1&) = default;
};

// Nothing when the bytes are fewer than kSize; more are fine, the tail is not looked at.
std::optional<NegotiateRequest> parse_negotiate_request(std::span<const std::byte> bytes);
std::optional<NegotiateResponse> parse_negotiate_response(std::span<const std::byte> bytes);
std::optional<DataTransferHeader> parse_data_transfer_header(std::span<const std::byte> bytes);
std::optional<BufferDescriptorV1> parse_buffer_descriptor(std::span<const std::byte> bytes);

void build(const NegotiateRequest& request, std::span<std::byte, NegotiateRequest::kSize> out);
void build(const NegotiateResponse& response, std::span<std::byte, NegotiateResponse::kSize> out);
// Writes the padding as well: an empty message is the first kSize bytes of it.
void build(const DataTransferHeader& header, std::span<std::byte, DataTransferHeader::kPaddedSize> out);
void build(const BufferDescriptorV1& descriptor, std::span<std::byte, BufferDescriptorV1::kSize> out);

}  // namespace smbdirect::wire
