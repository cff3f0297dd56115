// The library's and the tools' side of the session protocol, and the invisible start of the engine.
#pragma once

#include <sys/types.h>

#include <string_view>

#include "base/result.hpp"
#include "session/messages.hpp"

namespace smbdirect::session {

struct ReplyFds {
    int fd[kMaxMessageFds] = {-1, -1};
};

struct ClientOptions {
    const char* socket_name = nullptr;  // SMBDIRECT_SOCKET, or null
    const char* engine_path = nullptr;  // smbdirectd to start where none answers; null: do not start one
    uid_t uid = 0;                      // the process's real uid: whose engine
    int wait_ms = 5000;                 // for an answer; three times as long for an engine to start
};

// One exchange: find the engine (system, then user), start it if none answers, check who it is, ask. Sends
// pass_fd if it is not -1. Descriptors in the reply are CLOEXEC. errno is preserved. Uses raw system calls
// only, so that it may run inside interposed functions; no allocation. Async-signal-safe.
Result<Reply> ask_engine(const ClientOptions&, const Request&, int pass_fd, ReplyFds*, char* text = nullptr,
                         uint32_t text_size = 0);

// Starts `path` as nobody's child: no SIGCHLD, nothing for waitpid(-1), own session, no inherited descriptors
// but 0-2 on /dev/null, default signals, without LD_PRELOAD (readiness.md section 8). False with errno.
bool spawn_invisibly(const char* path, const char* const* arguments);

}  // namespace smbdirect::session
