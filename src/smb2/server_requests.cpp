// What the client asks: READ and WRITE with channels become inline requests.
#include <algorithm>

#include "smb2/server_channels.hpp"

namespace smbdirect::smb2 {

using namespace wire::smb2;

namespace {

// What the program's transport can say of a message's length: 24 bits.
constexpr uint32_t kMaxInlined = 0xffffff;

constexpr uint32_t round_up_8(uint32_t n) { return (n + 7) & ~7u; }

// A program that knows no channels would answer it inline. A WRITE whose data are not behind it is refused by
// every such server.
bool is_overlooked(const Transfer& transfer) {
    return transfer.channel != Channel::none && (!transfer.write || transfer.data_offset == kRequestSize);
}

// Calls visit(descriptor) for one after the other of what channel_info() found.
template <class Visit>
void for_each_descriptor(std::span<const std::byte> info, const Visit& visit) {
    for (; !info.empty(); info = info.subspan(Descriptor::kSize)) visit(*wire::parse_buffer_descriptor(info));
}

}  // namespace

ServerChannels::ServerChannels(const ServerLimits& limits)
    : limits_(limits), outstanding_(limits.max_requests, limits.max_descriptors) {
    // What one message can hold, so that nothing is allocated later on.
    translated_.bytes.reserve(limits.max_compound + limits.max_compound / 8);
    translated_.fetches.reserve(limits.max_compound / kRequestSize);
    translated_.sources.reserve(limits.max_compound / Descriptor::kSize);
    destinations_.reserve(limits.max_compound / Descriptor::kSize);
    remembered_.reserve(limits.max_compound / Descriptor::kSize);
    reply_.reserve(limits.max_compound);
}

// ---------------------------------------------------------------- looking

bool ServerChannels::Element::has_channel() const { return transfer && transfer->channel != Channel::none; }

uint32_t ServerChannels::Element::amount() const {
    return transfer->write ? transfer->remaining_bytes : transfer->length;
}

// The Buffer Descriptors, if they lie where they may [MS-SMB2] 2.2.19, 2.2.21.
std::optional<std::span<const std::byte>> ServerChannels::Element::channel_info() const {
    const size_t offset = transfer->channel_info_offset, length = transfer->channel_info_length;
    if (offset < kRequestSize || length == 0 || length % Descriptor::kSize != 0 ||
        offset + length > bytes.size())
        return std::nullopt;
    return bytes.subspan(offset, length);
}

template <class Visit>
bool ServerChannels::for_each_element(std::span<const std::byte> message, const Visit& visit) {
    for (;;) {
        const auto header = parse_header(message);
        if (!header) return false;
        const uint32_t next = header->next_command;
        const bool broken = next != 0 && (next < kHeaderSize || next > message.size());
        Element element{next != 0 && !broken ? message.first(next) : message, *header, std::nullopt};
        if (is_transfer(header->command)) element.transfer = parse_transfer(element.bytes, header->command);
        visit(element);  // the last one there is of a broken chain too: it may ask for a channel
        if (broken) return false;
        if (next == 0) return true;
        message = message.subspan(next);
    }
}

ServerChannels::Look ServerChannels::look_at_request(std::span<const std::byte> start,
                                                     uint32_t length) const {
    const auto header = parse_header(start);
    if (!header) return Look::pass;
    if (header->next_command == 0) {
        if (!is_transfer(header->command)) return Look::pass;
        const auto transfer = parse_transfer(start, header->command);
        if (!transfer || transfer->channel == Channel::none) return Look::pass;
    }
    return length <= limits_.max_compound ? Look::whole : Look::oversized;
}

bool ServerChannels::carries_channel(std::span<const std::byte> start) {
    const auto header = parse_header(start);
    if (!header || !is_transfer(header->command)) return false;
    const auto transfer = parse_transfer(start, header->command);
    return transfer && is_overlooked(*transfer);
}

// ---------------------------------------------------------------- translating

// What is wrong with a request that asks for a channel; "" if nothing. [MS-SMB2] 3.3.5.12, 3.3.5.13
const char* ServerChannels::refusal_of(const Element& element) const {
    const Transfer& transfer = *element.transfer;
    if (transfer.channel != Channel::rdma_v1 && transfer.channel != Channel::rdma_v1_invalidate)
        return "the channel is of an unknown kind, or RDMA transform, which was not negotiated";
    if (negotiated_.dialect == 0) return "no dialect was negotiated yet";
    if (transfer.channel == Channel::rdma_v1_invalidate) {
        if (negotiated_.dialect == kDialect300) return "dialect 3.0 has no SMB2_CHANNEL_RDMA_V1_INVALIDATE";
        if (!limits_.can_invalidate) return "the RDMA device cannot send with invalidate";
    }
    if (transfer.write && (transfer.length != 0 || transfer.data_offset != 0))
        return "a WRITE by channel has data of its own";
    if (transfer.write && !limits_.can_read) return "the peer serves no RDMA Read";
    const uint32_t amount = element.amount();
    if (amount == 0) return "it asks for no bytes";
    if (amount > limits_.max_transfer || (transfer.write && amount > negotiated_.max_write_size))
        return "it asks for more bytes than were negotiated";
    if (transfer.write && uint64_t{translated_.length} + kRequestSize + amount > kMaxInlined)
        return "its compound would have more data than one message can hold";
    const auto info = element.channel_info();
    if (!info) return "its Buffer Descriptors are not where they may be";
    uint64_t room = 0;
    for_each_descriptor(*info, [&](const Descriptor& d) { room += d.length; });
    if (room < amount) return "its Buffer Descriptors have less room than it asks for";
    if (!outstanding_.has_room(transfer.write ? 0 : info->size() / Descriptor::kSize))
        return "too many requests with channels are outstanding";
    return "";
}

// What the reply invalidates: the first descriptor's token, of a client that may ask for it.
std::optional<uint32_t> ServerChannels::token_of(const Element& element) const {
    const auto info = element.channel_info();
    if (!info || element.transfer->channel != Channel::rdma_v1_invalidate || !limits_.can_invalidate ||
        negotiated_.dialect == kDialect300)
        return std::nullopt;
    return wire::parse_buffer_descriptor(*info)->token;
}

Result<const TranslatedRequest*> ServerChannels::translate(std::span<const std::byte> message) {
    bool any = false, signed_read = false, all_refused_anyway = true;
    in_compound_ = false;
    compound_first_ = UINT64_MAX, compound_last_ = 0;
    const bool whole = for_each_element(message, [&](const Element& element) {
        in_compound_ |= element.header.next_command != 0;
        compound_first_ = std::min(compound_first_, element.header.message_id);
        compound_last_ = std::max(compound_last_, element.header.message_id);
        if (!element.has_channel()) return;
        any = true;
        if (!(element.header.flags & is_signed)) return void(all_refused_anyway = false);
        // A signed WRITE is left as it is: the program checks the signature and refuses the DataOffset.
        if (is_overlooked(*element.transfer)) signed_read = true;
    });
    if (!any) return nullptr;
    if (!whole) return fail(Reason::channel_compound, ECONNRESET);
    if (signed_read) return fail(Reason::channel_signed, ECONNRESET);
    if (all_refused_anyway) return nullptr;

    translated_.bytes.clear();
    translated_.fetches.clear();
    translated_.sources.clear();
    translated_.length = translated_.reads = translated_.writes = translated_.refused = 0;
    for_each_element(message, [&](const Element& element) {
        if (translated_.length != 0) {
            const uint32_t start = round_up_8(translated_.length);
            translated_.bytes.resize(translated_.bytes.size() + (start - translated_.length));
            set_next_command(std::span(translated_.bytes).subspan(last_start_), start - last_position_);
            translated_.length = start;
        }
        last_start_ = static_cast<uint32_t>(translated_.bytes.size());
        last_position_ = translated_.length;
        if (element.has_channel() && !(element.header.flags & is_signed))
            append_transfer(element);
        else
            append(element);
    });
    if (translated_.length > kMaxInlined) return fail(Reason::channel_compound, ECONNRESET);
    return &translated_;
}

void ServerChannels::append(const Element& element) {
    translated_.bytes.insert(translated_.bytes.end(), element.bytes.begin(), element.bytes.end());
    translated_.length += static_cast<uint32_t>(element.bytes.size());
}

void ServerChannels::append_transfer(const Element& element) {
    const char* refusal = refusal_of(element);
    const bool refused = *refusal != '\0', write = element.transfer->write;
    const uint32_t amount = element.amount();

    Transfer inlined;
    inlined.write = write;
    if (write) {
        inlined.data_offset = refused ? 0 : kRequestSize;  // 0: servers demand that data follow at once
        inlined.length = refused ? 0 : amount;
    } else {
        inlined.length = refused ? UINT32_MAX : amount;  // beyond every MaxReadSize
    }
    const size_t start = translated_.bytes.size(), size = write ? kRequestSize : kReadRequestSize;
    translated_.bytes.resize(start + size);
    const auto bytes = std::span(translated_.bytes).subspan(start);
    std::copy_n(element.bytes.begin(), kRequestSize, bytes.begin());
    set_transfer(bytes, inlined);
    set_next_command(bytes, 0);
    translated_.length += static_cast<uint32_t>(size);

    if (refused) {
        ++translated_.refused;
        translated_.refusal = refusal;
    } else if (write) {
        ++translated_.writes;
        const auto first = static_cast<uint32_t>(translated_.sources.size());
        for_each_descriptor(*element.channel_info(),
                            [&](const Descriptor& d) { translated_.sources.push_back(d); });
        translated_.fetches.push_back(
            {translated_.length, amount, first, static_cast<uint32_t>(translated_.sources.size()) - first});
        translated_.length += amount;
    } else {
        ++translated_.reads;
    }
    remember(element, refused);
}

// The reply needs to be known again, to answer it in kind or to invalidate the client's key.
void ServerChannels::remember(const Element& element, bool refused) {
    Request request;
    request.message_id = element.header.message_id;
    request.command = element.header.command;
    request.refused = refused;
    request.in_compound = in_compound_;
    request.compound_first = compound_first_;
    request.compound_last = compound_last_;
    request.length = element.amount();
    request.token = token_of(element);
    if (refused && !request.token) return;
    // A MessageId that is in use already makes the program end the connection.
    if (outstanding_.find(request.message_id)) return;
    remembered_.clear();
    if (!refused && !element.transfer->write)
        for_each_descriptor(*element.channel_info(), [&](const Descriptor& d) { remembered_.push_back(d); });
    if (outstanding_.has_room(remembered_.size())) outstanding_.add(request, remembered_);
}

}  // namespace smbdirect::smb2
