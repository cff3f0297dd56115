// Interposers of the calls that move data.
#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "connect.hpp"
#include "data.hpp"
#include "hook.hpp"
#include "passed_fds.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/readiness.hpp"
#include "smbdirect/smbdirect.h"
#include "trace.hpp"
#include "user_memory.hpp"

extern "C" void __chk_fail() __attribute__((noreturn));

namespace smbdirect::preload {
namespace {

int not_connected() {
    errno = ENOTCONN;
    return -1;
}

// A number that is ours but no connection: a true TCP socket answers for itself, the rest as TCP would.
bool answers_itself(const Attachment& attachment) { return attachment.kind == Kind::beside; }

size_t sum(const iovec* iov, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; ++i) total += iov[i].iov_len;
    return total;
}

ssize_t receive_traced(const char* name, Attachment& attachment, int fd, const iovec* iov, size_t count,
                       int flags) {
    if (!is_connection(attachment)) return not_connected();
    if (count > IOV_MAX) return errno = EMSGSIZE, -1;
    if (!can_read(iov, count * sizeof *iov) || is_kernels(iov, count)) return errno = EFAULT, -1;
    const ssize_t result = receive(attachment, fd, iov, count, flags);
    if (tracing()) [[unlikely]]
        trace_call(name, attachment, fd, sum(iov, count), result);
    return result;
}

ssize_t transmit_traced(const char* name, Attachment& attachment, int fd, const iovec* iov, size_t count,
                        int flags, std::optional<uint32_t> token = {}) {
    if (!is_connection(attachment)) return not_connected();
    if (count > IOV_MAX) return errno = EMSGSIZE, -1;
    if (!can_read(iov, count * sizeof *iov) || is_kernels(iov, count)) return errno = EFAULT, -1;
    const ssize_t result = token ? transmit_invalidating(attachment, fd, iov, count, flags, *token)
                                 : transmit(attachment, fd, iov, count, flags);
    if (tracing()) [[unlikely]]
        trace_call(name, attachment, fd, sum(iov, count), result);
    return result;
}

ssize_t receive_one(const char* name, Attachment& attachment, int fd, void* buffer, size_t size, int flags) {
    const iovec iov{buffer, size};
    return receive_traced(name, attachment, fd, &iov, 1, flags);
}
ssize_t transmit_one(const char* name, Attachment& attachment, int fd, const void* buffer, size_t size,
                     int flags) {
    const iovec iov{const_cast<void*>(buffer), size};
    return transmit_traced(name, attachment, fd, &iov, 1, flags);
}

ssize_t receive_message(Attachment& attachment, int fd, msghdr* message, int flags) {
    if (!can_write(message, sizeof *message)) return errno = EFAULT, -1;
    const ssize_t result = receive_traced("recvmsg", attachment, fd, message->msg_iov, message->msg_iovlen,
                                          flags & ~MSG_CMSG_CLOEXEC);
    if (result >= 0) message->msg_namelen = 0, message->msg_controllen = 0, message->msg_flags = 0;
    return result;
}

// Of the kernel series one ancillary message is known, and one at most may come (kernel-series.md section 5).
// TCP takes some, and none that matters here. 0 or an errno.
int take_control(const Attachment& attachment, const msghdr* message, std::optional<uint32_t>* token) {
    if (!attachment.explicit_face() || !message->msg_controllen) return 0;
    if (!can_read(message->msg_control, message->msg_controllen)) return EFAULT;
    const cmsghdr* control = CMSG_FIRSTHDR(message);
    if (!control) return 0;
    if (control->cmsg_len < sizeof *control || control->cmsg_len > message->msg_controllen) return EINVAL;
    if (CMSG_NXTHDR(const_cast<msghdr*>(message), const_cast<cmsghdr*>(control))) return EINVAL;
    if (control->cmsg_level != SOL_SMBDIRECT ||
        static_cast<unsigned>(control->cmsg_type) != SMBDIRECT_CMSG_REMOTE_INVALIDATE)
        return EINVAL;
    constexpr size_t kWhole = CMSG_LEN(sizeof(smbdirect_remote_invalidate));
    if (control->cmsg_len != kWhole) return control->cmsg_len < kWhole ? EBADMSG : EMSGSIZE;
    smbdirect_remote_invalidate content;
    std::memcpy(&content, CMSG_DATA(control), sizeof content);
    *token = content.remote_token;
    return 0;
}

ssize_t transmit_message(Attachment& attachment, int fd, const msghdr* message, int flags) {
    if (!can_read(message, sizeof *message)) return errno = EFAULT, -1;
    std::optional<uint32_t> token;
    if (const int error = take_control(attachment, message, &token)) return errno = error, -1;
    return transmit_traced("sendmsg", attachment, fd, message->msg_iov, message->msg_iovlen, flags, token);
}

// preadv2() and pwritev2() with the position -1 are readv() and writev(); with another one a socket gives
// ESPIPE.
ssize_t at_position(const char* name, Attachment& attachment, int fd, const iovec* iov, int count,
                    off64_t offset, int flags, bool reading) {
    if (offset != -1) return errno = ESPIPE, -1;
    if (count < 0 || count > IOV_MAX) return errno = EINVAL, -1;
    const auto parts = static_cast<size_t>(count);
    if (!can_read(iov, parts * sizeof *iov) || is_kernels(iov, parts)) return errno = EFAULT, -1;
    if (sum(iov, parts) == 0) return 0;  // asks nobody, as in the kernel
    const int message_flags = flags & RWF_NOWAIT ? MSG_DONTWAIT : 0;
    return reading ? receive_traced(name, attachment, fd, iov, static_cast<size_t>(count),
                                    message_flags | kPlainRead)
                   : transmit_traced(name, attachment, fd, iov, static_cast<size_t>(count), message_flags);
}

#define FOREIGN_OR_HOLD(call)    \
    if (is_plain(fd)) [[likely]] \
        return call;             \
    const Held ours = hold(fd);  \
    if (!ours || answers_itself(*ours)) return call

// ---- receive

HOOK(ssize_t, read, int fd, void* buffer, size_t size) {
    FOREIGN_OR_HOLD(real::read(fd, buffer, size));
    return receive_one("read", *ours, fd, buffer, size, kPlainRead);
}
HOOK(ssize_t, __read, int fd, void* buffer, size_t size) { return hook_read(fd, buffer, size); }

HOOK(ssize_t, __read_chk, int fd, void* buffer, size_t size, size_t room) {
    FOREIGN_OR_HOLD(real::__read_chk(fd, buffer, size, room));
    if (size > room) __chk_fail();
    return receive_one("read", *ours, fd, buffer, size, kPlainRead);
}

HOOK(ssize_t, readv, int fd, const iovec* iov, int count) {
    FOREIGN_OR_HOLD(real::readv(fd, iov, count));
    return at_position("readv", *ours, fd, iov, count, -1, 0, true);
}

HOOK(ssize_t, preadv2, int fd, const iovec* iov, int count, off64_t offset, int flags) {
    FOREIGN_OR_HOLD(real::preadv2(fd, iov, count, offset, flags));
    return at_position("preadv2", *ours, fd, iov, count, offset, flags, true);
}
HOOK(ssize_t, preadv64v2, int fd, const iovec* iov, int count, off64_t offset, int flags) {
    return hook_preadv2(fd, iov, count, offset, flags);
}

HOOK(ssize_t, recv, int fd, void* buffer, size_t size, int flags) {
    FOREIGN_OR_HOLD(real::recv(fd, buffer, size, flags));
    return receive_one("recv", *ours, fd, buffer, size, flags);
}

HOOK(ssize_t, __recv_chk, int fd, void* buffer, size_t size, size_t room, int flags) {
    FOREIGN_OR_HOLD(real::__recv_chk(fd, buffer, size, room, flags));
    if (size > room) __chk_fail();
    return receive_one("recv", *ours, fd, buffer, size, flags);
}

HOOK(ssize_t, recvfrom, int fd, void* buffer, size_t size, int flags, sockaddr* address, socklen_t* length) {
    FOREIGN_OR_HOLD(real::recvfrom(fd, buffer, size, flags, address, length));
    const ssize_t result = receive_one("recvfrom", *ours, fd, buffer, size, flags);
    if (result >= 0 && address && length) *length = 0;  // as TCP
    return result;
}

HOOK(ssize_t, __recvfrom_chk, int fd, void* buffer, size_t size, size_t room, int flags, sockaddr* address,
     socklen_t* length) {
    FOREIGN_OR_HOLD(real::__recvfrom_chk(fd, buffer, size, room, flags, address, length));
    if (size > room) __chk_fail();
    const ssize_t result = receive_one("recvfrom", *ours, fd, buffer, size, flags);
    if (result >= 0 && address && length) *length = 0;
    return result;
}

ssize_t recvmsg_elsewhere(int fd, msghdr* message, int flags) {
    const ssize_t result = real::recvmsg(fd, message, flags);
    if (result >= 0 && message->msg_controllen) look_at_passed_fds(*message);
    return result;
}

HOOK(ssize_t, recvmsg, int fd, msghdr* message, int flags) {
    FOREIGN_OR_HOLD(recvmsg_elsewhere(fd, message, flags));
    return receive_message(*ours, fd, message, flags);
}

int recvmmsg_elsewhere(int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
    const int result = real::recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; i < result; ++i)
        if (messages[i].msg_hdr.msg_controllen) look_at_passed_fds(messages[i].msg_hdr);
    return result;
}

int pending_error(Attachment& attachment, int fd) {
    const bool may_have_one = is_connection(attachment) && !attachment.explicit_face();
    return may_have_one ? session::take_error(attachment.view, fd) : 0;
}

// What comes after some messages is kept for the next call.
bool only_error_left(const Attachment& attachment) {
    return attachment.memory().error.load() && session::stream_readable(attachment.view) == 0;
}

HOOK(int, recvmmsg, int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
    FOREIGN_OR_HOLD(recvmmsg_elsewhere(fd, messages, count, flags, timeout));
    timespec now, end{};
    if (timeout) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        end = {now.tv_sec + timeout->tv_sec, now.tv_nsec + timeout->tv_nsec};
        if (end.tv_nsec >= 1'000'000'000) ++end.tv_sec, end.tv_nsec -= 1'000'000'000;
    }
    if (const int error = flags & MSG_ERRQUEUE ? 0 : pending_error(*ours, fd)) return errno = error, -1;
    unsigned done = 0;
    while (done < count) {
        if (done && only_error_left(*ours)) break;
        const ssize_t result = receive_message(*ours, fd, &messages[done].msg_hdr, flags & ~MSG_WAITFORONE);
        if (result < 0) break;
        messages[done++].msg_len = static_cast<unsigned>(result);
        if (flags & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
        if (!timeout) continue;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec)) break;
    }
    return done || !count ? static_cast<int>(done) : -1;
}

// ---- transmit

HOOK(ssize_t, write, int fd, const void* buffer, size_t size) {
    FOREIGN_OR_HOLD(real::write(fd, buffer, size));
    return transmit_one("write", *ours, fd, buffer, size, 0);
}
HOOK(ssize_t, __write, int fd, const void* buffer, size_t size) { return hook_write(fd, buffer, size); }

HOOK(ssize_t, writev, int fd, const iovec* iov, int count) {
    FOREIGN_OR_HOLD(real::writev(fd, iov, count));
    return at_position("writev", *ours, fd, iov, count, -1, 0, false);
}

HOOK(ssize_t, pwritev2, int fd, const iovec* iov, int count, off64_t offset, int flags) {
    FOREIGN_OR_HOLD(real::pwritev2(fd, iov, count, offset, flags));
    return at_position("pwritev2", *ours, fd, iov, count, offset, flags, false);
}
HOOK(ssize_t, pwritev64v2, int fd, const iovec* iov, int count, off64_t offset, int flags) {
    return hook_pwritev2(fd, iov, count, offset, flags);
}

HOOK(ssize_t, send, int fd, const void* buffer, size_t size, int flags) {
    FOREIGN_OR_HOLD(real::send(fd, buffer, size, flags));
    return transmit_one("send", *ours, fd, buffer, size, flags);
}
HOOK(ssize_t, __send, int fd, const void* buffer, size_t size, int flags) {
    return hook_send(fd, buffer, size, flags);
}

bool connects_past_the_rules(int flags, const void* address, socklen_t length) {
    return flags & MSG_FASTOPEN && address &&
           fast_open_is_refused(static_cast<const sockaddr*>(address), length);
}

ssize_t sendto_elsewhere(int fd, const void* buffer, size_t size, int flags, const sockaddr* address,
                         socklen_t length) {
    // As on a kernel without TCP Fast Open: programs go on with connect().
    if (connects_past_the_rules(flags, address, length)) return errno = EOPNOTSUPP, -1;
    return real::sendto(fd, buffer, size, flags, address, length);
}

HOOK(ssize_t, sendto, int fd, const void* buffer, size_t size, int flags, const sockaddr* address,
     socklen_t length) {
    FOREIGN_OR_HOLD(sendto_elsewhere(fd, buffer, size, flags, address, length));
    return transmit_one("sendto", *ours, fd, buffer, size, flags);
}

ssize_t sendmsg_elsewhere(int fd, const msghdr* message, int flags) {
    if (flags & MSG_FASTOPEN && connects_past_the_rules(flags, message->msg_name, message->msg_namelen))
        return errno = EOPNOTSUPP, -1;
    return real::sendmsg(fd, message, flags);
}

HOOK(ssize_t, sendmsg, int fd, const msghdr* message, int flags) {
    FOREIGN_OR_HOLD(sendmsg_elsewhere(fd, message, flags));
    return transmit_message(*ours, fd, message, flags);
}

HOOK(int, sendmmsg, int fd, mmsghdr* messages, unsigned count, int flags) {
    FOREIGN_OR_HOLD(real::sendmmsg(fd, messages, count, flags));
    unsigned done = 0;
    while (done < count) {
        const ssize_t result = transmit_message(*ours, fd, &messages[done].msg_hdr, flags);
        if (result < 0) break;
        messages[done].msg_len = static_cast<unsigned>(result);
        const size_t wanted = sum(messages[done].msg_hdr.msg_iov, messages[done].msg_hdr.msg_iovlen);
        ++done;
        if (static_cast<size_t>(result) < wanted) break;
    }
    return done || !count ? static_cast<int>(done) : -1;
}

}  // namespace
}  // namespace smbdirect::preload
