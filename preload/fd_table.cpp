#include "fd_table.hpp"

#include <sys/mman.h>

#include <cerrno>

#include "attachment.hpp"

namespace smbdirect::preload {

constinit FdTable fd_table;

std::atomic<uintptr_t>* FdTable::entry(int fd) {
    const unsigned index = static_cast<unsigned>(fd);
    if (index >= kChunks * kChunkEntries) return nullptr;
    auto& slot = chunks_[index / kChunkEntries];
    auto* chunk = slot.load(std::memory_order_acquire);
    if (!chunk) {
        const int saved = errno;
        constexpr size_t bytes = kChunkEntries * sizeof(uintptr_t);
        void* memory =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        errno = saved;
        if (memory == MAP_FAILED) return nullptr;
        auto* fresh = static_cast<std::atomic<uintptr_t>*>(memory);
        if (slot.compare_exchange_strong(chunk, fresh, std::memory_order_acq_rel)) {
            chunk = fresh;
        } else {
            munmap(memory, bytes);
        }
    }
    return chunk + index % kChunkEntries;
}

Attachment* FdTable::acquire(int fd) const {
    for (;;) {
        const uintptr_t word = peek(fd);
        if (!is_attachment(word)) return nullptr;
        auto* attachment = reinterpret_cast<Attachment*>(word);
        // Attachments are type-stable: a stale pointer is a pointer to some attachment, perhaps a free one.
        if (!try_hold(attachment)) {
            if (peek(fd) == word) return nullptr;  // being taken apart
            continue;
        }
        if (peek(fd) == word) return attachment;
        drop(attachment);
    }
}

void FdTable::set(int fd, Word word) {
    if (word == unknown && peek(fd) == unknown) return;
    auto* slot = entry(fd);
    if (!slot) return;
    const uintptr_t old = slot->exchange(word, std::memory_order_acq_rel);
    if (is_attachment(old)) drop(reinterpret_cast<Attachment*>(old));
}

bool FdTable::put(int fd, Attachment* attachment) {
    auto* slot = entry(fd);
    if (!slot) {
        drop(attachment);
        return false;
    }
    const uintptr_t old = slot->exchange(reinterpret_cast<uintptr_t>(attachment), std::memory_order_acq_rel);
    if (is_attachment(old)) drop(reinterpret_cast<Attachment*>(old));
    return true;
}

bool FdTable::replace(int fd, uintptr_t expected, uintptr_t word) {
    auto* slot = entry(fd);
    uintptr_t found = expected;
    if (slot && slot->compare_exchange_strong(found, word, std::memory_order_acq_rel)) {
        if (is_attachment(expected)) drop(reinterpret_cast<Attachment*>(expected));
        return true;
    }
    if (is_attachment(word)) drop(reinterpret_cast<Attachment*>(word));
    return false;
}

uintptr_t FdTable::take(int fd) {
    if (peek(fd) == unknown) return unknown;
    auto* slot = entry(fd);
    return slot ? slot->exchange(unknown, std::memory_order_acq_rel) : static_cast<uintptr_t>(unknown);
}

}  // namespace smbdirect::preload
