// Receiving: completions become descriptors for the program, and consumed slots become posted receives again.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "engine/driver.hpp"

namespace smbdirect::engine {

using connection::State;

namespace {

constexpr uint32_t kWindowBytes = 1 << 20;  // that the peer may usually have under way to us

}  // namespace

Result<void> Driver::post_negotiate_receive() {
    fabric::Sge sge{private_.data(), kNegotiateBuffer, private_region_.lkey};
    return endpoint_->post_receive(kNegotiateWrId, {&sge, 1});
}

// Once the sizes are negotiated: a slot holds the largest payload that the peer may send.
Result<void> Driver::prepare_receive_area() {
    const auto& geometry = context_.settings->geometry;
    slot_size_ = core_->negotiated().max_receive_size - 24;
    // Where little may be pinned most of it is for others: what is sent, other connections.
    constexpr uint64_t kLeastSlots = 8;
    const auto& limits = endpoint_->limits();
    const auto area = static_cast<uint32_t>(std::min<uint64_t>(
        geometry.receive_area_size, std::max<uint64_t>(limits.lockable / 4, kLeastSlots * slot_size_)));
    uint32_t slots = std::min(area / slot_size_, max_slots_);
    if (slots == 0) return smbdirect::fail(Reason::engine_resources, ENOBUFS);  // by odd settings
    slots_.initialise(slots, geometry.receive_ring_entries);
    // Half of the slots may wait for the program while the other half is posted.
    ceiling_max_ = std::clamp<uint32_t>(
        slots / 2, 1, std::min<uint32_t>(core_settings_.receive_credit_max, limits.max_recv_wr));
    const uint32_t unit = limits.registration_unit;
    const uint32_t initial = std::min(context_.settings->initial_receive_bytes, unit ? unit : UINT32_MAX);
    initial_ceiling_ = std::min(std::max<uint32_t>(initial / slot_size_, 4), ceiling_max_);
    ceiling_ = initial_ceiling_;
    core_->set_receive_ceiling(ceiling_);
    // A slot lies within one piece; a fragment of the transmit ring within two.
    receive_area_.initialise(endpoint_.get(), view_.receive_area(), slots * slot_size_,
                             unit ? std::max(unit / slot_size_, 1u) * slot_size_ : 0);
    const uint32_t fragment = std::bit_ceil(core_->negotiated().max_send_size);
    transmit_area_.initialise(endpoint_.get(), view_.transmit(), geometry.transmit_size,
                              unit ? std::min(std::max(8 * unit, fragment), geometry.transmit_size) : 0);
    return receive_area_.require(0);
}

void Driver::take_completions() {
    if (!endpoint_) return;
    std::array<fabric::Completion, 64> batch;
    size_t count;
    do {
        count = endpoint_->poll(batch);
        for (size_t i = 0; i < count; ++i) {
            if (batch[i].opcode != fabric::Opcode::receive)
                complete_send(batch[i]);
            else
                take_receive(batch[i]);
        }
    } while (count == batch.size());
}

void Driver::take_receive(const fabric::Completion& completion) {
    if (completion.wr_id == kNegotiateWrId) return take_negotiate_message(completion);
    const auto slot = static_cast<uint32_t>(completion.wr_id);
    if (completion.status != fabric::Status::success || !core_ || core_->termination() || disconnecting_)
        return slots_.give_back(slot);
    std::optional<uint32_t> token;
    if (completion.invalidated) token = completion.invalidated_rkey;
    const size_t header = std::min<size_t>(completion.byte_length, 24);
    auto delivery = core_->on_data_transfer({header_of_slot(slot), header}, completion.byte_length, token,
                                            context_.loop->now());
    if (!delivery) {
        slots_.give_back(slot);
        return trace_violation();  // work() sees the termination
    }
    ++context_.counters->messages_received;
    context_.counters->bytes_received += delivery->length;
    received_since_sweep_ = true;
    if (context_.trace->active()) trace_received(*delivery, completion.byte_length);
    if (delivery->end_of_stream) {
        peer_ended_ = true;
        if (assembly_ == Assembly::judging && !gathered_.empty()) enqueue_gathered();  // nothing more comes
    }
    if (delivery->length == 0) return slots_.give_back(slot);
    // Large ones are noticed at once, that there are none any more after a while.
    usual_length_ = std::max(delivery->length, usual_length_ - usual_length_ / 32 + delivery->length / 32);
    if (delivery->last_fragment) ++context_.counters->upper_messages_received;
    take_payload(slot, *delivery);
}

void Driver::take_negotiate_message(const fabric::Completion& completion) {
    if (completion.status != fabric::Status::success || !core_ || disconnecting_) return;
    std::span<const std::byte> message(private_.data(),
                                       std::min<size_t>(completion.byte_length, kNegotiateBuffer));
    if (!core_->on_negotiate_message(message, context_.loop->now()))
        return trace_violation();  // work() sees the termination
    settle_sizes();
}

// Once they are negotiated: a request that overtook the event of its connection waits for it in the core.
void Driver::settle_sizes() {
    if (core_->negotiated().version == 0) return;
    if (passive_) {
        auto made = create_memory(true, face_);
        if (!made) return fail(made.error());
        view_.memory->local = local_shown_;
        view_.memory->peer = endpoint_->remote_address();
        std::strncpy(view_.memory->fabric, endpoint_->fabric_name(), sizeof view_.memory->fabric - 1);
    }
    if (auto prepared = prepare_receive_area(); !prepared) return fail(prepared.error());
    prepare_channels();
    if (passive_) {
        held_ = true;
        context_.loop->defer([alive = std::weak_ptr<int>(alive_), this] {
            if (!alive.expired() && held_) events_->on_ready_to_accept(this);
        });
    }
}

bool Driver::post_slot(uint32_t slot) {
    const uint32_t offset = slot * slot_size_;
    // Where no more memory can be pinned, the window stays as it is.
    if (!receive_area_.require(offset)) return false;
    std::array<fabric::Sge, 2> sges{fabric::Sge{header_of_slot(slot), 24, private_region_.lkey}};
    receive_area_.pieces(offset, slot_size_, std::span(sges).subspan(1));
    return endpoint_->post_receive(slot, sges).has_value();
}

// The window opens with use: a peer that used up half of it within one turn would soon wait for credits.
// Small messages need more receives than large ones, whose window would no longer lie in the processor's
// cache.
void Driver::adjust_window() {
    const uint32_t most =
        std::clamp(kWindowBytes / std::max(usual_length_, 1u), initial_ceiling_, ceiling_max_);
    const bool used = core_->receives_outstanding() <= ceiling_ / 2 && established();
    const uint32_t ceiling = std::min(used ? ceiling_ * 2 : ceiling_, most);
    if (ceiling == ceiling_) return;
    ceiling_ = ceiling;
    core_->set_receive_ceiling(ceiling_);
}

void Driver::replenish() {
    if (slot_size_ == 0) return;
    adjust_window();
    // What cannot be worked on yet is not asked for [MS-SMBD] 3.1.5.9.
    const uint32_t wanted = inbound_unplaced_ < kMostHeldBack ? core_->receives_wanted() : 0;
    uint32_t posted = 0;
    // What is posted, and as much that waits for the program.
    const uint32_t most_in_use = 2 * std::max(ceiling_, kWindowBytes / slot_size_);
    const bool must_post = core_->needs_receive_to_send() && core_->receives_outstanding() == 0;
    while (posted < wanted && (slots_.in_use() < most_in_use || (must_post && posted == 0))) {
        const uint32_t slot = slots_.take();
        if (slot == SlotLedger::kNone) break;
        if (!post_slot(slot)) {
            slots_.give_back(slot);
            break;
        }
        ++posted;
    }
    if (posted) core_->on_receives_posted(posted);
    if (mirror_.b() < 0) return;
    const bool short_of_extents =
        inbound_unplaced_ != 0 || stage_ == Stage::channel_read || stage_ == Stage::channel_write;
    const bool starved = (posted < wanted || short_of_extents) && slots_.published_count() != 0;
    mirror_.request_return_at(starved ? half_read() : last_byte_read());
}

// Pieces of which no slot is posted or waits for the program.
void Driver::drop_idle_receive() {
    if (endpoint_->limits().registration_unit == 0 || !receive_area_.is_ready()) return;
    const std::vector<uint32_t> free = slots_.free_sorted();
    receive_area_.drop_unused([&](uint32_t first, uint32_t end) {
        const auto from = std::lower_bound(free.begin(), free.end(), first / slot_size_);
        const auto to = std::lower_bound(free.begin(), free.end(), end / slot_size_);
        return static_cast<uint32_t>(to - from) != (end - first) / slot_size_;
    });
}

// Pages of slots that are neither posted nor waiting for the program. A page that is pinned must stay: the
// transport would go on with the old one, and the program would see another.
void Driver::give_back_idle_memory() {
    std::vector<uint32_t> free = slots_.free_sorted();
    if (endpoint_->limits().registration_unit != 0)
        std::erase_if(free, [&](uint32_t slot) { return receive_area_.is_registered(slot * slot_size_); });
    const size_t page = 4096;
    for (size_t i = 0; i < free.size();) {
        size_t j = i + 1;
        while (j < free.size() && free[j] == free[j - 1] + 1) ++j;
        const size_t begin = (size_t{free[i]} * slot_size_ + page - 1) / page * page;
        const size_t end = (size_t{free[j - 1]} + 1) * slot_size_ / page * page;
        if (end > begin) madvise(view_.receive_area() + begin, end - begin, MADV_REMOVE);
        i = j;
    }
}

}  // namespace smbdirect::engine
