// Posted work as the software fabrics keep it.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "fabric/fabric.hpp"
#include "fabric/soft/ring.hpp"

namespace smbdirect::fabric::soft {

constexpr uint32_t max_sge = 6;
constexpr uint32_t max_inline = 64;
constexpr uint32_t max_queue_depth = 16384;

struct SendWork {
    uint64_t wr_id = 0;
    uint64_t remote_offset = 0;
    uint32_t length = 0;
    uint32_t invalidate_rkey = 0, remote_rkey = 0;
    Opcode opcode = Opcode::send;
    Status status = Status::success;
    bool done = false;  // completes as soon as all older work has
    bool is_inline = false;
    uint8_t sge_count = 0;
    std::array<Sge, max_sge> sges;
    std::array<std::byte, max_inline> inline_bytes;

    std::span<const Sge> list() const { return {sges.data(), sge_count}; }
};

struct PostedReceive {
    uint64_t wr_id = 0;
    uint32_t capacity = 0;
    uint8_t sge_count = 0;
    std::array<Sge, max_sge> sges;

    std::span<const Sge> list() const { return {sges.data(), sge_count}; }
};

// The contiguous piece of a scatter list that begins `offset` bytes into it; empty at or beyond its end.
inline Sge piece_at(std::span<const Sge> list, uint64_t offset) {
    for (const Sge& sge : list) {
        if (offset < sge.length) {
            return {sge.address + offset, static_cast<uint32_t>(sge.length - offset), sge.lkey};
        }
        offset -= sge.length;
    }
    return {nullptr, 0, 0};
}

inline uint64_t total_length(std::span<const Sge> list) {
    uint64_t sum = 0;
    for (const Sge& sge : list) sum += sge.length;
    return sum;
}

}  // namespace smbdirect::fabric::soft
