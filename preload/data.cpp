#include "data.hpp"

#include <endian.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fail.hpp"
#include "iov_cursor.hpp"
#include "real.hpp"
#include "session/readiness.hpp"
#include "smbdirect/smbdirect.h"
#include "user_memory.hpp"
#include "wait.hpp"

namespace smbdirect::preload {
namespace {

using session::ConnectionState;
using session::StreamResult;

constexpr size_t kHeader = 4;  // of a message, in the program's stream

// As the kernel does: to the thread that made the call.
ssize_t broken_pipe(int flags) {
    if (!(flags & MSG_NOSIGNAL)) raw(SYS_tgkill, raw(SYS_getpid), raw(SYS_gettid), SIGPIPE);
    return fail_with(EPIPE);
}

bool ended(const session::ConnectionMemory& memory) { return memory.end.load() != session::End::none; }

// What a call on a connection that never came to be answers: the error once, then as TCP after its end.
ssize_t after_failed_connect(Attachment& attachment, int fd, bool sending, int flags) {
    if (const int error = session::take_error(attachment.view, fd)) return fail_with(error);
    if (attachment.explicit_face()) return fail_with(ENOTCONN);
    return sending ? broken_pipe(flags) : 0;
}

// ---- receive

// A buffer that cannot be written to matters only where there is something to put there.
StreamResult nowhere_to_put_it(Attachment& attachment, int fd) {
    char byte;
    const iovec aside{&byte, 1};
    const StreamResult result = session::stream_receive(attachment.view, fd, &aside, 1, true);
    return result.bytes ? StreamResult{0, EFAULT, false} : result;
}

// MSG_PEEK with MSG_TRUNC: how much there is, and nothing moves.
StreamResult count_only(Attachment& attachment, int fd, size_t most) {
    char byte;
    const iovec aside{&byte, 1};
    StreamResult result = session::stream_receive(attachment.view, fd, &aside, 1, true);
    if (result.bytes) result.bytes = std::clamp<size_t>(session::stream_readable(attachment.view), 1, most);
    return result;
}

StreamResult look(Attachment& attachment, int fd, const IovCursor& cursor, int flags) {
    if (flags & MSG_TRUNC && flags & MSG_PEEK)
        return count_only(attachment, fd, cursor.total() - cursor.done());
    if (flags & MSG_TRUNC)
        return session::stream_discard(attachment.view, fd, cursor.total() - cursor.done());
    const auto window = cursor.window();
    if (!can_write_all(window.iov, window.count)) [[unlikely]]
        return nowhere_to_put_it(attachment, fd);
    return session::stream_receive(attachment.view, fd, window.iov, window.count, flags & MSG_PEEK, false);
}

// recv() of nothing: TCP waits until there is something, and takes nothing.
ssize_t receive_nothing(Attachment& attachment, int fd, int flags) {
    const auto& memory = attachment.memory();
    for (;;) {
        if (session::stream_state(attachment.view, fd) == ConnectionState::failed)
            return after_failed_connect(attachment, fd, false, flags);
        if (session::stream_readable(attachment.view) || ended(memory) ||
            (memory.shutdown.load() & session::shutdown_read))
            return 0;
        if (is_nonblocking(fd, flags)) return fail_with(EAGAIN);
        if (const int error = wait_readable(attachment, fd)) return fail_with(error);
    }
}

// MSG_PEEK with MSG_WAITALL waits for more while there is something already, which A cannot tell: a nap, in
// the hope that it does. False: not to be waited for.
bool nap_for_more(Attachment& attachment, int fd, int flags, const Deadline& deadline) {
    if (is_nonblocking(fd, flags) || ended(attachment.memory()) || deadline.left_ms() == 0) return false;
    if (attachment.memory().shutdown.load() & session::shutdown_read) return false;
    constexpr int kNapMs = 2;
    return ::poll(nullptr, 0, kNapMs) == 0;
}

// SO_RCVLOWAT, of which poll() knows nothing here.
size_t least_wanted(Attachment& attachment, size_t asked) {
    const int32_t mark = attachment.socket_options().receive_low_water;
    return std::min(asked, static_cast<size_t>(std::max(mark, 1)));
}

int unsupported_receive_flags(const Attachment& attachment, int flags) {
    flags &= ~kPlainRead;
    if (attachment.explicit_face()) return flags & ~(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL) ? EINVAL : 0;
    if (flags & MSG_OOB) return EINVAL;
    return flags & MSG_ERRQUEUE ? EAGAIN : 0;
}

ssize_t end_of_stream(const Attachment& attachment) {
    return attachment.explicit_face() ? fail_with(ENOTCONN) : 0;
}

// ---- transmit

// One call, one message: 4 bytes of length, big-endian, and exactly so many bytes (kernel-series.md section
// 3).
int check_message(const Attachment& attachment, const IovCursor& cursor) {
    if (cursor.total() <= kHeader) return EINVAL;
    const auto window = cursor.window();
    if (!can_read_all(window.iov, window.count)) return EFAULT;
    uint32_t length = 0;
    size_t have = 0;
    for (int i = 0; i < window.count && have < kHeader; ++i) {
        const size_t part = std::min(window.iov[i].iov_len, kHeader - have);
        std::memcpy(reinterpret_cast<char*>(&length) + have, window.iov[i].iov_base, part);
        have += part;
    }
    if (have < kHeader || be32toh(length) != cursor.total() - kHeader) return EINVAL;
    return be32toh(length) > attachment.memory().max_fragmented_send_size.load() ? EMSGSIZE : 0;
}

int unsupported_send_flags(const Attachment& attachment, int flags) {
    if (attachment.explicit_face()) return flags & ~(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL) ? EINVAL : 0;
    return flags & MSG_OOB ? EOPNOTSUPP : 0;
}

// All of it or nothing.
StreamResult put_message(Attachment& attachment, int fd, const iovec* iov, size_t count,
                         const uint32_t* token) {
    if (!token) return session::stream_send_whole(attachment.view, fd, iov, static_cast<int>(count));
    uint32_t record[] = {session::kInvalidateNext, *token};
    static_assert(sizeof record == session::kInvalidateNextSize);
    iovec with_record[1 + IOV_MAX] = {{record, sizeof record}};
    std::copy_n(iov, count, with_record + 1);
    auto result = session::stream_send_whole(attachment.view, fd, with_record, static_cast<int>(count) + 1);
    if (result.bytes) result.bytes -= sizeof record;
    return result;
}

StreamResult put_bytes(Attachment& attachment, int fd, const IovCursor& cursor) {
    const auto window = cursor.window();
    if (!can_read_all(window.iov, window.count)) [[unlikely]]
        return {0, EFAULT, false};
    auto result = session::stream_send(attachment.view, fd, window.iov, window.count);
    // Several windows: only the ring being full ends the call.
    if (!result.error && result.bytes < window.bytes) result.error = EAGAIN;
    return result;
}

ssize_t report(Attachment& attachment, int error, int flags) {
    if (attachment.explicit_face())
        return fail_with(error == EPIPE || error == ECONNRESET || error == ECONNABORTED ? ENOTCONN : error);
    return error == EPIPE ? broken_pipe(flags) : fail_with(error);
}

}  // namespace

ssize_t receive(Attachment& attachment, int fd, const iovec* iov, size_t count, int flags) {
    if (const int error = unsupported_receive_flags(attachment, flags)) return fail_with(error);
    auto& memory = attachment.memory();
    IovCursor cursor(iov, count);
    if (cursor.total() == 0) return flags & kPlainRead ? 0 : receive_nothing(attachment, fd, flags);
    // A blocking call is content with so much; an explicit socket waits for all that was asked for.
    const bool all = (flags & MSG_WAITALL || attachment.explicit_face()) && !(flags & MSG_PEEK);
    const size_t enough = all ? cursor.total() : least_wanted(attachment, cursor.total());
    constexpr int kPeekAll = MSG_PEEK | MSG_WAITALL;
    const Deadline peek_deadline(
        (flags & kPeekAll) == kPeekAll ? attachment.socket_options().receive_timeout_us.load() : 0);
    bool waited = false;
    for (;;) {
        const ConnectionState state = session::stream_state(attachment.view, fd);
        if (state == ConnectionState::failed) return after_failed_connect(attachment, fd, false, flags);
        // Of an explicit socket the cause is told by SO_ERROR alone.
        if (attachment.explicit_face() && ended(memory) && session::stream_readable(attachment.view) == 0)
            return cursor.done() ? static_cast<ssize_t>(cursor.done()) : fail_with(ENOTCONN);
        // An error waits for the next call where this one has something to give.
        if (cursor.done() && memory.error.load() && session::stream_readable(attachment.view) == 0)
            return static_cast<ssize_t>(cursor.done());
        const StreamResult result = state == ConnectionState::connecting
                                        ? StreamResult{0, EAGAIN, false}
                                        : look(attachment, fd, cursor, flags);
        if (result.bytes) {
            if (flags & MSG_PEEK) {
                const bool more = (flags & MSG_WAITALL) && result.bytes < cursor.window().bytes;
                if (more && nap_for_more(attachment, fd, flags, peek_deadline)) continue;
                return static_cast<ssize_t>(result.bytes);
            }
            const size_t asked = flags & MSG_TRUNC ? cursor.total() - cursor.done() : cursor.window().bytes;
            cursor.advance(result.bytes);
            if (cursor.done() == cursor.total()) return static_cast<ssize_t>(cursor.done());
            if (result.bytes == asked || cursor.done() < enough) continue;  // the next window, or a wait
            return static_cast<ssize_t>(cursor.done());
        }
        const auto done = static_cast<ssize_t>(cursor.done());
        if (done && (cursor.done() >= enough || result.end || result.error != EAGAIN)) return done;
        if (result.end) return end_of_stream(attachment);
        if (result.error != EAGAIN) return report(attachment, result.error, MSG_NOSIGNAL);
        if (memory.shutdown.load() & session::shutdown_read) return done ? done : end_of_stream(attachment);
        const bool nonblocking = is_nonblocking(fd, flags);
        // Whoever waits now is woken when the engine dies, and looks then.
        if ((nonblocking || waited) && session::stream_engine_died(attachment.view, fd)) continue;
        if (nonblocking) return done ? done : fail_with(EAGAIN);
        if (const int error = wait_readable(attachment, fd, done != 0)) return done ? done : fail_with(error);
        waited = true;
    }
}

namespace {

ssize_t send_out(Attachment& attachment, int fd, const iovec* iov, size_t count, int flags,
                 const uint32_t* token) {
    if (const int error = unsupported_send_flags(attachment, flags)) return fail_with(error);
    auto& memory = attachment.memory();
    IovCursor cursor(iov, count);
    const Deadline deadline(attachment.socket_options().send_timeout_us);
    for (;;) {
        const ConnectionState state = session::stream_state(attachment.view, fd);
        if (state == ConnectionState::failed) return after_failed_connect(attachment, fd, true, flags);
        if (memory.shutdown.load() & session::shutdown_write)
            return cursor.done() ? static_cast<ssize_t>(cursor.done()) : report(attachment, EPIPE, flags);
        StreamResult result{0, EAGAIN, false};
        if (state != ConnectionState::connecting) {
            if (attachment.explicit_face()) {
                if (ended(memory)) return fail_with(ENOTCONN);
                if (const int error = check_message(attachment, cursor)) return fail_with(error);
                result = put_message(attachment, fd, iov, count, token);
            } else {
                if (cursor.total() == 0)
                    return ended(memory) && memory.end.load() == session::End::reset
                               ? report(attachment, EPIPE, flags)
                               : 0;
                result = put_bytes(attachment, fd, cursor);
            }
            cursor.advance(result.bytes);
            if (cursor.done() == cursor.total()) return static_cast<ssize_t>(cursor.done());
            if (!result.error) continue;
        }
        const auto done = static_cast<ssize_t>(cursor.done());
        if (result.error != EAGAIN) return done ? done : report(attachment, result.error, flags);
        if (is_nonblocking(fd, flags)) return done ? done : fail_with(EAGAIN);
        if (const int error = wait_writable(attachment, fd, deadline, done != 0))
            return done ? done : fail_with(error);
    }
}

}  // namespace

ssize_t transmit(Attachment& attachment, int fd, const iovec* iov, size_t count, int flags) {
    return send_out(attachment, fd, iov, count, flags, nullptr);
}
ssize_t transmit_invalidating(Attachment& attachment, int fd, const iovec* iov, size_t count, int flags,
                              uint32_t token) {
    return send_out(attachment, fd, iov, count, flags, &token);
}

}  // namespace smbdirect::preload
