// The engine's own ledger of the receive area: which slot is free, posted, or published to the program. The
// program's tail only says how far it has read; which slots that frees stands here, where the program cannot
// write.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace smbdirect::engine {

class SlotLedger {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    void initialise(uint32_t slots, uint32_t ring_entries) {
        free_.resize(slots);
        // The lowest slot first, and the last returned next: few pages are touched, and those are in the
        // cache.
        for (uint32_t i = 0; i < slots; ++i) free_[i] = slots - 1 - i;
        published_.assign(ring_entries, kNone);
        mask_ = ring_entries - 1;
        count_ = slots;
    }
    uint32_t count() const { return count_; }
    uint32_t in_use() const { return count_ - static_cast<uint32_t>(free_.size()); }

    uint32_t take() {
        if (free_.empty()) return kNone;
        uint32_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    void give_back(uint32_t slot) { free_.push_back(slot); }
    std::vector<uint32_t> free_sorted() const {
        std::vector<uint32_t> sorted = free_;
        std::sort(sorted.begin(), sorted.end());
        return sorted;
    }

    // The ring index that the block was published at: a slot, or something else from count() on.
    uint64_t publish(uint32_t block) {
        published_[head_ & mask_] = block;
        return head_++;
    }
    uint64_t head() const { return head_; }
    uint64_t tail() const { return tail_; }
    uint64_t published_count() const { return head_ - tail_; }

    // The program has read up to `tail`, checked by the caller to lie within [tail(), head()]. What is no
    // slot is handed to `other`.
    template <class Other>
    void consumed_up_to(uint64_t tail, const Other& other) {
        for (; tail_ != tail; ++tail_) {
            const uint32_t block = published_[tail_ & mask_];
            if (block < count_)
                free_.push_back(block);
            else
                other(block);
        }
    }

  private:
    std::vector<uint32_t> free_, published_;
    uint64_t head_ = 0, tail_ = 0;
    uint64_t mask_ = 0;
    uint32_t count_ = 0;
};

}  // namespace smbdirect::engine
