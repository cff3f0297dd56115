// What both sides have in common: what the connection's NEGOTIATE settled, and why channels are not used
// where they could be.
#pragma once

#include <cstdint>
#include <span>

#include "wire/smb2.hpp"

namespace smbdirect::smb2 {

// Transfers below this are cheaper inline; Linux's client switches there too.
constexpr uint32_t kChannelThreshold = 4096;

// So many bytes from the start of a message, or all of a shorter one, is what the looks at it want: as many
// as Negotiated::learn() needs.
constexpr uint32_t kLook = wire::smb2::kNegotiateReplySize;

// The same, when these first bytes of a message are known: what is not SMB2 shows that by its protocol
// identifier, and is not waited for. At least 1.
uint32_t look_wanted(std::span<const std::byte> start, uint32_t length);

struct Negotiated {
    uint16_t dialect = 0;  // 0: not known yet
    uint32_t max_read_size = 0, max_write_size = 0;

    bool is_version_3() const {
        return dialect >= wire::smb2::kDialect300 && dialect != wire::smb2::kDialectWildcard;
    }
    // Looks at a reply of the server.
    void learn(std::span<const std::byte> start);
};

// Why a large transfer went inline.
enum class Unused : uint8_t { none, signing, encryption, dialect };
constexpr size_t kUnusedReasons = 4;

// Of a message that is passed on as it is: a READ or WRITE request that a channel could have served, or
// anything large that is encrypted.
Unused why_unused(std::span<const std::byte> start, uint32_t length, const Negotiated&);

}  // namespace smbdirect::smb2
