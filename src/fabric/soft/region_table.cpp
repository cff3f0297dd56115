#include "fabric/soft/region_table.hpp"

#include "fabric/soft/random.hpp"

namespace smbdirect::fabric::soft {
namespace {

constexpr uint32_t index_of(uint32_t key) { return key >> 8; }
constexpr size_t max_regions = 1u << 20;  // far below the 2^24 indices, so that a random one is soon found

}  // namespace

RegionTable::RegionTable() = default;

uint32_t RegionTable::free_slot() {
    if (!free_.empty()) {
        const uint32_t slot = free_.front();
        free_.pop_front();
        return slot;
    }
    uint32_t index;
    do {
        index = unguessable32() >> 8;
    } while (index == 0 || by_index_.contains(index));  // index 0 holds STag 0 and the STag 1 of RTR messages
    const auto slot = static_cast<uint32_t>(slots_.size());
    slots_.push_back(Slot{.key = index << 8 | (unguessable32() & 0xff)});
    by_index_.emplace(index, slot);
    return slot;
}

Result<MemoryRegion> RegionTable::add(std::byte* address, size_t length, uint32_t access) {
    if (!address || length == 0) return fail(Reason::engine_refused, EINVAL);
    if (live_ >= max_regions) return fail(Reason::engine_resources, ENOMEM);
    const uint32_t number = free_slot();
    Slot& slot = slots_[number];
    slot.key = (slot.key & ~0xffu) | ((slot.key + 1) & 0xff);  // a stale key of this slot no longer fits
    ++slot.generation;
    slot.access = access;
    slot.valid = slot.used = true;
    slot.address = address;
    slot.length = length;
    // Opaque, and far from the end of the 64 bits, so that base + length never wraps.
    slot.remote_offset = unguessable64() & 0x0000'7fff'ffff'f000;
    ++live_;
    return MemoryRegion{.handle = static_cast<uint64_t>(slot.generation) << 32 | (number + 1),
                        .lkey = slot.key,
                        .rkey = slot.key,
                        .remote_offset = slot.remote_offset,
                        .length = length};
}

std::span<std::byte> RegionTable::remove(const MemoryRegion& region) {
    const auto number = static_cast<uint32_t>(region.handle) - 1;
    if (region.handle == 0 || number >= slots_.size()) return {};
    Slot& slot = slots_[number];
    if (!slot.used || slot.generation != region.handle >> 32) return {};
    slot.valid = slot.used = false;
    --live_;
    free_.push_back(number);
    return {slot.address, slot.length};
}

const RegionTable::Slot* RegionTable::find(uint32_t key) const {
    const auto found = by_index_.find(index_of(key));
    if (found == by_index_.end()) return nullptr;
    const Slot& slot = slots_[found->second];
    return slot.valid && slot.key == key ? &slot : nullptr;
}

std::expected<std::byte*, Refusal> RegionTable::remote(uint32_t key, uint64_t offset, uint64_t length,
                                                       uint32_t right) const {
    const Slot* slot = find(key);
    if (!slot) return std::unexpected(Refusal::unknown_key);
    if ((slot->access & right) != right || right == 0) return std::unexpected(Refusal::no_right);
    // An offset below the base wraps to a huge distance: one comparison refuses both ends without overflow.
    const uint64_t distance = offset - slot->remote_offset;
    if (distance > slot->length || length > slot->length - distance)
        return std::unexpected(Refusal::out_of_bounds);
    return slot->address + distance;
}

bool RegionTable::local(const Sge& sge) const {
    const Slot* slot = find(sge.lkey);
    if (!slot) return false;
    const auto distance =
        reinterpret_cast<uintptr_t>(sge.address) - reinterpret_cast<uintptr_t>(slot->address);
    return distance <= slot->length && sge.length <= slot->length - distance;
}

bool RegionTable::invalidate(uint32_t key) {
    auto* slot = const_cast<Slot*>(find(key));
    if (!slot || (slot->access & (access_remote_read | access_remote_write)) == 0) return false;
    slot->valid = false;
    return true;
}

}  // namespace smbdirect::fabric::soft
