// A part of a connection's shared memory that is registered with the transport as it comes into use: pinning
// pages takes time and counts against RLIMIT_MEMLOCK. Where a registration costs nothing, all of it is one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "fabric/fabric.hpp"
#include "smb2/remote_buffer.hpp"

namespace smbdirect::engine {

class RegisteredArea {
  public:
    // unit: bytes of one registration; 0: all at once. access: of fabric::Access.
    void initialise(fabric::Endpoint* endpoint, std::byte* base, uint32_t size, uint32_t unit,
                    uint32_t access = fabric::access_none);

    bool is_ready() const { return endpoint_ != nullptr; }
    uint32_t unit() const { return unit_; }
    uint32_t unit_of(uint32_t offset) const { return offset / unit_; }
    uint32_t end_of_unit(uint32_t offset) const { return std::min((unit_of(offset) + 1) * unit_, size_); }
    bool is_registered(uint32_t offset) const { return regions_[unit_of(offset)].handle != 0; }

    Result<void> require(uint32_t offset);                   // the unit of this byte
    Result<void> require(uint32_t offset, uint32_t length);  // all units of this range
    void drop(uint32_t unit);
    // Deregisters every unit for which `in_use(first byte, end)` is false; whether there was one.
    template <class InUse>
    bool drop_unused(const InUse& in_use) {
        bool dropped = false;
        for (uint32_t i = 0; i < regions_.size(); ++i) {
            if (regions_[i].handle == 0 || in_use(i * unit_, end_of_unit(i * unit_))) continue;
            drop(i);
            dropped = true;
        }
        return dropped;
    }
    // The pieces of a registered range, a unit each; how many.
    size_t pieces(uint32_t offset, uint32_t length, std::span<fabric::Sge> out) const;
    // The piece at the start of a registered range, as a peer must name it.
    smb2::Descriptor remote_piece(uint32_t offset, uint32_t length) const;

  private:
    fabric::Endpoint* endpoint_ = nullptr;
    std::byte* base_ = nullptr;
    uint32_t size_ = 0, unit_ = 1, access_ = fabric::access_none;
    std::vector<fabric::MemoryRegion> regions_;
};

}  // namespace smbdirect::engine
