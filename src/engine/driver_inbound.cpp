// Messages of the peer between their receives and the program: what has an SMB2 RDMA channel is translated,
// and the payload of WRITEs fetched by RDMA Read straight into the memory that the program reads from (DESIGN
// D6).
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/driver.hpp"

namespace smbdirect::engine {
namespace {

constexpr uint32_t kExtentUnit = 1u << 20;  // bytes of one registration

}  // namespace

// After negotiation: what is beyond a connection's plain stream. An explicit SMBDIRECT socket is taken at its
// word.
void Driver::prepare_channels() {
    if (face_ != 6) return;
    const auto& settings = *context_.settings;
    const auto& limits = endpoint_->limits();
    extent_base_ = settings.geometry.receive_area_size;
    const uint32_t most = (settings.geometry.receive_ring_entries - slots_.count()) * Extents::kGranule;
    const uint32_t size = std::min(settings.geometry.extent_area_size, most);
    extents_.initialise(size);
    const uint32_t access = passive_ ? uint32_t{fabric::access_read_sink}
                                     : fabric::access_remote_read | fabric::access_remote_write;
    extent_area_.initialise(endpoint_.get(), view_.receive_area() + extent_base_, size,
                            limits.registration_unit ? kExtentUnit : 0, access);
    const auto& negotiated = core_->negotiated();
    if (passive_) {
        smb2::ServerLimits server;
        server.max_transfer = core_settings_.max_read_write_size;
        server.max_reply = negotiated.max_fragmented_send_size;
        server.can_invalidate = limits.send_with_invalidate;
        server.can_read = limits.max_ord != 0;
        server_channels_.emplace(server);
        return;
    }
    smb2::ClientLimits client;
    client.max_transfer = std::min(negotiated.max_read_write_size, core_settings_.max_read_write_size);
    client.max_message_out = negotiated.max_fragmented_send_size;
    client.max_message_in = negotiated.max_fragmented_receive_size;
    client.allowed = settings.channels != ChannelUse::off;
    if (settings.channels == ChannelUse::needed || (settings.channels == ChannelUse::automatic && own_kind_))
        client.threshold = UINT32_MAX;
    client_channels_.emplace(client);
}

// ---------------------------------------------------------------- arriving

void Driver::take_payload(uint32_t slot, const connection::Delivery& delivery) {
    const std::byte* payload = view_.receive_area() + slot * slot_size_ + delivery.slot_offset;
    const std::span<const std::byte> bytes(payload, delivery.length);
    if (delivery.first_fragment) {
        arriving_length_ = delivery.message_length;
        gathered_.clear();
        assembly_ = server_channels_ || client_channels_ ? Assembly::judging : Assembly::direct;
    }
    if (assembly_ == Assembly::judging) {
        // One copy of the start, since the program can write there; it is judged by nothing else.
        std::array<std::byte, smb2::kLook> start;
        const auto had = static_cast<uint32_t>(gathered_.size());
        const uint32_t part = std::min<uint32_t>(smb2::kLook - had, delivery.length);
        std::copy(gathered_.begin(), gathered_.end(), start.begin());
        std::memcpy(start.data() + had, payload, part);
        const std::span<const std::byte> known(start.data(), had + part);
        if (known.size() >= smb2::look_wanted(known, arriving_length_)) {
            bool taken = false;
            judge_message(known);
            if (!take_client_reply(known, &taken)) return;
            if (taken) assembly_ = Assembly::dropped;
        }
    }
    if (assembly_ == Assembly::dropped) return slots_.give_back(slot);
    if (assembly_ == Assembly::guarded && !(compound_guard_.take(gathered_) && compound_guard_.take(bytes)))
        return fail({Reason::channel_compound, ECONNRESET});
    if (assembly_ == Assembly::judging || assembly_ == Assembly::whole) {
        gathered_.insert(gathered_.end(), bytes.begin(), bytes.end());
        if (delivery.last_fragment) return finish_gathered(slot, delivery);
        return slots_.give_back(slot);
    }
    if (!gathered_.empty()) enqueue_gathered();  // judged by more than one fragment
    enqueue_slot(slot, delivery);
}

// Decides what becomes of the message that begins like this.
void Driver::judge_message(std::span<const std::byte> start) {
    assembly_ = Assembly::direct;
    note_unused(start, arriving_length_);
    if (!server_channels_) return;
    switch (server_channels_->look_at_request(start, arriving_length_)) {
        case smb2::ServerChannels::Look::pass:
            break;
        case smb2::ServerChannels::Look::whole:
            assembly_ = Assembly::whole;
            break;
        case smb2::ServerChannels::Look::oversized:
            assembly_ = Assembly::guarded;
            compound_guard_.begin();
            break;
    }
}

// All of a message that may have a channel in it, the last fragment in `slot`.
void Driver::finish_gathered(uint32_t slot, const connection::Delivery& delivery) {
    const auto translated = server_channels_->translate(gathered_);
    if (!translated) {
        slots_.give_back(slot);
        return fail(translated.error());
    }
    if (!*translated) {  // nothing to translate
        if (delivery.first_fragment) return enqueue_slot(slot, delivery);
        slots_.give_back(slot);
        return enqueue_gathered();
    }
    const smb2::TranslatedRequest& message = **translated;
    context_.counters->channel_requests_refused += message.refused;
    context_.counters->channel_reads += message.reads;
    context_.counters->channel_writes += message.writes;
    for (const auto& fetch : message.fetches) context_.counters->channel_bytes_written += fetch.length;
    if (context_.trace->active()) trace_channel(message);
    if (message.fetches.empty() && message.length <= slot_size_) {
        std::memcpy(view_.receive_area() + slot * slot_size_, message.bytes.data(), message.length);
        connection::Delivery made;
        made.length = made.message_length = message.length;
        made.first_fragment = made.last_fragment = true;
        return enqueue_slot(slot, made);
    }
    slots_.give_back(slot);
    enqueue_message(message, message.length);
}

// The reply to a READ or WRITE that went by channel: the data lie in the program's memory already.
bool Driver::take_client_reply(std::span<const std::byte> start, bool* taken) {
    using Kind = smb2::ClientChannels::ReplyLook::Kind;
    if (!client_channels_) return true;
    const auto look = client_channels_->look_at_reply(start, arriving_length_);
    if (!look) {
        fail(look.error());
        return false;
    }
    if (look->kind == Kind::release) extents_.give_back(look->cookie);
    if (look->kind != Kind::data) return true;
    ++context_.counters->channel_reads;
    context_.counters->channel_bytes_read += look->amount;
    const uint32_t begin =
        extent_offset(look->cookie) + kHeaderRoom - static_cast<uint32_t>(look->header.size());
    std::memcpy(view_.receive_area() + begin, look->header.data(), look->header.size());
    const uint32_t length = static_cast<uint32_t>(look->header.size()) + look->amount;
    deliver({begin, length, length, session::message_start}, slots_.count() + look->cookie);
    *taken = true;
    return true;
}

// ---------------------------------------------------------------- the queue

void Driver::enqueue_slot(uint32_t slot, const connection::Delivery& delivery) {
    deliver({slot * slot_size_ + delivery.slot_offset, delivery.length, delivery.message_length,
             delivery.first_fragment ? uint32_t{session::message_start} : 0},
            slot);
}

// At once, if nothing waits before it.
void Driver::deliver(const session::ReceiveDescriptor& descriptor, uint32_t block) {
    if (inbound_.empty()) return publish(descriptor, block);
    auto& queued = inbound_.emplace_back();
    queued.descriptor = descriptor;
    queued.block = block;
}

// The start of a message that goes on as it is, or all of it.
void Driver::enqueue_gathered() {
    smb2::TranslatedRequest as_it_is;
    as_it_is.length = static_cast<uint32_t>(gathered_.size());
    as_it_is.bytes = std::exchange(gathered_, {});
    enqueue_message(std::move(as_it_is), arriving_length_);
}

void Driver::enqueue_message(smb2::TranslatedRequest message, uint32_t message_length) {
    auto& queued = inbound_.emplace_back();
    queued.descriptor = {0, message.length, message_length, session::message_start};
    queued.message = std::move(message);
    queued.placed = false;
    ++inbound_unplaced_;
}

// Puts the message together in an extent, all but what is to be fetched. False: not now.
bool Driver::place(Inbound& queued) {
    const auto& message = queued.message;
    // The payload of a single WRITE begins at a cache line.
    constexpr uint32_t kBegin = kHeaderRoom - wire::smb2::kRequestSize;
    // Where nothing is fetched, nobody but the program reads it.
    const uint32_t extent = take_extent(kBegin + message.length, !message.fetches.empty());
    if (extent == Extents::kNone) return false;
    queued.block = slots_.count() + extent;
    queued.descriptor.offset = extent_offset(extent) + kBegin;
    std::byte* to = view_.receive_area() + queued.descriptor.offset;
    uint32_t at = 0, taken = 0;
    for (const auto& fetch : message.fetches) {
        std::memcpy(to + at, message.bytes.data() + taken, fetch.at - at);
        taken += fetch.at - at;
        at = fetch.at + fetch.length;
    }
    std::memcpy(to + at, message.bytes.data() + taken, message.length - at);
    queued.placed = true;
    --inbound_unplaced_;
    return true;
}

// Places, fetches and publishes what can be. False: the connection has failed.
bool Driver::pump_inbound() {
    if (inbound_unplaced_ != 0)
        for (auto& queued : inbound_) {
            if (queued.placed || place(queued)) continue;
            if (disconnecting_) return false;
            break;
        }
    if (!peer_gone_) post_fetches();
    while (!inbound_.empty() && inbound_.front().is_ready()) {
        publish(inbound_.front().descriptor, inbound_.front().block);
        inbound_.pop_front();
        if (disconnecting_) return false;
    }
    return true;
}

// RDMA Reads in the order of the messages, as many at once as the peer serves.
void Driver::post_fetches() {
    const auto& limits = endpoint_->limits();
    for (auto& queued : inbound_) {
        if (!queued.placed) return;
        const auto& message = queued.message;
        while (queued.next_fetch < message.fetches.size()) {
            const auto& fetch = message.fetches[queued.next_fetch];
            if (queued.fetched == 0)
                queued.source = smb2::RemoteCursor(
                    std::span(message.sources).subspan(fetch.first_descriptor, fetch.descriptors));
            if (reads_outstanding_ >= limits.max_ord || !has_room_for_work(kSendsKept)) return;
            const uint32_t offset = queued.descriptor.offset - extent_base_ + fetch.at + queued.fetched;
            const uint32_t most = std::min({fetch.length - queued.fetched, kMostInOneRdma, limits.max_message,
                                            extent_area_.end_of_unit(offset) - offset});
            const auto remote = queued.source.next(most);
            if (!remote) return;  // cannot be: the descriptors were found to be long enough
            fabric::Sge sink;
            extent_area_.pieces(offset, remote->length, {&sink, 1});
            if (!post_rdma(fabric::Opcode::rdma_read, sink, *remote, {0, 0, &queued})) return;
            ++reads_outstanding_;
            ++queued.reads_outstanding;
            queued.source.take(remote->length);
            queued.fetched += remote->length;
            if (queued.fetched == fetch.length) {
                ++queued.next_fetch;
                queued.fetched = 0;
            }
        }
    }
}

void Driver::publish(const session::ReceiveDescriptor& descriptor, uint32_t block) {
    const bool starts = descriptor.flags & session::message_start;
    // The last look: a channel that the program overlooks is lost data.
    if (server_channels_ && starts) {
        std::array<std::byte, wire::smb2::kRequestSize> start;
        const size_t length = std::min<size_t>(start.size(), descriptor.length);
        std::memcpy(start.data(), view_.receive_area() + descriptor.offset, length);
        if (smb2::ServerChannels::carries_channel({start.data(), length})) {
            fail({Reason::channel_untranslated, ECONNRESET});
            return;
        }
    }
    const uint64_t index = slots_.publish(block);
    view_.receive_ring()[index & (context_.settings->geometry.receive_ring_entries - 1)] = descriptor;
    bytes_published_ += descriptor.length + (starts ? 4 : 0);
}

// ---------------------------------------------------------------- beside

void Driver::note_unused(std::span<const std::byte> start, uint32_t length) {
    // Between two engines large transfers go inline on purpose, unless channels were asked for.
    if (own_kind_ && context_.settings->channels != ChannelUse::on) return;
    const auto& negotiated =
        server_channels_ ? server_channels_->negotiated() : client_channels_->negotiated();
    const smb2::Unused why = smb2::why_unused(start, length, negotiated);
    const auto bit = static_cast<uint8_t>(1u << static_cast<unsigned>(why));
    if (why == smb2::Unused::none || (unused_noted_ & bit)) return;
    unused_noted_ |= bit;
    ++(why == smb2::Unused::signing      ? context_.counters->channels_unused_signing
       : why == smb2::Unused::encryption ? context_.counters->channels_unused_encryption
                                         : context_.counters->channels_unused_dialect);
    if (context_.trace->active()) trace_unused(why);
}

// An extent, registered where the transport is to use it; kNone: not now, or the connection has failed.
uint32_t Driver::take_extent(uint32_t bytes, bool registered, uint32_t kept) {
    const uint32_t extent = extents_.take(bytes, kept);
    if (extent == Extents::kNone) return extent;
    if (registered) {
        if (auto ready = extent_area_.require(Extents::offset_of(extent), bytes); !ready) {
            extents_.give_back(extent);
            // What the others hold will do, where there are others.
            if (extents_.empty()) fail({ready.error().reason, ENOBUFS});
            return Extents::kNone;
        }
    }
    extents_used_since_sweep_ = true;
    return extent;
}

// What nobody has used for a while goes back, pinned pages first.
void Driver::drop_idle_extents() {
    if (std::exchange(extents_used_since_sweep_, false) || !extents_.empty() || !extent_area_.is_ready())
        return;
    const bool dropped = extent_area_.drop_unused([](uint32_t, uint32_t) { return false; });
    if (dropped) madvise(view_.receive_area() + extent_base_, extents_.largest(), MADV_REMOVE);
    if (endpoint_) rewritten_.drop_if_empty(*endpoint_);
}

}  // namespace smbdirect::engine
