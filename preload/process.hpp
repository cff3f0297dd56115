// What the library knows about the process that it lives in. Nothing here is read before it is needed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "session/client.hpp"

namespace smbdirect::preload {

// Runs something once in a process, without a mutex: a thread that died by fork() in the middle, or a signal
// handler that came in on top of it, must not hang those who come later.
class Once {
  public:
    // True if `work` has been done, now or before. False where it is under way below us on this very thread.
    template <class Work>
    bool run(Work work) {
        if (state_.load(std::memory_order_acquire) == kDone) [[likely]]
            return true;
        if (!begin()) return state_.load(std::memory_order_acquire) == kDone;
        work();
        state_.store(kDone, std::memory_order_release);
        return true;
    }

  private:
    static constexpr int kDone = -1;
    bool begin();
    std::atomic<int> state_{0};  // 0, the id of the working thread, or kDone
};

// The environment, unless the program runs with more rights than its caller (AT_SECURE).
const char* environment(const char* name);

struct Settings {
    char program[32];           // name of the program, as rules match it
    char engine[256];           // path of smbdirectd; empty: not found
    char socket_name[96];       // SMBDIRECT_SOCKET; empty: none
    char trace_directory[256];  // SMBDIRECT_TRACE, made absolute; empty: no trace
    uid_t uid;                  // real uid when first needed
    uint32_t protocol;          // SMBDIRECT_PROTOCOL
    bool accept_options;        // SMBDIRECT_EXPLICIT_OPTIONS=accept: setsockopt on explicit sockets succeeds
                                // silently
};
const Settings& settings();

// The process id, by a page that a fork wipes: no system call, and right also after _Fork() and raw clone().
int process_id();
// True in a child of vfork() or clone(CLONE_VM), which runs in its parent's memory with descriptors of its
// own: such a child must not write the parent's tables. One system call.
bool in_borrowed_memory();

struct Patience {
    int wait_ms = 5000;
    bool may_start = true;  // an engine, where none answers
};
Result<session::Reply> ask(session::Request&, int pass_fd, session::ReplyFds*, Patience = {});

}  // namespace smbdirect::preload
