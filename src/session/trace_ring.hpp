// Trace records: the program leaves them in shared memory, the engine writes them to the file of the process.
// Writers are any threads of one process; a full ring drops records and counts them (a trace must never block
// the program).
#pragma once

#include <atomic>
#include <cstdint>

namespace smbdirect::session {

struct TraceRecord {
    std::atomic<uint64_t>
        sequence;            // index + 1 once complete: a writer that died leaves a gap that is skipped
    uint64_t time_ns;        // CLOCK_REALTIME
    uint64_t connection_id;  // 0: none
    int32_t fd;              // -1: none
    int32_t thread;
    uint32_t level;   // 0 event, 1 error, 2 a line of the stack of the error before it
    uint32_t length;  // of text
    char text[216];   // not terminated
};
static_assert(sizeof(TraceRecord) == 256);

struct TraceRing {
    uint32_t magic, version;
    uint32_t entries;  // a power of two
    int32_t pid;
    char program[32];
    alignas(64) std::atomic<uint64_t> head;  // writers
    alignas(64) std::atomic<uint64_t> tail;  // engine
    std::atomic<uint64_t> dropped;
    alignas(64) TraceRecord record[1];  // entries of them
};

inline constexpr uint32_t kTraceEntries = 4096;

int create_trace_ring(int32_t pid, const char* program, TraceRing** ring);  // engine
bool map_trace_ring(int memfd, TraceRing** ring);                           // library
void unmap_trace_ring(TraceRing*);

// Library: false when the ring was full (the record is counted as dropped).
bool trace_write(TraceRing*, uint64_t connection_id, int32_t fd, uint32_t level, const char* text,
                 uint32_t length);
// Engine: copies the next complete record; false when there is none.
bool trace_read(TraceRing*, TraceRecord* out_plain_copy);

}  // namespace smbdirect::session
