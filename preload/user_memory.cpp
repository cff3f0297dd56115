#include "user_memory.hpp"

#include <linux/futex.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "real.hpp"

namespace smbdirect::preload {
namespace {

constexpr uintptr_t kPage = 4096;  // the least there is: larger pages are only asked about more often

// Pages that were found to be there. One that has been unmapped since is taken for good, which is where the
// program would be without us.
class KnownPages {
  public:
    bool has(uintptr_t page) const { return slot(page).load(std::memory_order_relaxed) == page; }
    void add(uintptr_t page) { slot(page).store(page, std::memory_order_relaxed); }

  private:
    static constexpr size_t kSlots = 256;
    std::atomic<uintptr_t>& slot(uintptr_t page) const {
        return slots_[(page / kPage ^ page / kPage / kSlots) % kSlots];
    }
    mutable std::atomic<uintptr_t> slots_[kSlots]{};
};
constinit KnownPages readable, writable;

// futex() looks at a word for us and answers EFAULT where it cannot: FUTEX_CMP_REQUEUE compares one and moves
// nobody, FUTEX_WAKE_OP adds 0 to it in one atomic step and wakes nobody.
bool probe(uintptr_t address, bool for_writing) {
    const int saved = errno;
    auto* word = reinterpret_cast<uint32_t*>(address & ~uintptr_t{3});
    const long result =
        for_writing ? raw(SYS_futex, word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, nullptr, word,
                          FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0))
                    : raw(SYS_futex, word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 0, nullptr, word, 0);
    const bool there = result >= 0 || errno != EFAULT;
    errno = saved;
    return there;
}

bool is_there(KnownPages& known, uintptr_t address, bool for_writing) {
    const uintptr_t page = address & ~(kPage - 1);
    if (page && known.has(page)) [[likely]]
        return true;
    if (!probe(address, for_writing)) return false;
    known.add(page);
    return true;
}

bool both_ends(KnownPages& known, const void* buffer, size_t size, bool for_writing) {
    const auto first = reinterpret_cast<uintptr_t>(buffer);
    if (size == 0) return true;
    if (size - 1 > UINTPTR_MAX - first) return false;
    return is_there(known, first, for_writing) && is_there(known, first + size - 1, for_writing);
}

}  // namespace

bool can_read(const void* from, size_t size) { return both_ends(readable, from, size, false); }
bool can_write(void* to, size_t size) { return both_ends(writable, to, size, true); }

bool is_kernels(const iovec* iov, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const auto first = reinterpret_cast<uintptr_t>(iov[i].iov_base);
        if (static_cast<intptr_t>(first) < 0 || static_cast<intptr_t>(first + iov[i].iov_len) < 0)
            return true;
    }
    return false;
}

bool can_read_all(const iovec* iov, int count) {
    for (int i = 0; i < count; ++i)
        if (!can_read(iov[i].iov_base, iov[i].iov_len)) return false;
    return true;
}
bool can_write_all(const iovec* iov, int count) {
    for (int i = 0; i < count; ++i)
        if (!can_write(iov[i].iov_base, iov[i].iov_len)) return false;
    return true;
}

}  // namespace smbdirect::preload
