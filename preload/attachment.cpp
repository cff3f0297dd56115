#include "attachment.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/reasons.hpp"

namespace smbdirect::preload {
namespace {

constexpr unsigned kPerSlab = 256, kSlabs = 4096;  // a million at most
constexpr uint32_t kBusy = 1u << 31;               // being made or taken apart: not to be held
constinit std::atomic<Attachment*> slabs[kSlabs];
constinit std::atomic<unsigned> first_with_room{0};

Attachment* slab(unsigned index) {
    Attachment* found = slabs[index].load(std::memory_order_acquire);
    if (found) return found;
    constexpr size_t bytes = kPerSlab * sizeof(Attachment);
    void* memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    if (slabs[index].compare_exchange_strong(found, static_cast<Attachment*>(memory),
                                             std::memory_order_acq_rel))
        return static_cast<Attachment*>(memory);
    munmap(memory, bytes);
    return found;
}

void take_apart(Attachment* attachment) {
    const int saved = errno;
    if (attachment->kind == Kind::connection && attachment->view.memory)
        session::unmap_connection_memory(&attachment->view);
    if (attachment->knocks) session::unmap_knock_table(attachment->knocks);
    attachment->knocks = nullptr;
    errno = saved;
}

}  // namespace

Attachment* make_attachment(Kind kind, uint32_t face) {
    for (unsigned s = first_with_room.load(std::memory_order_relaxed); s < kSlabs; ++s) {
        Attachment* all = slab(s);
        if (!all) return nullptr;
        for (unsigned i = 0; i < kPerSlab; ++i) {
            uint32_t none = 0;
            Attachment* one = all + i;
            if (!one->references.compare_exchange_strong(none, kBusy, std::memory_order_acquire)) continue;
            first_with_room.store(s, std::memory_order_relaxed);
            // Everything but the count; all members are plain or atomic words, for which zero is a value.
            constexpr size_t skip = sizeof one->references;
            std::memset(reinterpret_cast<char*>(one) + skip, 0, sizeof *one - skip);
            one->kind = kind;
            one->face = face;
            one->references.store(1, std::memory_order_release);
            return one;
        }
    }
    return nullptr;
}

bool try_hold(Attachment* attachment) {
    uint32_t count = attachment->references.load(std::memory_order_relaxed);
    do {
        if (count == 0 || (count & kBusy)) return false;
    } while (!attachment->references.compare_exchange_weak(count, count + 1, std::memory_order_acquire));
    return true;
}

void drop(Attachment* attachment) {
    uint32_t count = attachment->references.load(std::memory_order_relaxed);
    while (!attachment->references.compare_exchange_weak(count, count == 1 ? kBusy : count - 1,
                                                         std::memory_order_acq_rel)) {
    }
    if (count != 1) return;
    take_apart(attachment);
    first_with_room.store(0, std::memory_order_relaxed);
    attachment->references.store(0, std::memory_order_release);
}

Attachment* make_orphan(int error) {
    Attachment* orphan = make_attachment(Kind::connection, 6);
    if (!orphan) return nullptr;
    constexpr uint32_t ring = 4096, bytes = 4 * ring;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        drop(orphan);
        return nullptr;
    }
    orphan->view = {static_cast<session::ConnectionMemory*>(memory),
                    static_cast<std::byte*>(memory),
                    bytes,
                    ring,
                    ring,
                    2 * ring,
                    16,
                    3 * ring,
                    ring};
    auto& shared = orphan->memory();
    shared.magic = session::kMemoryMagic;
    shared.version = session::kVersion;
    shared.size = bytes;
    shared.face = 6;
    shared.local.ss_family = shared.peer.ss_family = AF_INET;
    shared.state = session::ConnectionState::ended;
    shared.error = error;
    shared.end = error ? session::End::reset : session::End::orderly;
    if (error)
        shared.reason = static_cast<uint32_t>(Reason::engine_lost);
    else
        shared.shutdown = session::shutdown_write | session::shutdown_after_end;
    shared.return_mark = UINT64_MAX;
    pthread_mutex_init(&shared.transmit_lock, nullptr);
    pthread_mutex_init(&shared.receive_lock, nullptr);
    return orphan;
}

}  // namespace smbdirect::preload
