#include "recognise.hpp"

#include <sys/un.h>

#include <cerrno>

#include "process.hpp"
#include "real.hpp"
#include "session/names.hpp"
#include "session/raw_calls.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

// The name that a stranger could bind as well: the pair must have been made by the engine, that is by root or
// by us.
bool made_by_the_engine(int fd) {
    ucred creator{};
    socklen_t length = sizeof creator;
    if (real::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creator, &length) != 0) return false;
    return creator.uid == 0 || creator.uid == settings().uid ||
           creator.uid == static_cast<uid_t>(raw(SYS_getuid));
}

bool own_name(int fd, sockaddr_un* name, socklen_t* length) {
    *length = sizeof *name;
    return real::getsockname(fd, reinterpret_cast<sockaddr*>(name), length) == 0;
}

// A of a connection that we made, or that came from a listener beside TCP, is named; A that an AF_UNIX
// listener gave bears the listener's name, and its other end is named.
enum class Unix { foreign, connection, listener };
Unix kind_of_unix_socket(int fd, uint64_t* listener_id) {
    sockaddr_un name{};
    socklen_t length;
    uint64_t engine, connection;
    char end = 0;
    if (!own_name(fd, &name, &length)) return Unix::foreign;
    if (session::parse_mirror_name(name, length, &engine, &connection, &end))
        return end == 'a' && made_by_the_engine(fd) ? Unix::connection : Unix::foreign;
    if (!session::parse_listener_name(name, length, &engine, listener_id)) return Unix::foreign;
    if (socket_value(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1) return Unix::listener;
    return made_by_the_engine(fd) ? Unix::connection : Unix::foreign;
}

// Whether the number is A of this connection. (What stands for a connection of an engine that is gone has no
// id.)
bool belongs_to(int fd, const Attachment& attachment) {
    sockaddr_un name{};
    socklen_t length;
    uint64_t connection = 0;
    if (attachment.id() == 0) return true;
    if (own_name(fd, &name, &length) &&
        session::parse_mirror_name(name, length, nullptr, &connection, nullptr))
        return connection == attachment.id();
    length = sizeof name;
    return real::getpeername(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0 &&
           session::parse_mirror_name(name, length, nullptr, &connection, nullptr) &&
           connection == attachment.id();
}

Attachment* attach_listener(int fd, uint64_t listener_id) {
    Attachment* listener = make_attachment(Kind::only_listener, 6);
    if (!listener) return nullptr;
    listener->listener_id = listener_id;
    session::Request request;
    request.type = session::RequestType::attach;
    request.listener_id = listener_id;
    session::ReplyFds fds;
    auto reply = ask(request, fd, &fds);
    for (int passed : fds.fd)
        if (passed >= 0) raw(SYS_close, passed);
    if (reply) {
        if (reply->listener_id) listener->listener_id = reply->listener_id;
        listener->local = reply->local;
        listener->face = reply->face;
    }
    if (listener->local.ss_family == 0) listener->local.ss_family = AF_INET;
    if (tracing() && reply)
        trace(0, 0, fd, "listener taken over, RDMA port %u", reply->rdma_port);
    else if (tracing())
        trace(1, 0, fd, "listener taken over, which the engine does not know, reason %u: %s",
              static_cast<unsigned>(reply.error().reason), reason_sentence(reply.error().reason));
    return listener;
}

// Another thread may have closed the number since it was looked at, and made something else of it.
Held enter(int fd, Attachment* attachment) {
    if (!attachment) return Held();
    fd_table.replace(fd, unknown, reinterpret_cast<uintptr_t>(attachment));
    forget_if_stale(fd);
    return Held(fd_table.acquire(fd));
}

Held enter(int fd, Word word) {
    fd_table.replace(fd, unknown, word);
    return Held();
}

Held recognise_connection(int fd) {
    if (Attachment* attachment = attach(fd)) return enter(fd, attachment);
    const int error = errno;
    const int mask = session::raw::poll_one(fd, 0, 0) & (POLLHUP | POLLERR);
    // Its engine lives, but there are no descriptors left, for example, or it stands still: this call fails
    // of that, and the next one looks again.
    if (mask == 0) return Held(make_orphan(error ? error : EIO));
    // HUP alone is how the engine leaves A when both ends had ended and everything was read.
    return enter(fd, make_orphan(mask == POLLHUP ? 0 : ECONNRESET));
}

Held recognise_unix(int fd) {
    uint64_t listener_id = 0;
    switch (kind_of_unix_socket(fd, &listener_id)) {
        case Unix::connection:
            return recognise_connection(fd);
        case Unix::listener:
            return enter(fd, attach_listener(fd, listener_id));
        case Unix::foreign:
            break;
    }
    return enter(fd, foreign);
}

}  // namespace

void forget_if_stale(int fd) {
    const uintptr_t word = fd_table.peek(fd);
    if (!FdTable::is_attachment(word)) return;
    const int saved = errno;
    int domain = 0;
    socklen_t length = sizeof domain;
    const Held entered(fd_table.acquire(fd));
    const bool is_mirror =
        entered && (entered->kind == Kind::connection || entered->kind == Kind::only_listener);
    if (is_mirror && (real::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 ||
                      domain != AF_UNIX || (entered->kind == Kind::connection && !belongs_to(fd, *entered))))
        fd_table.replace(fd, word, unknown);
    errno = saved;
}

int socket_value(int fd, int level, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    return real::getsockopt(fd, level, option, &value, &length) == 0 ? value : -1;
}

Attachment* attachment_from(int memfd) {
    session::ConnectionView view;
    if (!session::map_connection_memory(memfd, &view)) return nullptr;
    Attachment* attachment = make_attachment(Kind::connection, view.memory->face);
    if (!attachment) {
        session::unmap_connection_memory(&view);
        errno = ENOMEM;
        return nullptr;
    }
    attachment->view = view;
    return attachment;
}

Attachment* attach(int a) {
    session::Request request;
    request.type = session::RequestType::attach;
    session::ReplyFds fds;
    auto reply = ask(request, a, &fds);
    Attachment* attachment = nullptr;
    int error = reply ? ECONNRESET : reply.error().errnum;
    for (int fd : fds.fd) {
        if (fd < 0) continue;
        if (!attachment && !(attachment = attachment_from(fd))) error = errno;
        raw(SYS_close, fd);
    }
    if (attachment) {
        if (tracing())
            trace(0, attachment->id(), a, "attached to a connection of fabric %.16s",
                  attachment->memory().fabric);
    } else if (tracing()) {
        const Reason reason = reply ? Reason::engine_lost : reply.error().reason;
        trace(1, 0, a, "cannot attach to the connection, reason %u: %s", static_cast<unsigned>(reason),
              reason_sentence(reason));
    }
    errno = error;
    return attachment;
}

Held recognise(int fd) {
    const int saved = errno;
    Held found;
    int domain = 0;
    socklen_t length = sizeof domain;
    if (real::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) {
        // Not open: nothing to remember, since the number may be anything next.
        if (errno != EBADF) enter(fd, foreign);
    } else if (domain == AF_UNIX) {
        found = recognise_unix(fd);
    } else {
        enter(fd, domain == AF_INET || domain == AF_INET6 ? tcp_watched : foreign);
    }
    errno = saved;
    return found;
}

}  // namespace smbdirect::preload
