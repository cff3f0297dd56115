// Interposers of socket options and ioctl.
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "complain.hpp"
#include "endpoint.hpp"
#include "hook.hpp"
#include "options.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/readiness.hpp"
#include "trace.hpp"
#include "user_memory.hpp"

namespace smbdirect::preload {
namespace {

bool answers_itself(const Attachment& attachment) { return attachment.kind == Kind::beside; }

HOOK(int, setsockopt, int fd, int level, int option, const void* value, socklen_t length) {
    if (is_plain(fd)) return real::setsockopt(fd, level, option, value, length);
    const Held ours = hold(fd);
    if (!ours || answers_itself(*ours)) return real::setsockopt(fd, level, option, value, length);
    const int result = set_option(*ours, fd, level, option, value, length);
    if (tracing())
        trace(0, ours->id(), fd, "setsockopt level %d option %d -> %s", level, option,
              result ? errno_name(errno) : "0");
    return result;
}

// The outcome of a non-blocking connect(), and what broke a connection, reach the program this way.
void trace_pending_error(const Attachment& attachment, int fd, int error) {
    if (error == 0 || attachment.kind != Kind::connection)
        return trace(0, attachment.id(), fd, "SO_ERROR -> %d", error);
    const auto& memory = attachment.memory();
    const auto reason = static_cast<Reason>(memory.reason.load());
    if (memory.state.load() == session::ConnectionState::failed) {
        Endpoint peer;
        char to[64] = "";
        if (endpoint_of(reinterpret_cast<const sockaddr*>(&memory.peer), sizeof memory.peer, &peer))
            describe(peer, to);
        return trace(1, attachment.id(), fd, "connect to %s: failed: %s, reason %u: %s", to,
                     errno_name(error), static_cast<unsigned>(reason), reason_sentence(reason));
    }
    trace(1, attachment.id(), fd, "SO_ERROR -> %s, reason %u: %s", errno_name(error),
          static_cast<unsigned>(reason), reason_sentence(reason));
}

HOOK(int, getsockopt, int fd, int level, int option, void* value, socklen_t* length) {
    if (is_plain(fd)) return real::getsockopt(fd, level, option, value, length);
    const Held ours = hold(fd);
    if (!ours || answers_itself(*ours)) return real::getsockopt(fd, level, option, value, length);
    const int result = get_option(*ours, fd, level, option, value, length);
    if (level == SOL_SOCKET && option == SO_ERROR && result == 0 && value && *length == sizeof(int)) {
        int error;
        std::memcpy(&error, value, sizeof error);
        if (tracing()) trace_pending_error(*ours, fd, error);
        const bool failed = error && ours->kind == Kind::connection &&
                            ours->memory().state.load() == session::ConnectionState::failed;
        if (failed) complain_once(*ours, error);
    }
    return result;
}

int give(void* argument, uint64_t value) {
    if (!can_write(argument, sizeof(int))) return errno = EFAULT, -1;
    constexpr uint64_t kMost = 0x7fffffff;
    *static_cast<int*>(argument) = static_cast<int>(value < kMost ? value : kMost);
    return 0;
}

int ioctl_connection(Attachment& attachment, int fd, unsigned long request, void* argument) {
    switch (request) {
        case FIONREAD:
            return give(argument, session::stream_readable(attachment.view));
        case SIOCOUTQ:  // = TIOCOUTQ
        case SIOCOUTQNSD:
            return give(argument, session::stream_unsent(attachment.view));
        case SIOCATMARK:
            return give(argument, 0);
        case SIOCGSTAMP:
            return errno = ENOENT, -1;  // as TCP, which stamps nothing
        default:
            return real::ioctl(fd, request, argument);
    }
}

bool is_generic(unsigned long request) {
    return request == FIONBIO || request == FIOASYNC || request == FIOCLEX || request == FIONCLEX;
}

// Variadic in C; one argument is passed on whether there is one or not, as libc does.
HOOK(int, ioctl, int fd, unsigned long request, void* argument) {
    if (is_plain(fd) || is_generic(request)) return real::ioctl(fd, request, argument);
    const Held ours = hold(fd);
    if (!ours || answers_itself(*ours)) return real::ioctl(fd, request, argument);
    if (ours->explicit_face()) return errno = ENOTTY, -1;
    if (ours->kind != Kind::connection) return errno = EINVAL, -1;
    return ioctl_connection(*ours, fd, request, argument);
}

HOOK(int, sockatmark, int fd) {
    int mark = 0;
    return hook_ioctl(fd, SIOCATMARK, &mark) < 0 ? -1 : mark;
}

}  // namespace
}  // namespace smbdirect::preload
