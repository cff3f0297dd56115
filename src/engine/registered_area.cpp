#include "engine/registered_area.hpp"

namespace smbdirect::engine {

void RegisteredArea::initialise(fabric::Endpoint* endpoint, std::byte* base, uint32_t size, uint32_t unit,
                                uint32_t access) {
    endpoint_ = endpoint;
    base_ = base;
    size_ = size;
    unit_ = unit ? unit : size;
    access_ = access;
    regions_.assign((size + unit_ - 1) / unit_, {});
}

Result<void> RegisteredArea::require(uint32_t offset) {
    auto& region = regions_[unit_of(offset)];
    if (region.handle) return {};
    const uint32_t begin = unit_of(offset) * unit_;
    auto made = endpoint_->register_memory(base_ + begin, end_of_unit(offset) - begin, access_);
    if (!made) return std::unexpected(made.error());
    region = *made;
    return {};
}

Result<void> RegisteredArea::require(uint32_t offset, uint32_t length) {
    for (const uint32_t end = offset + length; offset < end; offset = end_of_unit(offset))
        if (auto registered = require(offset); !registered) return registered;
    return {};
}

void RegisteredArea::drop(uint32_t unit) {
    if (regions_[unit].handle) endpoint_->deregister_memory(regions_[unit]);
    regions_[unit] = {};
}

size_t RegisteredArea::pieces(uint32_t offset, uint32_t length, std::span<fabric::Sge> out) const {
    size_t count = 0;
    while (length != 0 && count < out.size()) {
        const uint32_t part = std::min(length, end_of_unit(offset) - offset);
        out[count++] = {base_ + offset, part, regions_[unit_of(offset)].lkey};
        offset += part;
        length -= part;
    }
    return count;
}

smb2::Descriptor RegisteredArea::remote_piece(uint32_t offset, uint32_t length) const {
    const auto& region = regions_[unit_of(offset)];
    return {region.remote_offset + (offset - unit_of(offset) * unit_), region.rkey,
            std::min(length, end_of_unit(offset) - offset)};
}

}  // namespace smbdirect::engine
