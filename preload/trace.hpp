// The trace of this process: SMBDIRECT_TRACE names a directory; records go to the engine through a ring in
// shared memory. Off, it costs one load and a branch that is predicted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/reasons.hpp"

namespace smbdirect::preload {

struct Attachment;

enum class TraceState : uint8_t { not_asked, off, on };
extern std::atomic<TraceState> trace_state;

inline bool tracing() { return trace_state.load(std::memory_order_relaxed) != TraceState::off; }

// level 0: event, 1: error (with a stack behind it).
[[gnu::format(printf, 4, 5), gnu::cold]] void trace(uint32_t level, uint64_t connection_id, int fd,
                                                    const char* format, ...);

// A call on one of ours: "recv 4096 -> 12", or with the name of the errno.
[[gnu::cold]] void trace_call(const char* name, const Attachment&, int fd, size_t wanted, long result);
const char* errno_name(int number);

}  // namespace smbdirect::preload
