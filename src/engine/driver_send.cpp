// Sending: the program's byte stream becomes upper-layer messages, and those become what Connection asks to
// post.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "engine/driver.hpp"

namespace smbdirect::engine {
namespace {

constexpr uint8_t kSessionMessage = 0x00,
                  kSessionKeepAlive = 0x85;  // RFC 1002 4.3.1: the first of the 4 bytes

}  // namespace

// Looks how far the program has written. False: nonsense in the shared memory, the connection has failed.
bool Driver::take_program_stream() {
    if (mirror_.b() < 0 || stream_closed_) return true;
    uint64_t head = 0;
    if (!mirror_.read_transmit_head(&head)) {
        fail_by_program(Reason::shared_memory_violation);
        return false;
    }
    transmit_head_ = head;
    stream_closed_ = write_shut_;
    return true;
}

// Sends what there is, as far as memory can be pinned. False: not even the next piece, and the connection has
// failed.
bool Driver::send_program_stream() {
    for (;;) {
        const uint64_t before = transmit_registered_ + last_transmit_end_;
        register_transmit();
        if (stage_ == Stage::stream && transmit_registered_ > message_start_)
            core_->on_available(message_bytes_there());
        pump();
        if (disconnecting_ || !is_short_of_memory()) return true;
        if (transmit_registered_ + last_transmit_end_ != before) continue;  // what was taken has made room
        fail({*transmit_refused_, ENOBUFS});
        return false;
    }
}

// Lets the transport read what the program has written since, as far as memory can be pinned.
void Driver::register_transmit() {
    transmit_refused_.reset();
    if (!transmit_area_.is_ready()) return;
    const uint32_t mask = context_.settings->geometry.transmit_size - 1;
    while (transmit_registered_ < transmit_head_) {
        const auto offset = static_cast<uint32_t>(transmit_registered_ & mask);
        auto required = transmit_area_.require(offset);
        if (!required && drop_idle_transmit()) required = transmit_area_.require(offset);
        if (!required) {
            transmit_refused_ = required.error().reason;
            return;
        }
        transmit_registered_ =
            std::min(transmit_registered_ + (transmit_area_.end_of_unit(offset) - offset), transmit_head_);
    }
}

// When all is sent that can be: the next piece of the ring could not be pinned, and nothing is under way, or
// waits for something else, whose memory will come free.
bool Driver::is_short_of_memory() const {
    if (!transmit_refused_ || send_head_ != send_tail_) return false;
    const bool needs_extent =
        (stage_ == Stage::channel_read || stage_ == Stage::channel_write) && client_extent_ == Extents::kNone;
    if (needs_extent || (core_->message_announced() && message_end_ <= transmit_registered_)) return false;
    // With so many bytes a fragment goes as soon as there are credits.
    const uint64_t unsent = transmit_registered_ - std::min(last_transmit_end_, transmit_registered_);
    return unsent < core_->negotiated().max_send_size + connection::Connection::kHeldBack;
}

// Pieces of the ring with nothing in them that is still to be sent. Whether there was one.
bool Driver::drop_idle_transmit() {
    if (!transmit_area_.is_ready() || endpoint_->limits().registration_unit == 0) return false;
    const uint32_t size = context_.settings->geometry.transmit_size, mask = size - 1;
    const uint64_t used = transmit_registered_ - transmit_released_;
    const auto begin = static_cast<uint32_t>(transmit_released_ & mask);
    return transmit_area_.drop_unused([&](uint32_t first, uint32_t end) {
        if (used == 0) return false;
        // As distances from the first byte in use, around the ring.
        const uint32_t from = (first - begin) & mask, to = (end - 1 - begin) & mask;
        return from < used || to < used || to < from;
    });
}

// The 4 bytes at this position of the program's stream. One copy; what the program writes there afterwards
// changes nothing.
std::array<uint8_t, 4> Driver::four_bytes_at(uint64_t position) const {
    std::array<std::byte, 4> bytes;
    copy_from_stream(position, bytes);
    return std::bit_cast<std::array<uint8_t, 4>>(bytes);
}

// Takes the next length header off the stream. False: there is none yet, or the connection failed.
bool Driver::take_length_header() {
    while (transmit_head_ - message_end_ >= 4) {
        const auto header = four_bytes_at(message_end_);
        const bool explicit_face = face_ != 6;
        uint32_t length = uint32_t{header[1]} << 16 | uint32_t{header[2]} << 8 | header[3];
        if (explicit_face) length |= uint32_t{header[0]} << 24;
        if (explicit_face && length == session::kInvalidateNext) {
            if (transmit_head_ - message_end_ < session::kInvalidateNextSize) return false;
            program_token_ = std::bit_cast<uint32_t>(four_bytes_at(message_end_ + 4));
            message_end_ += session::kInvalidateNextSize;
            continue;
        }
        const bool known =
            explicit_face || header[0] == kSessionMessage || (header[0] == kSessionKeepAlive && length == 0);
        if (!known) {
            ++context_.counters->program_violations;
            fail({Reason::stream_framing, ECONNRESET});
            return false;
        }
        message_start_ = message_end_ + 4;
        message_end_ = message_start_ + length;
        if (length != 0) {
            stage_ = Stage::look;
            return true;
        }
        consumed_to(message_end_);  // nothing goes on the wire for it
    }
    return false;
}

// Brings the message at the head of the stream as far as it gets towards being announced.
bool Driver::announce_next() {
    if (stage_ == Stage::none && !take_length_header()) return false;
    // Of its header alone nothing is there yet.
    if (transmit_registered_ < message_start_) return false;
    switch (stage_) {
        case Stage::look:
            return look_at_message();
        case Stage::reply:
            return walk_reply();
        case Stage::channel_read:
        case Stage::channel_write:
            return start_client_transfer();
        case Stage::none:
        case Stage::stream:
        case Stage::rewritten:
            break;
    }
    return false;
}

bool Driver::announce(Stage stage, uint32_t length, uint32_t available, std::optional<uint32_t> token) {
    if (!token) token = std::exchange(program_token_, std::nullopt);
    if (auto announced = core_->announce_message(length, available, token); !announced) {
        fail({Reason::message_too_large, EMSGSIZE});
        return false;
    }
    stage_ = stage;
    return true;
}

// The message goes on as it is.
bool Driver::announce_stream(std::optional<uint32_t> token) {
    return announce(Stage::stream, message_length(), message_bytes_there(), token);
}

void Driver::pump() {
    const auto now = context_.loop->now();
    const uint64_t stalls = core_->counters().stalls_no_credit + core_->counters().stalls_last_credit;
    while (has_room_for_work(0)) {
        if (!core_->message_announced() && established()) announce_next();
        if (disconnecting_) return;
        auto message = core_->next_message(now);
        if (!message) break;
        if (!post(*message)) break;
    }
    endpoint_->flush();
    const uint64_t stalls_now = core_->counters().stalls_no_credit + core_->counters().stalls_last_credit;
    if (stalls_now != stalls) {
        context_.counters->stalls_no_credit += stalls_now - stalls;
        if (context_.trace->active()) trace_stall();
    }
}

bool Driver::post(const connection::OutgoingMessage& message) {
    const auto index = static_cast<uint32_t>(send_head_ % sends_.size());
    std::memcpy(header_of_send(index), message.header.data(), message.header.size());
    std::array<fabric::Sge, 4> sges{fabric::Sge{
        header_of_send(index), static_cast<uint32_t>(message.header.size()), private_region_.lkey}};
    size_t count = 1;
    SendEntry entry;
    if (message.payload_length) {
        if (stage_ == Stage::rewritten) {
            const uint64_t start = rewritten_start_ + message.payload_offset;
            sges[count++] = rewritten_.sge(start, message.payload_length);
            entry.rewritten_end = start + message.payload_length;
            last_transmit_end_ = message_end_;
        } else {
            count += stream_pieces(message_start_ + message.payload_offset, message.payload_length,
                                   std::span(sges).subspan(count));
            last_transmit_end_ = message_start_ + message.payload_offset + message.payload_length;
        }
        ++context_.counters->messages_sent;
        context_.counters->bytes_sent += message.payload_length;
        if (message.last_fragment) ++context_.counters->upper_messages_sent;
    } else if (message.header.size() == 20 && established()) {
        ++context_.counters->messages_sent;
    }
    fabric::SendRequest request;
    request.sges = {sges.data(), count};
    if (message.invalidate_token) {
        request.opcode = fabric::Opcode::send_with_invalidate;
        request.invalidate_rkey = *message.invalidate_token;
    }
    entry.transmit_end = last_transmit_end_;
    if (message.last_fragment) stage_ = Stage::none;
    if (context_.trace->active()) trace_sent(message);
    if (message.flags & wire::kSmbdEndOfStream) trace_line("shut down for writing by the program", {});
    return post_work(request, entry);
}

// Part of the program's ring, as pieces.
size_t Driver::stream_pieces(uint64_t start, uint32_t length, std::span<fabric::Sge> out) const {
    const uint32_t size = context_.settings->geometry.transmit_size;
    const auto offset = static_cast<uint32_t>(start & (size - 1));
    const uint32_t first = std::min(length, size - offset);
    size_t count = transmit_area_.pieces(offset, first, out);
    if (first < length) count += transmit_area_.pieces(0, length - first, out.subspan(count));
    return count;
}

void Driver::copy_from_stream(uint64_t position, std::span<std::byte> to) const {
    const uint32_t size = context_.settings->geometry.transmit_size;
    const auto offset = static_cast<uint32_t>(position & (size - 1));
    const size_t first = std::min<size_t>(to.size(), size - offset);
    std::memcpy(to.data(), view_.transmit() + offset, first);
    std::memcpy(to.data() + first, view_.transmit(), to.size() - first);
}

// The stream is read up to there, and nothing that is posted needs it.
void Driver::consumed_to(uint64_t position) {
    last_transmit_end_ = position;
    if (send_head_ == send_tail_) transmit_released_ = position;
}

// An RDMA Read or Write between memory of ours and the peer's.
bool Driver::post_rdma(fabric::Opcode opcode, const fabric::Sge& local, const smb2::Descriptor& remote,
                       const SendEntry& entry) {
    fabric::SendRequest request;
    request.opcode = opcode;
    request.sges = {&local, 1};
    request.remote_rkey = remote.token;
    request.remote_offset = remote.offset;
    if (context_.trace->active())
        trace_rdma(opcode == fabric::Opcode::rdma_read ? "RDMA Read" : "RDMA Write", remote);
    return post_work(request, entry);
}

bool Driver::post_work(fabric::SendRequest request, const SendEntry& entry) {
    const uint64_t index = send_head_ % sends_.size();
    request.wr_id = index;
    sends_[index] = entry;
    ++send_head_;
    if (endpoint_->post_send(request)) return true;
    // The transport has broken; its on_disconnected says why. What was not posted never completes.
    --send_head_;
    return false;
}

void Driver::complete_send(const fabric::Completion& completion) {
    // Completions come in posting order, flushed ones too; a flushed byte is as free as a sent one.
    if (send_head_ == send_tail_) return;
    const SendEntry& entry = sends_[send_tail_ % sends_.size()];
    if (completion.status != fabric::Status::success && entry.transmit_end > transmit_released_)
        stream_lost_ = true;
    transmit_released_ = std::max(transmit_released_, entry.transmit_end);
    rewritten_.release(entry.rewritten_end);
    if (entry.fetched_for) {
        --entry.fetched_for->reads_outstanding;
        --reads_outstanding_;
        if (completion.status != fabric::Status::success) entry.fetched_for->failed = true;
    }
    ++send_tail_;
    if (send_head_ == send_tail_)
        transmit_released_ = last_transmit_end_;  // what was taken without being sent
}

}  // namespace smbdirect::engine
