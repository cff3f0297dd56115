// Looks on while a long compound passes by, and tells when an element of it asks for a channel.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "wire/smb2.hpp"

namespace smbdirect::smb2 {

class CompoundGuard {
  public:
    void begin() { *this = {}; }
    // The next bytes of the message, in any portions. False: there is a channel, or the chain is broken.
    bool take(std::span<const std::byte> bytes);

  private:
    bool look();

    std::array<std::byte, wire::smb2::kRequestSize> start_{};  // of the present element
    uint32_t collected_ = 0;
    uint32_t wanted_ = wire::smb2::kHeaderSize;  // to be collected before it is looked at
    uint32_t to_skip_ = 0;                       // bytes to the next element
    bool last_ = false;                          // there is none
};

}  // namespace smbdirect::smb2
