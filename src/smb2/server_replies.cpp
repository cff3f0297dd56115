// What the program answers: the data of an inline READ reply go by RDMA Write, and its header says so.
#include <algorithm>

#include "smb2/server_channels.hpp"

namespace smbdirect::smb2 {

using namespace wire::smb2;

ServerChannels::ReplyLook ServerChannels::look_at_reply(std::span<const std::byte> start, uint32_t length) {
    negotiated_.learn(start);
    if (outstanding_.empty()) return {};
    const auto header = parse_header(start);
    if (!header) return {};
    if (header->next_command != 0) {
        // A compound is answered by compounds, one or several; whatever is in them is found on the way.
        if (!outstanding_.has_compound_with(header->message_id)) return {};
        begin_walk(length);
        return {true, std::nullopt};
    }
    Request* request = outstanding_.find(header->message_id);
    if (!request || is_interim(*header)) return {};
    if (carries_data(*header, *request)) {
        begin_walk(length);
        return {true, std::nullopt};
    }
    const ReplyLook look{false, request->token};  // of errors too: the client counts on it
    outstanding_.remove(request);
    return look;
}

void ServerChannels::begin_walk(uint32_t length) {
    walk_length_ = length;
    position_ = copy_left_ = skip_left_ = push_left_ = tail_left_ = 0;
    reply_element_.reset();
    reply_.clear();
    if (reply_.capacity() > limits_.max_compound) {  // a long one is rare
        reply_.shrink_to_fit();
        reply_.reserve(limits_.max_compound);
    }
    reply_token_.reset();
}

ServerChannels::Step ServerChannels::step() const {
    using Kind = Step::Kind;
    if (copy_left_) return {Kind::copy, copy_left_};
    if (skip_left_) return {Kind::skip, skip_left_};
    if (push_left_) return {Kind::push, push_left_};
    if (tail_left_) return {Kind::skip, tail_left_};
    if (position_ == walk_length_) return {Kind::done, 0};
    return {Kind::look, std::min<uint32_t>(kReadReplySize, walk_length_ - position_)};
}

// Elements are 8 bytes aligned [MS-SMB2] 3.3.4.1.3.
void ServerChannels::begin_reply_element() {
    const size_t start = (reply_.size() + 7) & ~size_t{7};
    reply_.resize(start);
    if (reply_element_)
        set_next_command(std::span(reply_).subspan(*reply_element_),
                         static_cast<uint32_t>(start) - *reply_element_);
    reply_element_ = static_cast<uint32_t>(start);
}

Result<void> ServerChannels::take_look(std::span<const std::byte> bytes) {
    const auto header = parse_header(bytes);
    const uint32_t left = walk_length_ - position_;
    if (!header ||
        (header->next_command != 0 && (header->next_command < kHeaderSize || header->next_command > left)))
        return fail(Reason::channel_reply, ECONNRESET);
    const uint32_t length = header->next_command ? header->next_command : left;
    begin_reply_element();

    Request* request = outstanding_.find(header->message_id);
    if (request && is_interim(*header)) request = nullptr;
    if (request && !reply_token_) reply_token_ = request->token;  // one message invalidates one token
    if (request && carries_data(*header, *request)) {
        auto begun = begin_push(bytes.first(std::min<size_t>(bytes.size(), length)), length, *request);
        outstanding_.remove(request);
        return begun;
    }
    if (request) outstanding_.remove(request);
    if (reply_.size() + length > limits_.max_reply) return fail(Reason::channel_compound, ECONNRESET);
    copy_left_ = length;
    return {};
}

Result<void> ServerChannels::begin_push(std::span<const std::byte> bytes, uint32_t length,
                                        const Request& request) {
    const auto found = parse_read_reply(bytes);
    if (!found || found->structure_size != kReplyStructureSize || found->data_offset < kReadReplySize ||
        uint64_t{found->data_offset} + found->data_length > length || found->data_length > request.length)
        return fail(Reason::channel_reply, ECONNRESET);
    if (reply_.size() + kReadReplySize > limits_.max_reply) return fail(Reason::channel_compound, ECONNRESET);
    skip_left_ = found->data_offset;
    push_left_ = found->data_length;
    tail_left_ = length - skip_left_ - push_left_;
    const auto list = outstanding_.destination(request);
    destinations_.assign(list.begin(), list.end());
    destination_ = RemoteCursor(destinations_);

    // DataRemaining is what went by the channel [MS-SMB2] 2.2.20.
    const size_t start = reply_.size();
    reply_.insert(reply_.end(), bytes.begin(), bytes.begin() + kReadReplySize);
    const auto out = std::span(reply_).subspan(start);
    set_next_command(out, 0);
    set_read_reply(out, {.structure_size = kReplyStructureSize,
                         .data_offset = kReadReplySize,
                         .data_length = 0,
                         .data_remaining = found->data_length});
    return {};
}

void ServerChannels::take_copy(std::span<const std::byte> bytes) {
    reply_.insert(reply_.end(), bytes.begin(), bytes.end());
    copy_left_ -= static_cast<uint32_t>(bytes.size());
    position_ += static_cast<uint32_t>(bytes.size());
}

void ServerChannels::skipped(uint32_t length) {
    (skip_left_ ? skip_left_ : push_left_ ? push_left_ : tail_left_) -= length;
    position_ += length;
}

}  // namespace smbdirect::smb2
