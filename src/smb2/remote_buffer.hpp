// A peer's buffer as Buffer Descriptors V1 describe it [MS-SMBD] 2.2.3.1: one or several pieces in a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "wire/smbd.hpp"

namespace smbdirect::smb2 {

using Descriptor = wire::BufferDescriptorV1;

// Walks over the pieces. The list must outlive it; descriptors of no length are passed over.
class RemoteCursor {
  public:
    RemoteCursor() = default;
    explicit RemoteCursor(std::span<const Descriptor> list) : list_(list) {}

    // The next piece within one descriptor, of at most `most` bytes; nothing at the end. take() moves behind
    // it.
    std::optional<Descriptor> next(uint32_t most) {
        while (index_ < list_.size() && done_ == list_[index_].length) {
            ++index_;
            done_ = 0;
        }
        if (index_ == list_.size() || most == 0) return std::nullopt;
        const Descriptor& d = list_[index_];
        return Descriptor{d.offset + done_, d.token, std::min(most, d.length - done_)};
    }
    void take(uint32_t length) { done_ += length; }

  private:
    std::span<const Descriptor> list_;
    size_t index_ = 0;
    uint32_t done_ = 0;
};

}  // namespace smbdirect::smb2
