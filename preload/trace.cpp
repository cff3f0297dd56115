#include "trace.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "attachment.hpp"
#include "process.hpp"
#include "real.hpp"
#include "session/trace_ring.hpp"

namespace smbdirect::preload {

constinit std::atomic<TraceState> trace_state{TraceState::not_asked};

namespace {

constinit std::atomic<session::TraceRing*> ring{nullptr};
constinit std::atomic<int> ring_owner{0};  // process that the ring was made for; -1: being made

session::TraceRing* ask_for_ring() {
    const Settings& s = settings();
    if (!s.trace_directory[0]) return nullptr;
    session::Request request;
    request.type = session::RequestType::trace;
    std::memcpy(request.directory, s.trace_directory, sizeof request.directory);
    session::ReplyFds fds;
    session::TraceRing* made = nullptr;
    if (auto reply = ask(request, -1, &fds); reply && fds.fd[0] >= 0)
        session::map_trace_ring(fds.fd[0], &made);
    for (int fd : fds.fd)
        if (fd >= 0) raw(SYS_close, fd);
    return made;
}

// A child of fork() gets a ring, and so a file, of its own. While one thread asks for it, what the others
// have to say is lost; so is what the asking itself would trace.
session::TraceRing* own_ring() {
    const int self = process_id();
    int owner = ring_owner.load(std::memory_order_acquire);
    if (owner == self) return ring.load(std::memory_order_relaxed);
    if (!settings().trace_directory[0]) {
        trace_state.store(TraceState::off, std::memory_order_relaxed);
        return nullptr;
    }
    if (owner == -self || !ring_owner.compare_exchange_strong(owner, -self, std::memory_order_acq_rel))
        return nullptr;
    session::TraceRing* fresh = ask_for_ring();
    session::TraceRing* old = ring.exchange(fresh);
    if (old) session::unmap_trace_ring(old);
    ring_owner.store(self, std::memory_order_release);
    trace_state.store(fresh ? TraceState::on : TraceState::off, std::memory_order_relaxed);
    return fresh;
}

// Where the call came from, by libunwind, which only a trace ever loads. Lines read "object+offset (symbol)",
// as addr2line wants them.
void trace_stack(session::TraceRing* to, uint64_t connection_id, int fd) {
    using Backtrace = int(void**, int);
    static constinit std::atomic<Backtrace*> backtrace{nullptr};
    static constinit std::atomic<bool> looked{false};
    if (!looked.exchange(true)) {
        if (void* library = dlopen("libunwind.so.8", RTLD_LAZY | RTLD_LOCAL))
            backtrace.store(reinterpret_cast<Backtrace*>(dlsym(library, "unw_backtrace")));
    }
    Backtrace* walk = backtrace.load();
    if (!walk) return;
    constexpr int kOwnFrames = 2, kMost = 24;
    void* frame[kMost];
    const int count = walk(frame, kMost);
    for (int i = kOwnFrames; i < count; ++i) {
        Dl_info info{};
        if (!dladdr(frame[i], &info) || !info.dli_fname) continue;
        const char* slash = std::strrchr(info.dli_fname, '/');
        char text[sizeof session::TraceRecord::text];
        const auto offset = static_cast<char*>(frame[i]) - static_cast<char*>(info.dli_fbase);
        const int length = snprintf(text, sizeof text, "%s+%#tx %s", slash ? slash + 1 : info.dli_fname,
                                    offset, info.dli_sname ? info.dli_sname : "");
        if (length > 0)
            session::trace_write(to, connection_id, fd, 2, text,
                                 std::min<uint32_t>(static_cast<uint32_t>(length), sizeof text - 1));
    }
}

}  // namespace

void trace(uint32_t level, uint64_t connection_id, int fd, const char* format, ...) {
    const int saved = errno;
    if (session::TraceRing* to = own_ring()) {
        char text[sizeof session::TraceRecord::text + 1];
        va_list arguments;
        va_start(arguments, format);
        const int length = vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        if (length > 0) {
            session::trace_write(to, connection_id, fd, level, text,
                                 std::min<uint32_t>(static_cast<uint32_t>(length), sizeof text - 1));
            if (level == 1) trace_stack(to, connection_id, fd);
        }
    }
    errno = saved;
}

void trace_call(const char* name, const Attachment& attachment, int fd, size_t wanted, long result) {
    const int error = errno;
    if (result >= 0) {
        trace(0, attachment.id(), fd, "%s %zu -> %ld", name, wanted, result);
    } else if (error == EAGAIN || error == EINTR || error == EINPROGRESS) {
        trace(0, attachment.id(), fd, "%s %zu -> %s", name, wanted, errno_name(error));
    } else {
        const uint32_t reason = attachment.kind == Kind::connection ? attachment.memory().reason.load() : 0;
        trace(1, attachment.id(), fd, "%s %zu -> %s, reason %u: %s", name, wanted, errno_name(error), reason,
              reason_sentence(static_cast<Reason>(reason)));
    }
    errno = error;
}

const char* errno_name(int number) {
    const char* name = strerrorname_np(number);
    return name ? name : "unknown errno";
}

}  // namespace smbdirect::preload
