// Messages of the program that do not go to the peer as they are: replies whose data go by RDMA Write, and
// requests that become requests for an RDMA channel (DESIGN D6). The rest of a message's way is in
// driver_send.cpp.
#include <algorithm>

#include "engine/driver.hpp"

namespace smbdirect::engine {
namespace {

constexpr uint32_t kPushAtLeast = 64 * 1024;  // bytes in one RDMA Write, but for the last
// Of the extents, for messages of the peer that are put together: one that found no room would hold up the
// very replies that set extents free.
constexpr uint32_t kGranulesKept = 1;

}  // namespace

// True: the message at the head of the stream stands announced. False: not yet, or the connection has failed.
bool Driver::look_at_message() {
    if (!server_channels_ && !client_channels_) return announce_stream(std::nullopt);
    // One copy: what the program writes there afterwards decides nothing.
    look_length_ = std::min<uint32_t>(look_.size(), message_bytes_there());
    const auto start = std::span(look_).first(look_length_);
    copy_from_stream(message_start_, start);
    if (look_length_ < smb2::look_wanted(start, message_length())) return false;
    note_unused(start, message_length());
    return server_channels_ ? look_at_reply(start) : look_at_request(start);
}

// ---------------------------------------------------------------- as a server

bool Driver::look_at_reply(std::span<const std::byte> start) {
    const auto look = server_channels_->look_at_reply(start, message_length());
    if (!look.walk) return announce_stream(look.token);
    stage_ = Stage::reply;
    return walk_reply();
}

bool Driver::walk_reply() {
    using Kind = smb2::ServerChannels::Step::Kind;
    auto& channels = *server_channels_;
    for (;;) {
        const auto step = channels.step();
        const uint64_t at = message_start_ + channels.position();
        const uint32_t part = std::min(message_bytes_there() - channels.position(), step.length);
        switch (step.kind) {
            case Kind::look: {
                if (part < step.length) return false;
                std::array<std::byte, wire::smb2::kReadReplySize> bytes;
                copy_from_stream(at, std::span(bytes).first(part));
                if (auto taken = channels.take_look(std::span(bytes).first(part)); !taken)
                    return fail(taken.error()), false;
                break;
            }
            case Kind::copy: {
                if (part == 0) return false;
                std::array<std::byte, 4096> bytes;
                const auto copied = std::span(bytes).first(std::min<size_t>(part, bytes.size()));
                copy_from_stream(at, copied);
                channels.take_copy(copied);
                consumed_to(at + copied.size());
                break;
            }
            case Kind::skip:
                if (part == 0) return false;
                channels.skipped(part);
                consumed_to(at + part);
                break;
            case Kind::push:
                // Little is better than nothing where more cannot be pinned.
                if (part < (transmit_refused_ ? 1 : std::min(step.length, kPushAtLeast)) || !push(part))
                    return false;
                break;
            case Kind::done:
                return announce_rewritten(channels.reply(), channels.reply_token());
        }
    }
}

// One RDMA Write out of the program's ring, of at most `length` bytes. The data are there before the Send
// that follows is delivered (IB 9.5 ordering; RFC 5040 5.5), so nobody waits for the completion.
bool Driver::push(uint32_t length) {
    if (!has_room_for_work(kSendsKept)) return false;
    const uint32_t size = context_.settings->geometry.transmit_size;
    const uint64_t at = message_start_ + server_channels_->position();
    const auto offset = static_cast<uint32_t>(at & (size - 1));
    const uint32_t most = std::min({length, kMostInOneRdma, size - offset, endpoint_->limits().max_message,
                                    transmit_area_.end_of_unit(offset) - offset});
    const auto remote = server_channels_->push_destination().next(most);
    if (!remote) return false;  // cannot be: the descriptors were found to be long enough
    fabric::Sge source;
    transmit_area_.pieces(offset, remote->length, {&source, 1});
    const uint64_t end = at + remote->length;
    if (!post_rdma(fabric::Opcode::rdma_write, source, *remote, {end, 0, nullptr})) return false;
    last_transmit_end_ = end;
    server_channels_->push_destination().take(remote->length);
    server_channels_->skipped(remote->length);
    context_.counters->channel_bytes_read += remote->length;
    return true;
}

// ---------------------------------------------------------------- as a client

bool Driver::look_at_request(std::span<const std::byte> start) {
    using Kind = smb2::ClientChannels::RequestLook::Kind;
    const auto look = client_channels_->look_at_request(start, message_length());
    if (!look) return fail(look.error()), false;
    if (look->kind == Kind::pass) return announce_stream(std::nullopt);
    stage_ = look->kind == Kind::read ? Stage::channel_read : Stage::channel_write;
    client_amount_ = look->amount;
    client_copied_ = 0;
    client_extent_ = Extents::kNone;
    return start_client_transfer();
}

// Goes on with a READ or WRITE that is to go by channel, as far as memory and the stream allow.
bool Driver::start_client_transfer() {
    if (client_extent_ == Extents::kNone) {
        client_extent_ = take_extent(kHeaderRoom + client_amount_, true, kGranulesKept);
        if (client_extent_ == Extents::kNone) {
            if (mirror_.b() >= 0 && slots_.published_count() != 0) mirror_.request_return_at(half_read());
            return false;
        }
        const bool write = stage_ == Stage::channel_write;
        consumed_to(write ? message_start_ + wire::smb2::kRequestSize : message_end_);
    }
    if (stage_ == Stage::channel_write && !gather_client_write()) return false;
    std::vector<smb2::Descriptor> buffer;
    for (uint32_t done = 0; done < client_amount_; done += buffer.back().length)
        buffer.push_back(extent_area_.remote_piece(Extents::offset_of(client_extent_) + kHeaderRoom + done,
                                                   client_amount_ - done));
    if (!rewritten_.has_room(wire::smb2::kRequestSize + buffer.size() * smb2::Descriptor::kSize))
        return false;
    const auto start = std::span(look_).first(look_length_);
    if (context_.trace->active()) trace_client_channel(buffer);
    if (stage_ == Stage::channel_write) {
        ++context_.counters->channel_writes;
        context_.counters->channel_bytes_written += client_amount_;
    }
    consumed_to(message_end_);
    return announce_rewritten(client_channels_->build_request(start, buffer, client_extent_), std::nullopt);
}

// The payload of a WRITE leaves the ring: it has to lie still until the final reply, and a large one would
// leave no room for anything else there. True: all of it is copied.
bool Driver::gather_client_write() {
    const uint64_t begin = message_start_ + wire::smb2::kRequestSize;
    std::byte* to = view_.receive_area() + extent_offset(client_extent_) + kHeaderRoom;
    const uint32_t there = message_bytes_there() - static_cast<uint32_t>(wire::smb2::kRequestSize);
    const uint32_t until = std::min(there, client_amount_);
    copy_from_stream(begin + client_copied_, {to + client_copied_, until - client_copied_});
    client_copied_ = until;
    consumed_to(begin + until);
    return until == client_amount_ && message_bytes_there() == message_length();
}

// ---------------------------------------------------------------- both

bool Driver::announce_rewritten(std::span<const std::byte> message, std::optional<uint32_t> token) {
    auto put = rewritten_.put(*endpoint_, message);
    if (!put) return fail({put.error().reason, ENOBUFS}), false;
    if (!*put) return false;  // once more when something that was sent is complete
    rewritten_start_ = **put;
    const auto length = static_cast<uint32_t>(message.size());
    return announce(Stage::rewritten, length, length, token);
}

}  // namespace smbdirect::engine
