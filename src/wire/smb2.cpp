#include "wire/smb2.hpp"

#include "wire/little_endian.hpp"

namespace smbdirect::wire::smb2 {
namespace {

// Channel is at 100 in READ and at 96 in WRITE, and what follows it is moved alike [MS-SMB2] 2.2.19, 2.2.21.
constexpr size_t channel_at(bool write) { return write ? 96 : 100; }

}  // namespace

uint32_t protocol_id(std::span<const std::byte> message) {
    return message.size() < 4 ? 0 : load_le<uint32_t>(message.data());
}

std::optional<Header> parse_header(std::span<const std::byte> element) {
    if (element.size() < kHeaderSize || protocol_id(element) != kProtocolId) return std::nullopt;
    if (load_le<uint16_t>(&element[4]) != kHeaderSize) return std::nullopt;
    Header header;
    header.status = load_le<uint32_t>(&element[8]);
    header.command = static_cast<Command>(load_le<uint16_t>(&element[12]));
    header.flags = load_le<uint32_t>(&element[16]);
    header.next_command = load_le<uint32_t>(&element[20]);
    header.message_id = load_le<uint64_t>(&element[24]);
    header.tree_id = load_le<uint32_t>(&element[36]);
    header.session_id = load_le<uint64_t>(&element[40]);
    return header;
}

std::optional<Transfer> parse_transfer(std::span<const std::byte> element, Command command) {
    if (element.size() < kRequestSize) return std::nullopt;
    Transfer transfer;
    transfer.write = command == Command::write;
    if (transfer.write) transfer.data_offset = load_le<uint16_t>(&element[66]);
    transfer.length = load_le<uint32_t>(&element[68]);
    const std::byte* fields = &element[channel_at(transfer.write)];
    transfer.channel = static_cast<Channel>(load_le<uint32_t>(fields));
    transfer.remaining_bytes = load_le<uint32_t>(fields + 4);
    transfer.channel_info_offset = load_le<uint16_t>(fields + 8);
    transfer.channel_info_length = load_le<uint16_t>(fields + 10);
    return transfer;
}

std::optional<ReadReply> parse_read_reply(std::span<const std::byte> element) {
    if (element.size() < kReadReplySize) return std::nullopt;
    ReadReply reply;
    reply.structure_size = load_le<uint16_t>(&element[64]);
    reply.data_offset = std::to_integer<uint8_t>(element[66]);
    reply.data_length = load_le<uint32_t>(&element[68]);
    reply.data_remaining = load_le<uint32_t>(&element[72]);
    return reply;
}

std::optional<NegotiateReply> parse_negotiate_reply(std::span<const std::byte> message) {
    if (message.size() < kNegotiateReplySize) return std::nullopt;
    NegotiateReply reply;
    reply.dialect = load_le<uint16_t>(&message[68]);
    reply.max_read_size = load_le<uint32_t>(&message[96]);
    reply.max_write_size = load_le<uint32_t>(&message[100]);
    return reply;
}

std::optional<uint8_t> parse_share_type(std::span<const std::byte> message) {
    if (message.size() < kHeaderSize + 3) return std::nullopt;
    return std::to_integer<uint8_t>(message[66]);
}

void set_next_command(std::span<std::byte> element, uint32_t distance) { store_le(&element[20], distance); }

void set_transfer(std::span<std::byte> element, const Transfer& transfer) {
    if (transfer.write) store_le(&element[66], transfer.data_offset);
    store_le(&element[68], transfer.length);
    std::byte* fields = &element[channel_at(transfer.write)];
    store_le(fields, static_cast<uint32_t>(transfer.channel));
    store_le(fields + 4, transfer.remaining_bytes);
    store_le(fields + 8, transfer.channel_info_offset);
    store_le(fields + 10, transfer.channel_info_length);
}

void set_read_reply(std::span<std::byte> element, const ReadReply& reply) {
    store_le(&element[64], reply.structure_size);
    element[66] = std::byte{reply.data_offset};
    element[67] = std::byte{0};
    store_le(&element[68], reply.data_length);
    store_le(&element[72], reply.data_remaining);
    store_le(&element[76], uint32_t{0});  // Flags: no transform
}

}  // namespace smbdirect::wire::smb2
