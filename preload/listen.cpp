#include "listen.hpp"

#include <time.h>

#include <algorithm>
#include <cerrno>

#include "endpoint.hpp"
#include "fail.hpp"
#include "options.hpp"
#include "policy.hpp"
#include "process.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "swap.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

bool is_tcp_stream(int fd) {
    return socket_value(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
           socket_value(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
}

bool local_endpoint(int fd, Endpoint* endpoint, int* family) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (real::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
    *family = address.ss_family;
    return endpoint_of(reinterpret_cast<sockaddr*>(&address), length, endpoint);
}

constexpr int64_t kCheckMs = 5000;

int64_t now_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

void close_all(const session::ReplyFds& fds) {
    for (int fd : fds.fd)
        if (fd >= 0) raw(SYS_close, fd);
}

void trace_failure(int fd, const char* what, const Error& error) {
    if (!tracing()) return;
    trace(1, 0, fd, "%s: %s, reason %u: %s", what, errno_name(error.errnum),
          static_cast<unsigned>(error.reason), reason_sentence(error.reason));
}

// Whatever goes wrong here stays here: the TCP listener works on.
bool register_beside(int fd, const Rule& rule, Patience patience = {}) {
    session::Request request;
    request.type = session::RequestType::listen_beside;
    request.fabric = rule.fabric;
    request.rdma_port = rule.rdma_port;
    const int v6_only = socket_value(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    request.v6_only = v6_only != 0;
    session::ReplyFds fds;
    auto reply = ask(request, fd, &fds, patience);
    bool registered = false;
    session::KnockTable* knocks = nullptr;
    if (!reply) {
        trace_failure(fd, "the listener stays on TCP alone", reply.error());
    } else if (fds.fd[0] < 0 || !session::map_knock_table(fds.fd[0], &knocks)) {
        trace_failure(fd, "the listener stays on TCP alone", {Reason::engine_version, EPROTO});
    } else if (Attachment* made = make_attachment(Kind::beside, 6)) {
        made->knocks = knocks;
        made->listener_id = reply->listener_id;
        made->owner = process_id();
        made->check_at = now_ms() + kCheckMs;
        registered = fd_table.put(fd, made);
        if (tracing())
            trace(0, 0, fd, "SMBDIRECT is also accepted, RDMA port %u, by rule of line %u", reply->rdma_port,
                  rule.line);
    }
    close_all(fds);
    if (!FdTable::is_attachment(fd_table.peek(fd))) fd_table.set(fd, tcp_settled);
    return registered;
}

// An RDMA port on iWARP is a TCP port: where it is the very one that the program's socket is bound to, the
// socket must let go of it before the engine can have it.
bool let_go_of_port(int fd, int family) {
    const int fresh = real::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fresh < 0) return false;
    if (put_under(fd, fresh)) return true;
    raw(SYS_close, fresh);
    return false;
}

void take_port_again(int fd, const sockaddr_storage& address, socklen_t length, uint32_t v6_only) {
    const int on = 1;
    if (v6_only && address.ss_family == AF_INET6)
        real::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    real::bind(fd, reinterpret_cast<const sockaddr*>(&address), length);
}

// The number becomes the AF_UNIX listener of a listener that is SMBDIRECT only.
int listen_only(int fd, int backlog, uint32_t face, const Rule* rule, const session::SocketOptions* options) {
    session::Request request;
    request.type = session::RequestType::listen_only;
    request.face = face;
    request.backlog = static_cast<uint16_t>(backlog < 1 ? 1 : backlog > 65535 ? 65535 : backlog);
    socklen_t length = sizeof request.local;
    if (real::getsockname(fd, reinterpret_cast<sockaddr*>(&request.local), &length) != 0) return -1;
    request.v6_only = face != 6 || socket_value(fd, IPPROTO_IPV6, IPV6_V6ONLY) != 0;
    if (rule) {
        request.fabric = rule->fabric;
        request.rdma_port = rule->rdma_port;
    }
    session::SocketOptions kept{};
    if (options)
        copy_options(*options, &kept);
    else
        capture_options(fd, &kept);
    Endpoint local;
    endpoint_of(reinterpret_cast<sockaddr*>(&request.local), length, &local);
    const bool same_port = local.port && (face != 6 || request.rdma_port == local.port);
    if (same_port && !let_go_of_port(fd, request.local.ss_family)) return -1;
    session::ReplyFds fds;
    auto reply = ask(request, -1, &fds);
    if (!reply || fds.fd[0] < 0) {
        if (same_port) take_port_again(fd, request.local, length, request.v6_only);
        const Error error = reply ? Error{Reason::engine_refused, EADDRNOTAVAIL} : reply.error();
        trace_failure(fd, "listen", error);
        close_all(fds);
        const bool sayable = error.errnum == EADDRINUSE || error.errnum == EACCES ||
                             error.errnum == EADDRNOTAVAIL || error.errnum == EINVAL;
        return fail_with(sayable ? error.errnum : EADDRNOTAVAIL);
    }
    Held listener(make_attachment(Kind::only_listener, face));
    if (!listener) {
        close_all(fds);
        return fail_with(ENOMEM);
    }
    listener->listener_id = reply->listener_id;
    listener->local = reply->local.ss_family ? reply->local : request.local;
    listener->owner = process_id();
    copy_options(kept, &listener->options);
    if (!put_under(fd, fds.fd[0])) {
        const int error = errno;
        close_all(fds);
        return fail_with(error);
    }
    if (tracing()) trace(0, 0, fd, "listens for SMBDIRECT only, RDMA port %u", reply->rdma_port);
    return fd_table.put(fd, listener.release()) ? 0 : fail_with(ENOMEM);
}

}  // namespace

int listen_tcp(int fd, int backlog) {
    const int saved = errno;
    Endpoint local;
    int family = 0;
    const bool ip = local_endpoint(fd, &local, &family);
    errno = saved;
    const Rule* rule = ip ? rule_for_listen(local) : nullptr;
    if (rule && !is_tcp_stream(fd)) rule = nullptr;
    if (rule && rule->verdict == Verdict::only) return listen_only(fd, backlog, 6, rule, nullptr);
    const int result = real::listen(fd, backlog);
    if (result != 0 || !ip) return result;
    if (local.port == 0 && local_endpoint(fd, &local, &family)) {
        rule = rule_for_listen(local);  // the kernel has just chosen the port
        if (rule && (rule->verdict != Verdict::also || !is_tcp_stream(fd))) rule = nullptr;
    }
    if (rule)
        register_beside(fd, *rule);
    else if (fd_table.peek(fd) != foreign)
        fd_table.set(fd, tcp_settled);
    errno = saved;
    return result;
}

int listen_ours(Attachment& attachment, int fd, int backlog) {
    switch (attachment.kind) {
        case Kind::connection:
            return fail_with(EINVAL);
        case Kind::beside:
            return real::listen(fd, backlog);
        case Kind::only_listener:
            return attachment.explicit_face() ? fail_with(EINVAL) : real::listen(fd, backlog);
        case Kind::idle:
            break;
    }
    if (backlog < 0) return fail_with(EINVAL);
    return listen_only(fd, backlog, attachment.face, nullptr, &attachment.options);
}

Held examine_listener(int fd) {
    const int saved = errno;
    Endpoint local;
    int family = 0;
    const Rule* rule = nullptr;
    if (socket_value(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1 && local_endpoint(fd, &local, &family) &&
        is_tcp_stream(fd))
        rule = rule_for_listen(local);
    // `only` comes too late for a socket that may have TCP connections in its queue: both kinds are accepted.
    if (rule)
        register_beside(fd, *rule);
    else
        fd_table.set(fd, tcp_settled);
    errno = saved;
    return Held(fd_table.acquire(fd));
}

// The program is in accept(), perhaps on a non-blocking listener, and has its TCP connection already: so this
// does not wait long, and ever more rarely. An engine that died is soon back by its monitor; only where that
// one is gone as well is another one started. What is not ready in time is found by a later call.
void look_after_listener(Attachment& listener, int fd) {
    const int64_t now = now_ms();
    int64_t due = listener.check_at.load(std::memory_order_relaxed);
    if (now < due || !listener.check_at.compare_exchange_strong(due, now + kCheckMs)) return;
    const int saved = errno;
    const uint32_t failures = listener.failed_checks.load(std::memory_order_relaxed);
    const Patience patience = failures == 0 ? Patience{100, false} : Patience{300, true};
    Endpoint local;
    int family = 0;
    const Rule* rule = local_endpoint(fd, &local, &family) ? rule_for_listen(local) : nullptr;
    // Known by its cookie: the same table comes back if it is still there.
    if (rule && !register_beside(fd, *rule, patience)) {
        constexpr int64_t kFirstPauseMs = 1000, kLongestPauseMs = 60'000;
        const int64_t pause = kFirstPauseMs << std::min(failures, 6u);
        listener.failed_checks.store(failures + 1, std::memory_order_relaxed);
        listener.check_at.store(now_ms() + std::min(pause, kLongestPauseMs), std::memory_order_relaxed);
    }
    errno = saved;
}

// Children inherit listeners and close them, which is no news: the engine also looks by itself from time to
// time.
void forget_listener(const Attachment& attachment) {
    if (attachment.owner != process_id()) return;
    const int saved = errno;
    session::Request request;
    request.type = session::RequestType::forget_listener;
    request.listener_id = attachment.listener_id;
    session::ReplyFds fds;
    (void)ask(request, -1, &fds);
    close_all(fds);
    errno = saved;
}

}  // namespace smbdirect::preload
