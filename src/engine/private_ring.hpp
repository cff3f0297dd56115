// A registered ring of the engine's own for messages that it has rewritten: what goes to the peer must not be
// something that the program can still change. There is no memory while it is empty for long.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "fabric/fabric.hpp"

namespace smbdirect::engine {

class PrivateRing {
  public:
    static constexpr uint32_t kSize = 256 * 1024;

    // Messages lie in one piece, so that up to half of the ring find room in time.
    bool has_room(size_t bytes) const { return place(bytes) + bytes - tail_ <= size_; }
    // Its position; nothing while there is no room.
    Result<std::optional<uint64_t>> put(fabric::Endpoint& endpoint, std::span<const std::byte> bytes) {
        if (bytes.size() > size_ / 2) {  // it gets all of the ring, and a larger one if it must
            if (head_ != tail_) return std::nullopt;
            head_ = tail_ = 0;
            if (bytes.size() > size_) {
                drop_if_empty(endpoint);
                size_ = std::bit_ceil(static_cast<uint32_t>(bytes.size()));
            }
        }
        if (bytes_.empty()) {
            bytes_.resize(size_);
            auto made = endpoint.register_memory(bytes_.data(), size_, fabric::access_none);
            if (!made) {
                bytes_ = {};
                return std::unexpected(made.error());
            }
            region_ = *made;
        }
        if (!has_room(bytes.size())) return std::nullopt;
        const uint64_t at = place(bytes.size());
        std::memcpy(bytes_.data() + at % size_, bytes.data(), bytes.size());
        head_ = at + bytes.size();
        return at;
    }
    fabric::Sge sge(uint64_t position, uint32_t length) {
        return {bytes_.data() + position % size_, length, region_.lkey};
    }
    uint64_t head() const { return head_; }
    void release(uint64_t position) { tail_ = position > tail_ ? position : tail_; }
    void drop_if_empty(fabric::Endpoint& endpoint) {
        if (bytes_.empty() || head_ != tail_) return;
        endpoint.deregister_memory(region_);
        bytes_ = {};
        size_ = kSize;
    }

  private:
    uint64_t place(size_t bytes) const {
        const uint64_t in_ring = head_ % size_;
        return in_ring + bytes > size_ ? head_ + (size_ - in_ring) : head_;
    }

    std::vector<std::byte> bytes_;
    fabric::MemoryRegion region_;
    uint64_t head_ = 0, tail_ = 0;
    uint32_t size_ = kSize;
};

}  // namespace smbdirect::engine
