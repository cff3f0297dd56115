// What the targets share: the fuzzer's bytes as numbers and portions, and the end when something does not
// hold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace smbdirect::test {

inline void require(bool holds) {
    if (!holds) std::abort();
}

// At the end there are only zeros and empty portions.
class Input {
  public:
    explicit Input(std::span<const std::byte> bytes) : rest_(bytes) {}
    bool empty() const { return rest_.empty(); }
    // Little endian.
    uint32_t number(size_t bytes) {
        uint32_t value = 0;
        for (size_t i = 0; i < bytes && !rest_.empty(); ++i) {
            value |= std::to_integer<uint32_t>(rest_[0]) << (8 * i);
            rest_ = rest_.subspan(1);
        }
        return value;
    }
    std::span<const std::byte> take(size_t size) {
        const auto taken = rest_.first(std::min(size, rest_.size()));
        rest_ = rest_.subspan(taken.size());
        return taken;
    }

  private:
    std::span<const std::byte> rest_;
};

}  // namespace smbdirect::test
