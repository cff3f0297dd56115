#include "session/trace_ring.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "session/memory.hpp"
#include "session/raw_calls.hpp"
#include "session/sealed_memory.hpp"

namespace smbdirect::session {
namespace {

constexpr uint64_t kGapPatienceNs =
    1'000'000'000;  // a record that is overtaken for so long has a dead writer

constexpr uint64_t ring_size() {
    uint64_t size = sizeof(TraceRing) + (kTraceEntries - 1) * sizeof(TraceRecord);
    return (size + 4095) / 4096 * 4096;
}

// The number of entries is a constant on both sides: what stands in the ring may have been overwritten.
TraceRecord& slot(TraceRing* ring, uint64_t index) { return ring->record[index & (kTraceEntries - 1)]; }

bool complete(TraceRing* ring, uint64_t index) {
    return slot(ring, index).sequence.load(std::memory_order_acquire) == index + 1;
}

// True if something written a while ago stands behind the incomplete record at `tail`.
bool gap_is_dead(TraceRing* ring, uint64_t tail, uint64_t head) {
    uint64_t now = raw::clock_ns(CLOCK_REALTIME);
    for (uint64_t i = tail + 1; i != head && i - tail < kTraceEntries; ++i) {
        if (!complete(ring, i)) continue;
        uint64_t written = slot(ring, i).time_ns;
        return written > now || now - written > kGapPatienceNs;
    }
    return false;
}

void copy_record(const TraceRecord& from, TraceRecord* to, uint64_t index) {
    to->sequence.store(index + 1, std::memory_order_relaxed);
    to->time_ns = from.time_ns;
    to->connection_id = from.connection_id;
    to->fd = from.fd;
    to->thread = from.thread;
    to->level = from.level;
    to->length = std::min<uint32_t>(from.length, sizeof to->text);
    std::memcpy(to->text, from.text, to->length);
}

}  // namespace

int create_trace_ring(int32_t pid, const char* program, TraceRing** ring) {
    void* map = nullptr;
    int fd = create_sealed_memory("smbdirect-trace", ring_size(), &map);
    if (fd < 0) return -1;
    auto* made =
        static_cast<TraceRing*>(map);  // zero pages are the initial state: do not touch a mebibyte for it
    made->magic = kMemoryMagic;
    made->version = kVersion;
    made->entries = kTraceEntries;
    made->pid = pid;
    std::strncpy(made->program, program ? program : "", sizeof made->program - 1);
    *ring = made;
    return fd;
}

bool map_trace_ring(int memfd, TraceRing** ring) {
    uint64_t size = 0;
    void* map = map_sealed_memory(memfd, ring_size(), &size);
    if (!map) return false;
    auto* found = static_cast<TraceRing*>(map);
    if (size != ring_size() || found->magic != kMemoryMagic || found->version != kVersion ||
        found->entries != kTraceEntries) {
        unmap_memory(map, size);
        return raw::failed(-EINVAL);
    }
    *ring = found;
    return true;
}

void unmap_trace_ring(TraceRing* ring) {
    if (ring) unmap_memory(ring, ring_size());
}

bool trace_write(TraceRing* ring, uint64_t connection_id, int32_t fd, uint32_t level, const char* text,
                 uint32_t length) {
    uint64_t head = ring->head.load(std::memory_order_relaxed);
    do {
        if (head - ring->tail.load(std::memory_order_acquire) >= kTraceEntries) {
            ring->dropped.fetch_add(1, std::memory_order_relaxed);
            return false;
        }
    } while (!ring->head.compare_exchange_weak(head, head + 1, std::memory_order_relaxed));
    TraceRecord& record = slot(ring, head);
    record.time_ns = raw::clock_ns(CLOCK_REALTIME);
    record.connection_id = connection_id;
    record.fd = fd;
    record.thread = static_cast<int32_t>(raw::call(SYS_gettid));
    record.level = level;
    record.length = std::min<uint32_t>(length, sizeof record.text);
    std::memcpy(record.text, text, record.length);
    record.sequence.store(head + 1, std::memory_order_release);
    return true;
}

bool trace_read(TraceRing* ring, TraceRecord* out) {
    for (uint32_t looked = 0; looked < kTraceEntries; ++looked) {
        uint64_t tail = ring->tail.load(std::memory_order_relaxed);
        uint64_t head = ring->head.load(std::memory_order_acquire);
        if (tail == head) return false;
        if (complete(ring, tail)) {
            copy_record(slot(ring, tail), out, tail);
            ring->tail.store(tail + 1, std::memory_order_release);
            return true;
        }
        if (!gap_is_dead(ring, tail, head)) return false;
        ring->tail.store(tail + 1, std::memory_order_release);
    }
    return false;
}

}  // namespace smbdirect::session
