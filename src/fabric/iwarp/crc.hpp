// CRC32C over an FPDU, piece by piece (RFC 5044 4.4). ISA-L takes and returns the bare state, so the
// inversions at both ends are ours; the result goes to the wire in little-endian order.
#pragma once

#include <isa-l/crc.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace smbdirect::fabric::iwarp {

class Crc32c {
  public:
    void reset() { state_ = ~uint32_t{0}; }
    void add(const std::byte* bytes, size_t length) {
        // An FPDU is shorter than 64 KiB and a few: the int of the interface is wide enough.
        state_ = crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes)),
                             static_cast<int>(length), state_);
    }
    void store(std::byte* to) const {
        uint32_t value = ~state_;
        if constexpr (std::endian::native == std::endian::big) value = std::byteswap(value);
        std::memcpy(to, &value, sizeof value);
    }
    bool matches(const std::byte* wire) const {
        std::byte own[4];
        store(own);
        return std::memcmp(own, wire, sizeof own) == 0;
    }

  private:
    uint32_t state_ = ~uint32_t{0};
};

}  // namespace smbdirect::fabric::iwarp
