// Numbers that a peer cannot guess.
#pragma once

#include <cstdint>

namespace smbdirect::fabric::soft {

uint64_t unguessable64();
inline uint32_t unguessable32() { return static_cast<uint32_t>(unguessable64() >> 16); }

}  // namespace smbdirect::fabric::soft
