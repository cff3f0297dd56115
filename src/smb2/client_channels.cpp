#include "smb2/client_channels.hpp"

#include <algorithm>

namespace smbdirect::smb2 {

using namespace wire::smb2;

ClientChannels::ClientChannels(const ClientLimits& limits)
    : limits_(limits), outstanding_(limits.max_requests, 0) {
    request_.reserve(kRequestSize + limits.max_descriptors * Descriptor::kSize);
    pipes_.reserve(kPipesKnown);
}

Result<ClientChannels::RequestLook> ClientChannels::look_at_request(std::span<const std::byte> start,
                                                                    uint32_t length) const {
    using Kind = RequestLook::Kind;
    const bool too_long = length > limits_.max_message_out;
    const auto pass = [&]() -> Result<RequestLook> {
        if (too_long) return fail(Reason::channel_needed, EMSGSIZE);
        return RequestLook{};
    };
    const auto header = parse_header(start);
    if (!header || !is_transfer(header->command)) return pass();
    const auto transfer = parse_transfer(start, header->command);
    if (!transfer) return pass();
    const bool write = transfer->write;
    const uint32_t amount = transfer->length;
    // A reply that we could not take inline ends the connection, so the request must not go out like this.
    const bool must = too_long || (!write && uint64_t{amount} + kReadReplySize > limits_.max_message_in);
    const bool fits =
        limits_.allowed && header->next_command == 0 && !(header->flags & (is_signed | related_operations)) &&
        transfer->channel == Channel::none && negotiated_.is_version_3() && !is_pipe(*header) &&
        amount <= limits_.max_transfer &&
        (!write || (transfer->data_offset == kRequestSize && length - kRequestSize == amount)) &&
        outstanding_.has_room(0) && amount != 0;
    if (fits && (must || amount >= limits_.threshold))
        return RequestLook{write ? Kind::write : Kind::read, amount};
    if (must) return fail(Reason::channel_needed, EMSGSIZE);
    return pass();
}

std::span<const std::byte> ClientChannels::build_request(std::span<const std::byte> start,
                                                         std::span<const Descriptor> buffer,
                                                         uint32_t cookie) {
    const auto header = parse_header(start);
    const auto inlined = parse_transfer(start, header->command);
    const size_t count = std::min<size_t>(buffer.size(), limits_.max_descriptors);

    Transfer transfer;
    transfer.write = inlined->write;
    transfer.channel = Channel::rdma_v1;
    if (transfer.write)
        transfer.remaining_bytes = inlined->length;  // Length and DataOffset are 0 [MS-SMB2] 3.2.4.7
    else
        transfer.length = inlined->length;
    transfer.channel_info_offset = kRequestSize;
    transfer.channel_info_length = static_cast<uint16_t>(count * Descriptor::kSize);
    request_.resize(kRequestSize + count * Descriptor::kSize);
    std::copy_n(start.begin(), kRequestSize, request_.begin());
    set_transfer(request_, transfer);
    for (size_t i = 0; i < count; ++i)
        wire::build(buffer[i], std::span<std::byte, Descriptor::kSize>(
                                   &request_[kRequestSize + i * Descriptor::kSize], Descriptor::kSize));

    Request request;
    request.message_id = header->message_id;
    request.command = header->command;
    request.length = inlined->length;
    request.cookie = cookie;
    outstanding_.add(request, {});
    return request_;
}

Result<ClientChannels::ReplyLook> ClientChannels::look_at_reply(std::span<const std::byte> start,
                                                                uint32_t length) {
    using Kind = ReplyLook::Kind;
    negotiated_.learn(start);
    const auto header = parse_header(start);
    if (!header) return ReplyLook{};
    if (header->command == Command::tree_connect) learn_tree(*header, start);
    Request* request = outstanding_.find(header->message_id);
    if (!request) return ReplyLook{};
    // No request of a compound was translated, and nobody gathers replies to single ones into compounds.
    if (header->next_command != 0) return fail(Reason::channel_reply, ECONNRESET);
    if (is_interim(*header)) return ReplyLook{};

    ReplyLook look{.kind = Kind::release, .cookie = request->cookie, .amount = 0, .header = {}};
    const bool data = carries_data(*header, *request);
    const uint32_t wanted = request->length;
    outstanding_.remove(request);
    if (!data) return look;
    const auto reply = parse_read_reply(start);
    if (!reply || reply->structure_size != kReplyStructureSize || length < kReadReplySize)
        return fail(Reason::channel_reply, ECONNRESET);
    if (reply->data_length != 0) return look;  // the peer answered inline after all
    if (reply->data_remaining > wanted) return fail(Reason::channel_reply, ECONNRESET);
    look.kind = Kind::data;
    look.amount = reply->data_remaining;
    std::copy_n(start.begin(), kReadReplySize, look.header.begin());
    set_read_reply(look.header, {.structure_size = kReplyStructureSize,
                                 .data_offset = kReadReplySize,
                                 .data_length = look.amount,
                                 .data_remaining = 0});
    return look;
}

// A pipe's READ and WRITE are passed to another program, and not every server looks for a channel on that
// way: ksmbd writes the bytes that are behind the request, none. smbclient's reach 4280 bytes.
void ClientChannels::learn_tree(const Header& header, std::span<const std::byte> reply) {
    if (header.status != kStatusSuccess || (header.flags & async_command)) return;
    const Tree tree = tree_of(header);
    std::erase(pipes_, tree);  // it may have been another share's
    if (parse_share_type(reply) != kShareTypePipe) return;
    if (pipes_.size() == kPipesKnown) pipes_.erase(pipes_.begin());
    pipes_.push_back(tree);
}

bool ClientChannels::is_pipe(const Header& request) const {
    return std::find(pipes_.begin(), pipes_.end(), tree_of(request)) != pipes_.end();
}

}  // namespace smbdirect::smb2
