// Little-endian fields at any alignment.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace smbdirect::wire {

template <class T>
T load_le(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
    return value;
}

template <class T>
void store_le(std::byte* at, T value) {
    if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
    std::memcpy(at, &value, sizeof value);
}

}  // namespace smbdirect::wire
