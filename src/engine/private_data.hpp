// The private data of a connection request or reply. The first 8 bytes are what SMB Direct peers send on
// iWARP: IRD and ORD, big endian [MS-SMBD] 6.1; strangers ignore what follows. The tail tells another engine
// that it meets its kind: the two may then agree on larger fragments and on FPDUs beyond the path's segment
// size.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fabric/fabric.hpp"

namespace smbdirect::engine {

inline constexpr std::array<char, 8> kOwnKind = {'l', 'i', 'b', 's',
                                                 'm', 'b', 'd', 1};  // the last is a version
inline constexpr size_t kIrdOrdLength = 8;

inline void put_big_endian32(std::byte* out, uint32_t value) {
    for (int i = 0; i < 4; ++i) out[i] = static_cast<std::byte>(value >> (24 - 8 * i));
}

inline fabric::PrivateData make_private_data(uint8_t ird, uint8_t ord) {
    fabric::PrivateData data;
    put_big_endian32(data.bytes.data(), ird);
    put_big_endian32(data.bytes.data() + 4, ord);
    std::memcpy(data.bytes.data() + kIrdOrdLength, kOwnKind.data(), kOwnKind.size());
    data.length = kIrdOrdLength + kOwnKind.size();
    return data;
}

// InfiniBand pads private data with zeros to its full length, so that bytes alone mean nothing; IRD and ORD are
// never both 0.
inline bool has_ird_ord(const fabric::PrivateData& data) {
    return data.length >= kIrdOrdLength && std::any_of(data.bytes.begin(), data.bytes.begin() + kIrdOrdLength,
                                                       [](std::byte byte) { return byte != std::byte{0}; });
}

inline bool is_own_kind(const fabric::PrivateData& data) {
    return data.length >= kIrdOrdLength + kOwnKind.size() &&
           std::memcmp(data.bytes.data() + kIrdOrdLength, kOwnKind.data(), kOwnKind.size()) == 0;
}

}  // namespace smbdirect::engine
