#include "wire/smbd.hpp"

#include <cstring>

#include "wire/little_endian.hpp"

namespace smbdirect::wire {
namespace {

template <class T>
T load(std::span<const std::byte> bytes, size_t offset) {
    return load_le<T>(bytes.data() + offset);
}

template <class T>
void store(std::byte* out, size_t offset, T value) {
    store_le(out + offset, value);
}

}  // namespace

std::optional<NegotiateRequest> parse_negotiate_request(std::span<const std::byte> bytes) {
    if (bytes.size() < NegotiateRequest::kSize) return std::nullopt;
    NegotiateRequest request;
    request.min_version = load<uint16_t>(bytes, 0);
    request.max_version = load<uint16_t>(bytes, 2);
    // 4: Reserved
    request.credits_requested = load<uint16_t>(bytes, 6);
    request.preferred_send_size = load<uint32_t>(bytes, 8);
    request.max_receive_size = load<uint32_t>(bytes, 12);
    request.max_fragmented_size = load<uint32_t>(bytes, 16);
    return request;
}

void build(const NegotiateRequest& request, std::span<std::byte, NegotiateRequest::kSize> out) {
    store(out.data(), 0, request.min_version);
    store(out.data(), 2, request.max_version);
    store(out.data(), 4, uint16_t{0});
    store(out.data(), 6, request.credits_requested);
    store(out.data(), 8, request.preferred_send_size);
    store(out.data(), 12, request.max_receive_size);
    store(out.data(), 16, request.max_fragmented_size);
}

std::optional<NegotiateResponse> parse_negotiate_response(std::span<const std::byte> bytes) {
    if (bytes.size() < NegotiateResponse::kSize) return std::nullopt;
    NegotiateResponse response;
    response.min_version = load<uint16_t>(bytes, 0);
    response.max_version = load<uint16_t>(bytes, 2);
    response.negotiated_version = load<uint16_t>(bytes, 4);
    // 6: Reserved
    response.credits_requested = load<uint16_t>(bytes, 8);
    response.credits_granted = load<uint16_t>(bytes, 10);
    response.status = load<uint32_t>(bytes, 12);
    response.max_read_write_size = load<uint32_t>(bytes, 16);
    response.preferred_send_size = load<uint32_t>(bytes, 20);
    response.max_receive_size = load<uint32_t>(bytes, 24);
    response.max_fragmented_size = load<uint32_t>(bytes, 28);
    return response;
}

void build(const NegotiateResponse& response, std::span<std::byte, NegotiateResponse::kSize> out) {
    store(out.data(), 0, response.min_version);
    store(out.data(), 2, response.max_version);
    store(out.data(), 4, response.negotiated_version);
    store(out.data(), 6, uint16_t{0});
    store(out.data(), 8, response.credits_requested);
    store(out.data(), 10, response.credits_granted);
    store(out.data(), 12, response.status);
    store(out.data(), 16, response.max_read_write_size);
    store(out.data(), 20, response.preferred_send_size);
    store(out.data(), 24, response.max_receive_size);
    store(out.data(), 28, response.max_fragmented_size);
}

std::optional<DataTransferHeader> parse_data_transfer_header(std::span<const std::byte> bytes) {
    if (bytes.size() < DataTransferHeader::kSize) return std::nullopt;
    DataTransferHeader header;
    header.credits_requested = load<uint16_t>(bytes, 0);
    header.credits_granted = load<uint16_t>(bytes, 2);
    header.flags = load<uint16_t>(bytes, 4);
    // 6: Reserved
    header.remaining_data_length = load<uint32_t>(bytes, 8);
    header.data_offset = load<uint32_t>(bytes, 12);
    header.data_length = load<uint32_t>(bytes, 16);
    return header;
}

void build(const DataTransferHeader& header, std::span<std::byte, DataTransferHeader::kPaddedSize> out) {
    store(out.data(), 0, header.credits_requested);
    store(out.data(), 2, header.credits_granted);
    store(out.data(), 4, header.flags);
    store(out.data(), 6, uint16_t{0});
    store(out.data(), 8, header.remaining_data_length);
    store(out.data(), 12, header.data_offset);
    store(out.data(), 16, header.data_length);
    store(out.data(), 20, uint32_t{0});
}

std::optional<BufferDescriptorV1> parse_buffer_descriptor(std::span<const std::byte> bytes) {
    if (bytes.size() < BufferDescriptorV1::kSize) return std::nullopt;
    BufferDescriptorV1 descriptor;
    descriptor.offset = load<uint64_t>(bytes, 0);
    descriptor.token = load<uint32_t>(bytes, 8);
    descriptor.length = load<uint32_t>(bytes, 12);
    return descriptor;
}

void build(const BufferDescriptorV1& descriptor, std::span<std::byte, BufferDescriptorV1::kSize> out) {
    store(out.data(), 0, descriptor.offset);
    store(out.data(), 8, descriptor.token);
    store(out.data(), 12, descriptor.length);
}

}  // namespace smbdirect::wire
