// What this process knows about its descriptor numbers: one word each. A number that is not ours costs its
// user two loads and a comparison. The table needs no constructor and no lock; it may be used in signal
// handlers.
#pragma once

#include <atomic>
#include <cstdint>

namespace smbdirect::preload {

struct Attachment;

// Either one of these, or the address of an Attachment, of which the table then holds a reference.
enum Word : uintptr_t {
    unknown = 0,      // to be looked at when a call of ours first sees it
    foreign = 1,      // never ours
    epoll = 2,        // an epoll descriptor to which somebody added something
    tcp = 3,          // a TCP socket made by socket(), in no epoll set
    tcp_watched = 4,  // a TCP socket that may be in an epoll set
    tcp_settled = 5,  // a TCP listener that stays one: asked and answered
    swapping = 6,     // a TCP socket while connect() or listen() puts something of ours in its place
    last_plain = 15,
};

class FdTable {
  public:
    static constexpr unsigned kChunkEntries = 4096;
    static constexpr unsigned kChunks = 16384;  // 2^26 descriptors; what lies above is foreign

    uintptr_t peek(int fd) const {
        const unsigned index = static_cast<unsigned>(fd);
        if (index >= kChunks * kChunkEntries) [[unlikely]]
            return foreign;
        const std::atomic<uintptr_t>* chunk = chunks_[index / kChunkEntries].load(std::memory_order_acquire);
        return chunk ? chunk[index % kChunkEntries].load(std::memory_order_acquire) : unknown;
    }
    static bool is_attachment(uintptr_t word) { return word > last_plain; }
    // What another look at the number would not find out again: not to be wiped by a child in borrowed
    // memory.
    static bool is_lasting(uintptr_t word) {
        return is_attachment(word) || word == epoll || word == tcp_settled;
    }

    // The attachment of this number with one more reference, or null.
    Attachment* acquire(int fd) const;
    // Plain words; drops the table's reference to what was there.
    void set(int fd, Word word);
    // Hands the caller's reference over to the table. False (and the reference dropped) where there is no
    // room.
    bool put(int fd, Attachment* attachment);
    // The same, where the entry still is `expected`. A word is free; an attachment's reference is handed
    // over, and dropped where this fails.
    bool replace(int fd, uintptr_t expected, uintptr_t word);
    // Takes the entry out and gives its word; of an attachment with the table's reference.
    uintptr_t take(int fd);
    // Calls forget(fd) for each number in the range that is known.
    template <class Function>
    void for_each_known(unsigned first, unsigned last, Function forget) const {
        for (unsigned c = first / kChunkEntries; c < kChunks && c <= last / kChunkEntries; ++c) {
            const auto* chunk = chunks_[c].load(std::memory_order_acquire);
            if (!chunk) continue;
            for (unsigned i = 0; i < kChunkEntries; ++i) {
                const unsigned fd = c * kChunkEntries + i;
                if (fd >= first && fd <= last && chunk[i].load(std::memory_order_relaxed))
                    forget(static_cast<int>(fd));
            }
        }
    }

  private:
    std::atomic<uintptr_t>* entry(int fd);  // makes the chunk; null: no memory, or beyond the table

    std::atomic<std::atomic<uintptr_t>*> chunks_[kChunks];
};

extern FdTable fd_table;

}  // namespace smbdirect::preload
