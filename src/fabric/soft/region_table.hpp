// The memory regions of one endpoint: its protection domain. Every access by a peer is judged here, byte
// range and right, with the whole 32-bit key; nothing else turns a number from the wire into a pointer. RFC
// 5042 6, 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <span>
#include <unordered_map>
#include <vector>

#include "fabric/fabric.hpp"

namespace smbdirect::fabric::soft {

enum class Refusal : uint8_t { unknown_key, out_of_bounds, no_right };

class RegionTable {
  public:
    RegionTable();

    Result<MemoryRegion> add(std::byte* address, size_t length, uint32_t access);
    // Returns the bytes that may no longer be touched; empty for an unknown handle.
    std::span<std::byte> remove(const MemoryRegion& region);

    // The bytes [offset, offset + length) as the peer names them, if `right` (an Access bit) allows.
    std::expected<std::byte*, Refusal> remote(uint32_t key, uint64_t offset, uint64_t length,
                                              uint32_t right) const;
    // Whether a local work request may use these bytes.
    bool local(const Sge& sge) const;
    // RFC 5040 5.2: by the peer. Only what it could access remotely can it invalidate.
    bool invalidate(uint32_t key);

    size_t size() const { return live_; }

  private:
    struct Slot {
        uint32_t key =
            0;  // STag: a random index of 24 bits that stays with the slot, and a key of 8 that moves
        uint32_t generation = 0;  // of the handle
        uint32_t access = 0;
        bool valid = false;  // may be accessed
        bool used = false;   // registered; stays so after a remote invalidation until remove()
        std::byte* address = nullptr;
        size_t length = 0;
        uint64_t remote_offset = 0;
    };

    const Slot* find(uint32_t key) const;
    uint32_t free_slot();

    std::vector<Slot> slots_;
    std::unordered_map<uint32_t, uint32_t> by_index_;  // random index -> slot
    std::deque<uint32_t> free_;                        // oldest first: a key comes back as late as possible
    size_t live_ = 0;
};

}  // namespace smbdirect::fabric::soft
