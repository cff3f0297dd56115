// The private data of a connection request or reply. The first 8 bytes are what SMB Direct peers send on
// iWARP: IRD and ORD, big endian [MS-SMBD] 6.1; strangers ignore what follows. The tail tells another engine
// that it meets its kind, so that the two may agree on larger fragments, and over which fabric: what the
// software fabric takes beyond the standards, FPDUs beyond the path's segment size, no device need take. A
// last byte tells what this end of the connection knows beyond [MS-SMBD].
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "fabric/fabric.hpp"
#include "wire/big_endian.hpp"

namespace smbdirect::engine {

inline constexpr std::array<char, 8> kOwnKind = {'l', 'i', 'b', 's',
                                                 'm', 'b', 'd', 1};  // the last is a version
inline constexpr size_t kIrdOrdLength = 8;
inline constexpr size_t kFabricMarkAt = kIrdOrdLength + kOwnKind.size();
inline constexpr size_t kAbilitiesAt = kFabricMarkAt + 1;

enum class FabricMark : uint8_t { none, iwarp, memory, verbs };
enum Abilities : uint8_t { knows_half_close = 1 };  // wire::kSmbdEndOfStream; a TCP socket's, converted

inline FabricMark fabric_mark(std::string_view fabric_name) {
    if (fabric_name == "iwarp") return FabricMark::iwarp;
    if (fabric_name == "memory") return FabricMark::memory;
    return FabricMark::verbs;  // an endpoint's is followed by the name of its device
}

inline fabric::PrivateData make_private_data(uint8_t ird, uint8_t ord, std::string_view fabric_name,
                                             uint8_t abilities) {
    fabric::PrivateData data;
    wire::store_be<uint32_t>(data.bytes.data(), ird);
    wire::store_be<uint32_t>(data.bytes.data() + 4, ord);
    std::memcpy(data.bytes.data() + kIrdOrdLength, kOwnKind.data(), kOwnKind.size());
    data.bytes[kFabricMarkAt] = static_cast<std::byte>(fabric_mark(fabric_name));
    data.bytes[kAbilitiesAt] = static_cast<std::byte>(abilities);
    data.length = kAbilitiesAt + 1;
    return data;
}

// InfiniBand pads private data with zeros to its full length, so that bytes alone mean nothing; IRD and ORD
// are never both 0.
inline bool has_ird_ord(const fabric::PrivateData& data) {
    return data.length >= kIrdOrdLength && std::any_of(data.bytes.begin(), data.bytes.begin() + kIrdOrdLength,
                                                       [](std::byte byte) { return byte != std::byte{0}; });
}

// How many of our RDMA Reads the peer serves at once; 0: it does not say. Linux 6 says it in its own byte
// order.
inline uint32_t ird_of(const fabric::PrivateData& data) {
    if (!has_ird_ord(data)) return 0;
    const auto value = wire::load_be<uint32_t>(data.bytes.data());
    return value > 0xffff ? std::byteswap(value) : value;
}

inline bool is_own_kind(const fabric::PrivateData& data) {
    return data.length >= kIrdOrdLength + kOwnKind.size() &&
           std::memcmp(data.bytes.data() + kIrdOrdLength, kOwnKind.data(), kOwnKind.size()) == 0;
}

// What the other engine's end knows; an older one says nothing, and knows nothing.
inline uint8_t abilities_of(const fabric::PrivateData& data) {
    return is_own_kind(data) && data.length > kAbilitiesAt ? static_cast<uint8_t>(data.bytes[kAbilitiesAt])
                                                           : 0;
}

// Whether the other engine's end is this fabric as well.
inline bool is_same_fabric(const fabric::PrivateData& data, std::string_view fabric_name) {
    return is_own_kind(data) && data.length > kFabricMarkAt &&
           data.bytes[kFabricMarkAt] == static_cast<std::byte>(fabric_mark(fabric_name));
}

}  // namespace smbdirect::engine
