#include "session/memory.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <bit>
#include <iterator>
#include <new>

#include "session/raw_calls.hpp"
#include "session/sealed_memory.hpp"

namespace smbdirect::session {
namespace {

constexpr uint32_t kPage = 4096;

constexpr uint64_t round_up(uint64_t value) { return (value + kPage - 1) / kPage * kPage; }

// Robust: a holder may be killed at any instruction. Error-checking: a signal handler that comes in again
// must not hang.
void initialise_lock(pthread_mutex_t* lock) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

ConnectionView copy_geometry(ConnectionMemory* memory, uint64_t size) {
    ConnectionView view;
    view.memory = memory;
    view.base = reinterpret_cast<std::byte*>(memory);
    view.size = size;
    view.transmit_offset = memory->transmit_offset;
    view.transmit_size = memory->transmit_size;
    view.receive_ring_offset = memory->receive_ring_offset;
    view.receive_ring_entries = memory->receive_ring_entries;
    view.receive_area_offset = memory->receive_area_offset;
    view.receive_area_size = memory->receive_area_size;
    return view;
}

bool inside(uint64_t offset, uint64_t length, uint64_t size) {
    return offset >= sizeof(ConnectionMemory) && offset % 16 == 0 && offset <= size &&
           length <= size - offset;
}

bool geometry_is_sane(const ConnectionView& view) {
    return std::has_single_bit(view.transmit_size) && std::has_single_bit(view.receive_ring_entries) &&
           inside(view.transmit_offset, view.transmit_size, view.size) &&
           inside(view.receive_ring_offset, uint64_t{view.receive_ring_entries} * sizeof(ReceiveDescriptor),
                  view.size) &&
           inside(view.receive_area_offset, view.receive_area_size, view.size);
}

}  // namespace

// ---------------------------------------------------------------- sealed memfds in general

int create_sealed_memory(const char* name, uint64_t size, void** map) {
    long fd = raw::call(SYS_memfd_create, raw::address(name), MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return raw::failed(fd), -1;
    long done = raw::call(SYS_ftruncate, fd, static_cast<long>(size));
    if (done == 0) done = raw::call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (done == 0) done = raw::map_shared(static_cast<long>(size), static_cast<int>(fd));
    if (done < 0 && done > -4096) {
        raw::close(static_cast<int>(fd));
        return raw::failed(done), -1;
    }
    *map = reinterpret_cast<void*>(done);
    return static_cast<int>(fd);
}

void* map_sealed_memory(int memfd, uint64_t least, uint64_t* size) {
    constexpr long kNeeded = F_SEAL_SHRINK | F_SEAL_GROW;  // without them a peer could make us die of SIGBUS
    long seals = raw::call(SYS_fcntl, memfd, F_GET_SEALS);
    if (seals < 0) return raw::failed(seals), nullptr;
    if ((seals & kNeeded) != kNeeded) return raw::failed(-EPERM), nullptr;
    long length = raw::call(SYS_lseek, memfd, 0, SEEK_END);
    if (length < 0) return raw::failed(length), nullptr;
    if (static_cast<uint64_t>(length) < least) return raw::failed(-EINVAL), nullptr;
    long map = raw::map_shared(length, memfd);
    if (map < 0 && map > -4096) return raw::failed(map), nullptr;
    *size = static_cast<uint64_t>(length);
    return reinterpret_cast<void*>(map);
}

void unmap_memory(void* map, uint64_t size) { raw::unmap(map, size); }

// ---------------------------------------------------------------- connections

int create_connection_memory(const MemoryGeometry& geometry, ConnectionView* view) {
    uint64_t ring_bytes = uint64_t{geometry.receive_ring_entries} * sizeof(ReceiveDescriptor);
    uint64_t ring = round_up(sizeof(ConnectionMemory));
    uint64_t transmit = round_up(ring + ring_bytes);
    uint64_t area = round_up(transmit + geometry.transmit_size);
    uint64_t size = round_up(area + geometry.receive_area_size + geometry.extent_area_size);
    if (!std::has_single_bit(geometry.transmit_size) || !std::has_single_bit(geometry.receive_ring_entries) ||
        size > UINT32_MAX)
        return raw::failed(-EINVAL), -1;

    void* map = nullptr;
    int fd = create_sealed_memory("smbdirect", size, &map);
    if (fd < 0) return -1;
    auto* memory = new (map) ConnectionMemory{};
    memory->magic = kMemoryMagic;
    memory->version = kVersion;
    memory->size = size;
    memory->transmit_offset = static_cast<uint32_t>(transmit);
    memory->transmit_size = geometry.transmit_size;
    memory->receive_ring_offset = static_cast<uint32_t>(ring);
    memory->receive_ring_entries = geometry.receive_ring_entries;
    memory->receive_area_offset = static_cast<uint32_t>(area);
    memory->receive_area_size = geometry.receive_area_size + geometry.extent_area_size;
    memory->state.store(ConnectionState::connecting);
    memory->return_mark.store(UINT64_MAX);
    initialise_lock(&memory->transmit_lock);
    initialise_lock(&memory->receive_lock);
    *view = copy_geometry(memory, size);
    return fd;
}

bool map_connection_memory(int memfd, ConnectionView* view) {
    uint64_t size = 0;
    void* map = map_sealed_memory(memfd, sizeof(ConnectionMemory), &size);
    if (!map) return false;
    auto* memory = static_cast<ConnectionMemory*>(map);
    ConnectionView found = copy_geometry(memory, size);
    int error = 0;
    if (memory->magic != kMemoryMagic)
        error = EINVAL;
    else if (memory->version != kVersion)
        error = EPROTONOSUPPORT;
    else if (memory->size != size || !geometry_is_sane(found))
        error = EINVAL;
    if (error) {
        unmap_memory(map, size);
        return raw::failed(-error);
    }
    *view = found;
    return true;
}

void unmap_connection_memory(ConnectionView* view) {
    if (view->base) unmap_memory(view->base, view->size);
    *view = {};
}

// ---------------------------------------------------------------- knock tables

int create_knock_table(uint64_t listener_id, KnockTable** table) {
    void* map = nullptr;
    int fd = create_sealed_memory("smbdirect-knocks", round_up(sizeof(KnockTable)), &map);
    if (fd < 0) return -1;
    auto* made = new (map) KnockTable{};
    made->magic = kMemoryMagic;
    made->version = kVersion;
    made->listener_id = listener_id;
    made->entries = std::size(made->entry);
    *table = made;
    return fd;
}

bool map_knock_table(int memfd, KnockTable** table) {
    uint64_t size = 0;
    void* map = map_sealed_memory(memfd, sizeof(KnockTable), &size);
    if (!map) return false;
    auto* found = static_cast<KnockTable*>(map);
    if (found->magic != kMemoryMagic || found->version != kVersion ||
        found->entries != std::size(found->entry)) {
        unmap_memory(map, size);
        return raw::failed(-EINVAL);
    }
    *table = found;
    return true;
}

void unmap_knock_table(KnockTable* table) {
    if (table) unmap_memory(table, round_up(sizeof(KnockTable)));
}

}  // namespace smbdirect::session
