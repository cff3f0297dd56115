// Interposers of the calls that name, connect and accept sockets.
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "accept.hpp"
#include "connect.hpp"
#include "hook.hpp"
#include "listen.hpp"
#include "options.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/raw_calls.hpp"
#include "session/readiness.hpp"
#include "trace.hpp"
#include "user_memory.hpp"

namespace smbdirect::preload {
namespace {

HOOK(int, connect, int fd, const sockaddr* address, socklen_t length) {
    const Held ours = hold(fd);
    if (ours) {
        const int result = connect_ours(*ours, fd, address, length);
        return result;
    }
    const uintptr_t word = fd_table.peek(fd);
    const bool may_become_ours = word == tcp || word == tcp_watched || word == unknown;
    int result;
    if (may_become_ours && convert_at_connect(fd, address, length, &result)) return result;
    return real::connect(fd, address, length);
}
HOOK(int, __connect, int fd, const sockaddr* address, socklen_t length) {
    return hook_connect(fd, address, length);
}

// What has an address already; the kernel looks at the new one first.
int refuse_bind(int domain, const sockaddr* address, socklen_t length) {
    constexpr socklen_t kShortV6 = 24;
    const socklen_t least = domain == AF_INET6 ? kShortV6 : sizeof(sockaddr_in);
    if (length < least || length > sizeof(sockaddr_storage)) return errno = EINVAL, -1;
    const bool fits = address->sa_family == domain || (domain == AF_INET && address->sa_family == AF_UNSPEC);
    return errno = fits ? EINVAL : EAFNOSUPPORT, -1;
}

HOOK(int, bind, int fd, const sockaddr* address, socklen_t length) {
    if (is_plain(fd)) return real::bind(fd, address, length);
    const Held ours = hold(fd);
    if (!ours || ours->kind == Kind::beside) return real::bind(fd, address, length);
    if (length <= sizeof(sockaddr_storage) && !can_read(address, length)) return errno = EFAULT, -1;
    if (ours->kind != Kind::idle) return refuse_bind(domain_of(*ours), address, length);
    // The series asks for the socket's family and a full address.
    const int family = ours->options.domain;
    const socklen_t full = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (!address || length < sizeof(sa_family_t)) return errno = EINVAL, -1;
    if (address->sa_family != family) return errno = EAFNOSUPPORT, -1;
    if (length < full) return errno = EINVAL, -1;
    const int saved = errno;
    if (real::bind(fd, address, length) == 0) return 0;
    if (errno != EADDRINUSE) return -1;
    // Nothing of RDMA waits in TIME_WAIT, and the program has no SO_REUSEADDR to say so for what lies below.
    int reuse = 1;
    real::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    const int result = real::bind(fd, address, length), error = errno;
    reuse = 0;
    real::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    errno = result == 0 ? saved : error;
    return result;
}

HOOK(int, listen, int fd, int backlog) {
    const Held ours = hold(fd);
    if (ours) return listen_ours(*ours, fd, backlog);
    return fd_table.peek(fd) == foreign ? real::listen(fd, backlog) : listen_tcp(fd, backlog);
}

int accept_hook(int fd, sockaddr* address, socklen_t* length, int flags) {
    Held listener = hold(fd);
    const uintptr_t word = fd_table.peek(fd);
    if (!listener && (word == tcp || word == tcp_watched)) listener = examine_listener(fd);
    if (listener) return accept_ours(*listener, fd, address, length, flags);
    const int accepted =
        flags ? real::accept4(fd, address, length, flags) : real::accept(fd, address, length);
    // An accepted TCP socket is connected and will not become ours; what an AF_UNIX listener gave may be.
    if (accepted >= 0) fd_table.set(accepted, word == tcp_settled ? foreign : unknown);
    return accepted;
}

HOOK(int, accept, int fd, sockaddr* address, socklen_t* length) {
    return accept_hook(fd, address, length, 0);
}
HOOK(int, accept4, int fd, sockaddr* address, socklen_t* length, int flags) {
    return accept_hook(fd, address, length, flags);
}

HOOK(int, getsockname, int fd, sockaddr* address, socklen_t* length) {
    if (is_plain(fd)) return real::getsockname(fd, address, length);
    const Held ours = hold(fd);
    if (!ours || ours->kind == Kind::beside || ours->kind == Kind::idle)
        return real::getsockname(fd, address, length);
    sockaddr_storage local;
    const socklen_t size = address_of(*ours, false, &local);
    return show_address(local, size, address, length);
}

bool has_peer(const Attachment& attachment) {
    if (attachment.kind != Kind::connection) return false;
    if (attachment.explicit_face() && attachment.memory().end.load() != session::End::none) return false;
    const int state = tcp_state(attachment);
    return state != TCP_CLOSE && state != TCP_SYN_SENT;
}

HOOK(int, getpeername, int fd, sockaddr* address, socklen_t* length) {
    if (is_plain(fd)) return real::getpeername(fd, address, length);
    const Held ours = hold(fd);
    if (!ours) return real::getpeername(fd, address, length);
    if (!has_peer(*ours)) return errno = ENOTCONN, -1;
    sockaddr_storage peer;
    const socklen_t size = address_of(*ours, true, &peer);
    return show_address(peer, size, address, length);
}

// With both halves over TCP says HUP at once; here the engine does, as soon as it has noticed. Not for long:
// it may be standing still.
void await_hang_up(const Attachment& attachment, int fd) {
    constexpr int kPatienceMs = 50;
    const auto& memory = attachment.memory();
    const uint32_t shut = memory.shutdown.load();
    const bool over = (shut & session::shutdown_read) ||
                      (memory.half_close.load() && memory.end.load() == session::End::orderly);
    if (over && (shut & session::shutdown_write) && !attachment.explicit_face() &&
        session::stream_readable(attachment.view) == 0 && session::stream_unsent(attachment.view) == 0)
        session::raw::poll_one(fd, 0, kPatienceMs);
}

int shut(Attachment& attachment, int fd, int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return errno = EINVAL, -1;
    if (attachment.kind != Kind::connection) return errno = ENOTCONN, -1;
    const int state = tcp_state(attachment);
    if (state == TCP_CLOSE) return errno = ENOTCONN, -1;
    if (state == TCP_SYN_SENT && !attachment.explicit_face()) return disconnect(attachment, fd);
    uint32_t bits = 0;
    if (how != SHUT_WR) bits |= session::shutdown_read;
    if (how != SHUT_RD) bits |= session::shutdown_write;
    if (attachment.explicit_face())
        bits = session::shutdown_read | session::shutdown_write;  // there is no half of it
    if (bits & session::shutdown_write && state == TCP_CLOSE_WAIT) bits |= session::shutdown_after_end;
    session::stream_shut(attachment.view, fd, bits);
    // A shows the end of stream to whoever polls; tokens that the engine sends from now on go nowhere, and
    // none is needed.
    if (bits & session::shutdown_read) real::shutdown(fd, SHUT_RD);
    await_hang_up(attachment, fd);
    if (tracing()) trace(0, attachment.id(), fd, "shutdown %d", how);
    return 0;
}

// A listener that is shut for reading listens no more; listen() makes it one again.
int stop_listening(Attachment& listener, int fd, int how) {
    const int result = real::shutdown(fd, how);
    if (result == 0 && how != SHUT_WR) {
        forget_listener(listener);
        fd_table.set(fd, tcp_watched);
    }
    return result;
}

HOOK(int, shutdown, int fd, int how) {
    if (is_plain(fd)) return real::shutdown(fd, how);
    const Held ours = hold(fd);
    if (!ours) return real::shutdown(fd, how);
    if (ours->kind == Kind::beside) return stop_listening(*ours, fd, how);
    return shut(*ours, fd, how);
}

}  // namespace
}  // namespace smbdirect::preload
