#include "connect.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <cerrno>
#include <cstdio>

#include "complain.hpp"
#include "fail.hpp"
#include "options.hpp"
#include "policy.hpp"
#include "process.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/readiness.hpp"
#include "swap.hpp"
#include "trace.hpp"
#include "user_memory.hpp"
#include "wait.hpp"

namespace smbdirect::preload {
namespace {

using session::ConnectionState;

// A new connection: A, and an attachment to its memory.
struct Attempt {
    int a = -1;
    Held attachment;
    Error error;
};

struct Wish {
    Endpoint remote;
    int domain = AF_INET;
    uint32_t face = 6;
    const Rule* rule = nullptr;  // of a converted socket

    bool prefer() const { return rule && rule->verdict == Verdict::prefer; }
};

// The bound address, without its port: that one belongs to the TCP socket, which still holds it.
void find_local(int fd, sockaddr_storage* local) {
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    Endpoint endpoint;
    if (real::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) return;
    if (!endpoint_of(reinterpret_cast<sockaddr*>(&bound), length, &endpoint)) return;
    constexpr uint8_t any[16] = {};
    if (std::memcmp(endpoint.address, any, endpoint.bits() / 8) == 0) return;
    endpoint.port = 0;
    to_sockaddr(endpoint, endpoint.family, local);
}

// As Linux understands an address of zeros: this host.
void any_is_loopback(Endpoint* remote) {
    constexpr uint8_t any[16] = {}, v4_loopback[4] = {127, 0, 0, 1};
    if (std::memcmp(remote->address, any, remote->bits() / 8) != 0) return;
    if (remote->family == AF_INET)
        std::memcpy(remote->address, v4_loopback, sizeof v4_loopback);
    else
        remote->address[15] = 1;
}

Attempt begin(int fd, const Wish& wish) {
    session::Request request;
    request.type = session::RequestType::connect;
    request.face = wish.face;
    to_sockaddr(wish.remote, wish.remote.family, &request.remote);
    if (wish.rule) {
        request.fabric = wish.rule->fabric;
        request.rdma_port = wish.rule->rdma_port;
        request.timeout_ms = wish.rule->timeout_ms ? wish.rule->timeout_ms
                             : wish.prefer()       ? kPreferTimeoutMs
                                                   : 0;
    } else {
        request.rdma_port = wish.remote.port;  // an explicit socket is taken at its word
    }
    find_local(fd, &request.local);
    Attempt attempt;
    session::ReplyFds fds;
    auto reply = ask(request, -1, &fds);
    if (!reply) {
        attempt.error = reply.error();
    } else if (fds.fd[0] < 0 || fds.fd[1] < 0) {
        attempt.error = {Reason::engine_refused, ECONNREFUSED};
    } else if (Attachment* made = attachment_from(fds.fd[1])) {
        made->local = request.local;
        attempt.attachment = Held(made);
        attempt.a = std::exchange(fds.fd[0], -1);
    } else {
        attempt.error = {Reason::engine_version, ECONNREFUSED};
    }
    for (int one : fds.fd)
        if (one >= 0) raw(SYS_close, one);
    return attempt;
}

// What connect() may answer. Troubles of ours must not look like the program's own mistakes.
int errno_for_connect(int error, Reason reason) {
    switch (error) {
        case EACCES:
        case EPERM:
            return reason == Reason::connect_unreachable ? error : ECONNREFUSED;
        case ECONNREFUSED:
        case ECONNRESET:
        case ECONNABORTED:
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case ENETDOWN:
        case EADDRNOTAVAIL:
        case EADDRINUSE:
        case EMSGSIZE:
        case ENOBUFS:
        case ENOMEM:
            return error;
        default:
            return ECONNREFUSED;
    }
}

void trace_outcome(const Wish& wish, int fd, uint64_t id, const char* what, Reason reason, int error) {
    if (!tracing()) return;
    char to[64];
    describe(wish.remote, to);
    if (reason == Reason::none) {
        trace(0, id, fd, "connect to %s: %s", to, what);
    } else {
        trace(1, id, fd, "connect to %s: %s: %s, reason %u: %s", to, what, errno_name(error),
              static_cast<unsigned>(reason), reason_sentence(reason));
    }
}

Reason reason_of(const Attachment& attachment) {
    return static_cast<Reason>(attachment.memory().reason.load());
}

// Waits for the outcome on a descriptor of ours. 0: the connection stands. EINPROGRESS: SO_SNDTIMEO has
// passed.
int wait_connected(Attachment& attachment, int fd, const Deadline& deadline) {
    for (;;) {
        const ConnectionState state = session::stream_state(attachment.view, fd);
        if (state == ConnectionState::established || state == ConnectionState::ended) return 0;
        if (state == ConnectionState::failed) {
            const int error = session::take_error(attachment.view, fd);
            return errno_for_connect(error ? error : ECONNABORTED, reason_of(attachment));
        }
        const int error = wait_writable(attachment, fd, deadline);
        if (error == EAGAIN) return EINPROGRESS;
        if (error) return error;
    }
}

// The program had bound it, before connect() failed.
void bind_again(Attachment& attachment, int fresh) {
    Endpoint bound;
    sockaddr_storage local;
    if (!endpoint_of(reinterpret_cast<sockaddr*>(&attachment.local), sizeof attachment.local, &bound)) return;
    const socklen_t length = to_sockaddr(bound, domain_of(attachment), &local);
    real::bind(fresh, reinterpret_cast<sockaddr*>(&local), length);
}

// The number becomes an ordinary TCP socket again: for connect() to somewhere else after a failure, and
// AF_UNSPEC.
bool revert_to_tcp(Attachment& attachment, int fd) {
    const int fresh = real::socket(domain_of(attachment), SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fresh < 0) return false;
    apply_options(attachment.memory().options, fresh);
    attachment.memory().abort.fetch_or(session::abort_by_connect);
    if (attachment.memory().state.load() == ConnectionState::failed) bind_again(attachment, fresh);
    if (!put_under(fd, fresh)) {
        raw(SYS_close, fresh);
        return false;
    }
    fd_table.set(fd, tcp_watched);
    if (tracing()) trace(0, attachment.id(), fd, "is a TCP socket again");
    return true;
}

// The result of connect() on a number that is A by now. A failure that connect() itself has told leaves a
// fresh socket behind, as with TCP.
int finish(Attachment& attachment, int fd, const Wish& wish) {
    auto& memory = attachment.memory();
    const int error = wait_connected(attachment, fd, Deadline(memory.options.send_timeout_us));
    if (error == 0) {
        attachment.told = true;
        trace_outcome(wish, fd, attachment.id(), "established", Reason::none, 0);
        return 0;
    }
    if (memory.state.load() == ConnectionState::failed) {
        attachment.told = true;
        trace_outcome(wish, fd, attachment.id(), "failed", reason_of(attachment), error);
        complain_once(attachment, error);
        if (!attachment.explicit_face()) revert_to_tcp(attachment, fd);
    }
    return fail_with(error);
}

// Puts A under the number, then tells the table. A call of another thread in between finds a number that is
// known as a TCP socket and reaches A bare; a program that uses a socket while it connects it must live with
// either order.
int put_in_place(Attempt& attempt, int fd, const Wish& wish) {
    apply_to_mirror(attempt.attachment->memory().options, attempt.a);
    attempt.attachment->complaint_due = wish.rule != nullptr;
    if (!put_under(fd, attempt.a)) {
        const int error = errno;
        raw(SYS_close, attempt.a);
        return fail_with(error);
    }
    const Held kept = share(*attempt.attachment);
    if (!fd_table.put(fd, attempt.attachment.release())) return fail_with(ENOMEM);
    // However quick the outcome was: as with TCP, it is learned by asking.
    return is_nonblocking(fd, 0) ? fail_with(EINPROGRESS) : finish(*kept, fd, wish);
}

// `prefer`: connect() waits for the outcome, whatever O_NONBLOCK says, since a socket cannot change its kind
// later.
bool stands_in_time(Attempt& attempt, const Wish& wish) {
    const uint32_t limit = wish.rule->timeout_ms ? wish.rule->timeout_ms : kPreferTimeoutMs;
    const Deadline deadline(limit * 1000LL);
    const auto state = [&] { return session::stream_state(attempt.attachment->view, attempt.a); };
    pollfd poll_fd{attempt.a, POLLOUT, 0};
    while (state() == ConnectionState::connecting) {
        const int left = deadline.left_ms();
        if (left == 0) break;
        ::poll(&poll_fd, 1, left);
    }
    return state() == ConnectionState::established;
}

int connect_anew(int fd, const Wish& wish, const sockaddr* address, socklen_t length,
                 const session::SocketOptions* options) {
    Attempt attempt = begin(fd, wish);
    Error error = attempt.error;
    if (attempt.a >= 0) {
        auto& memory = attempt.attachment->memory();
        if (options)
            copy_options(*options, &memory.options);
        else
            capture_options(fd, &memory.options);
        if (wish.rule && tracing())
            trace(0, attempt.attachment->id(), fd, "connect converted by rule of line %u, fabric %.16s",
                  wish.rule->line, memory.fabric);
        if (!wish.prefer() || stands_in_time(attempt, wish)) return put_in_place(attempt, fd, wish);
        error = {reason_of(*attempt.attachment), memory.error.load()};
        if (memory.state.load() == ConnectionState::connecting) error = {Reason::connect_timeout, ETIMEDOUT};
        memory.abort.fetch_or(session::abort_by_connect);
        raw(SYS_close, attempt.a);
    }
    if (wish.prefer()) {
        trace_outcome(wish, fd, 0, "not over SMBDIRECT", error.reason, error.errnum);
        trace_outcome(wish, fd, 0, "fell back", Reason::fallback_to_tcp, error.errnum);
        return real::connect(fd, address, length);
    }
    const int shown = errno_for_connect(error.errnum, error.reason);
    trace_outcome(wish, fd, 0, "failed", error.reason, shown);
    if (wish.rule) complain(wish.remote, error.reason, shown);
    return fail_with(shown);
}

// ---- on a number that is A already

int connect_again(Attachment& attachment, int fd, const sockaddr* address, socklen_t length) {
    auto& memory = attachment.memory();
    const bool told = attachment.told.load() || memory.accepted;
    switch (session::stream_state(attachment.view, fd)) {
        case ConnectionState::connecting:
            if (is_nonblocking(fd, 0)) return fail_with(EALREADY);
            break;
        case ConnectionState::established:
        case ConnectionState::ended:
            if (told) return fail_with(EISCONN);
            break;  // as TCP: 0, once
        case ConnectionState::failed:
            if (attachment.explicit_face()) return fail_with(EINVAL);
            break;  // what was not asked for yet, else ECONNABORTED; the next call tries anew
    }
    Wish wish;
    endpoint_of(address, length, &wish.remote);
    const int result = finish(attachment, fd, wish);
    return result != 0 && errno == EINPROGRESS ? fail_with(EALREADY) : result;
}

int connect_explicit(Attachment& idle, int fd, const sockaddr* address, socklen_t length) {
    Wish wish;
    if (!address || length < sizeof(sa_family_t)) return fail_with(EINVAL);
    wish.domain = domain_of(idle);
    if (address->sa_family != wish.domain) return fail_with(EAFNOSUPPORT);
    if (!endpoint_of(address, length, &wish.remote)) return fail_with(EINVAL);
    wish.face = idle.face;
    return connect_anew(fd, wish, address, length, &idle.options);
}

}  // namespace

bool is_fresh_tcp(int fd) {
    const int saved = errno;
    bool fresh = false;
    tcp_info info{};
    socklen_t length = sizeof info.tcpi_state;
    if (socket_value(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
        socket_value(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP &&
        real::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0)
        fresh = info.tcpi_state == TCP_CLOSE;
    errno = saved;
    return fresh;
}

bool convert_at_connect(int fd, const sockaddr* address, socklen_t length, int* result) {
    Wish wish;
    if (length > sizeof(sockaddr_storage) || !can_read(address, length)) return false;
    if (!endpoint_of(address, length, &wish.remote)) return false;
    any_is_loopback(&wish.remote);
    if (netbios_is_refused(wish.remote) && is_fresh_tcp(fd)) {
        trace_outcome(wish, fd, 0, "refused", Reason::netbios_port_refused, ECONNREFUSED);
        *result = fail_with(ECONNREFUSED);
        return true;
    }
    wish.rule = rule_for_connect(wish.remote);
    if (!wish.rule || !is_fresh_tcp(fd)) return false;
    wish.domain = socket_value(fd, SOL_SOCKET, SO_DOMAIN);
    // The kernel's own answer to a family that is not the socket's, and to a v6-only socket that shall reach
    // IPv4.
    if (address->sa_family != wish.domain) return false;
    if (wish.domain == AF_INET6 && wish.remote.family == AF_INET &&
        socket_value(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1)
        return false;
    *result = connect_anew(fd, wish, address, length, nullptr);
    return true;
}

int connect_ours(Attachment& attachment, int fd, const sockaddr* address, socklen_t length) {
    switch (attachment.kind) {
        case Kind::beside:
            return real::connect(fd, address, length);
        case Kind::only_listener:
            return fail_with(attachment.explicit_face() ? EINVAL : EISCONN);
        case Kind::idle:
            return connect_explicit(attachment, fd, address, length);
        case Kind::connection:
            break;
    }
    if (length > sizeof(sockaddr_storage)) return fail_with(EINVAL);
    if (!can_read(address, length)) return fail_with(EFAULT);
    if (length < sizeof(sa_family_t)) return fail_with(EINVAL);
    if (address->sa_family == AF_UNSPEC && !attachment.explicit_face()) return disconnect(attachment, fd);
    return connect_again(attachment, fd, address, length);
}

int disconnect(Attachment& attachment, int fd) { return revert_to_tcp(attachment, fd) ? 0 : -1; }

bool fast_open_is_refused(const sockaddr* address, socklen_t length) {
    Endpoint remote;
    if (!can_read(address, length) || !endpoint_of(address, length, &remote)) return false;
    return rule_for_connect(remote) || netbios_is_refused(remote);
}

}  // namespace smbdirect::preload
