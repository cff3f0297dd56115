#include "fabric/soft/random.hpp"

#include <sys/random.h>

#include <array>
#include <cstddef>
#include <cstdlib>

namespace smbdirect::fabric::soft {

// The kernel's generator, fetched in batches: a registration must not cost a system call. getrandom() of up
// to 256 bytes neither fails nor is interrupted once the pool is seeded.
uint64_t unguessable64() {
    thread_local std::array<uint64_t, 32> pool;
    thread_local size_t left = 0;
    if (left == 0) {
        if (getrandom(pool.data(), sizeof pool, 0) != static_cast<ssize_t>(sizeof pool)) std::abort();
        left = pool.size();
    }
    const uint64_t value = pool[--left];
    pool[left] = 0;
    return value;
}

}  // namespace smbdirect::fabric::soft
