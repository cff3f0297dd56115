#include "accept.hpp"

#include <netinet/in.h>

#include <cerrno>

#include "connect.hpp"
#include "endpoint.hpp"
#include "fail.hpp"
#include "listen.hpp"
#include "options.hpp"
#include "process.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/names.hpp"
#include "session/readiness.hpp"
#include "swap.hpp"
#include "trace.hpp"
#include "user_memory.hpp"
#include "wait.hpp"

namespace smbdirect::preload {
namespace {

using session::KnockEntry;
using session::KnockState;

// The knock whose source this peer is, claimed; null for a TCP client. Memory only: no system call.
KnockEntry* claim_entry(session::KnockTable* table, const sockaddr_storage& peer, socklen_t length) {
    if (table->knocking.load(std::memory_order_acquire) == 0) return nullptr;
    Endpoint source;
    if (!endpoint_of(reinterpret_cast<const sockaddr*>(&peer), length, &source)) return nullptr;
    for (KnockEntry& entry : table->entry) {
        if (entry.state.load(std::memory_order_acquire) != KnockState::knocking) continue;
        if (entry.family != source.family || ntohs(entry.port) != source.port) continue;
        if (std::memcmp(entry.address, source.address, source.bits() / 8) != 0) continue;
        KnockState expected = KnockState::knocking;
        if (entry.state.compare_exchange_strong(expected, KnockState::claimed, std::memory_order_acq_rel))
            return &entry;
    }
    return nullptr;
}

// A knock that the engine has taken back, since the connection is gone that it spoke of: it was reset, and
// all that it ever sent is one byte. IPv6 has no address of its own for knocks.
bool is_stale_knock(int accepted, const sockaddr_storage& peer, socklen_t length) {
    Endpoint source;
    if (!endpoint_of(reinterpret_cast<const sockaddr*>(&peer), length, &source)) return false;
    const uint32_t knocks_from = htonl(session::kKnockSource);
    if (source.family == AF_INET) return std::memcmp(source.address, &knocks_from, sizeof knocks_from) == 0;
    if (std::memcmp(source.address, &in6addr_loopback, sizeof in6addr_loopback) != 0) return false;
    char byte[2] = {};
    return is_fresh_tcp(accepted) && real::recv(accepted, byte, 2, MSG_PEEK | MSG_DONTWAIT) == 1 && !byte[0];
}

// Swaps the knock's accepted end for A of the connection that knocked. Null: it died meanwhile.
Attachment* take_in(int accepted, Attachment& listener, uint64_t ticket) {
    session::Request request;
    request.type = session::RequestType::claim;
    request.listener_id = listener.knocks->listener_id;
    request.ticket = ticket;
    session::ReplyFds fds;
    auto reply = ask(request, -1, &fds);
    Held made(reply && fds.fd[0] >= 0 && fds.fd[1] >= 0 ? attachment_from(fds.fd[1]) : nullptr);
    if (made) {
        // What an accepted socket inherits from its listener stands on the knock's end.
        capture_options(accepted, &made->memory().options);
        apply_to_mirror(made->memory().options, fds.fd[0]);
        fd_table.set(accepted, tcp);  // in no epoll set: nobody else has seen this number yet
        if (put_under(accepted, fds.fd[0]))
            fds.fd[0] = -1;
        else
            made = Held();
    }
    for (int fd : fds.fd)
        if (fd >= 0) raw(SYS_close, fd);
    if (!made && tracing()) {
        const Reason reason = reply ? Reason::engine_refused : reply.error().reason;
        trace(1, 0, accepted, "an SMBDIRECT arrival is gone before accept(), reason %u: %s",
              static_cast<unsigned>(reason), reason_sentence(reason));
    }
    return made.release();
}

// accept() of the real listener, into our own buffer.
int accept_real(int fd, int flags, sockaddr_storage* peer, socklen_t* length) {
    *length = sizeof *peer;
    if (flags == 0) return real::accept(fd, reinterpret_cast<sockaddr*>(peer), length);
    return real::accept4(fd, reinterpret_cast<sockaddr*>(peer), length, flags);
}

int give(int accepted, Attachment* attachment, sockaddr* address, socklen_t* length) {
    const Held kept = share(*attachment);
    if (!fd_table.put(accepted, attachment)) {
        raw(SYS_close, accepted);
        return fail_with(ENOMEM);
    }
    kept->told = true;
    if (tracing()) trace(0, kept->id(), accepted, "accepted, fabric %.16s", kept->memory().fabric);
    if (!address) return accepted;
    sockaddr_storage peer;
    const socklen_t size = address_of(*kept, true, &peer);
    if (show_address(peer, size, address, length) == 0) return accepted;
    const int error = errno;
    fd_table.set(accepted, unknown);
    raw(SYS_close, accepted);
    return fail_with(error);
}

// A knock that stands in no table that this thread knows: perhaps engine and monitor are other ones by now,
// and another process has brought them the listener. Asks for the table that they write to.
Held listener_of_now(Attachment& listener, int fd) {
    listener.check_at = 0;
    look_after_listener(listener, fd);
    Held now(fd_table.acquire(fd));
    return now && now->kind == Kind::beside ? std::move(now) : Held();
}

int accept_beside(Attachment& listener_then, int fd, sockaddr* address, socklen_t* length, int flags) {
    Held listener = share(listener_then);
    for (;;) {
        sockaddr_storage peer{};
        socklen_t size;
        const int accepted = accept_real(fd, flags, &peer, &size);
        if (accepted < 0) return accepted;
        KnockEntry* entry = claim_entry(listener->knocks, peer, size);
        if (!entry && is_stale_knock(accepted, peer, size)) {
            if (Held now = listener_of_now(*listener, fd)) listener = std::move(now);
            entry = claim_entry(listener->knocks, peer, size);
            if (!entry) {
                raw(SYS_close, accepted);
                continue;
            }
        }
        if (!entry) {
            fd_table.set(accepted, tcp_settled);
            look_after_listener(*listener, fd);
            if (!address || show_address(peer, size, address, length) == 0) return accepted;
            const int error = errno;
            raw(SYS_close, accepted);
            return fail_with(error);
        }
        if (Attachment* made = take_in(accepted, *listener, entry->ticket))
            return give(accepted, made, address, length);
        fd_table.set(accepted, unknown);
        raw(SYS_close, accepted);
    }
}

int accept_only(Attachment& listener, int fd, sockaddr* address, socklen_t* length, int flags) {
    for (;;) {
        const int accepted =
            flags ? real::accept4(fd, nullptr, nullptr, flags) : real::accept(fd, nullptr, nullptr);
        if (accepted < 0) return accepted;
        fd_table.set(accepted, unknown);
        // Nobody else knows this descriptor yet, so the mirror can still be made ready.
        Attachment* made = session::adopt_accepted_end(accepted) ? attach(accepted) : nullptr;
        if (made) {
            copy_options(listener.options, &made->memory().options);
            apply_to_mirror(listener.options, accepted);
            return give(accepted, made, address, length);
        }
        raw(SYS_close, accepted);
    }
}

}  // namespace

int show_address(const sockaddr_storage& from, socklen_t size, sockaddr* address, socklen_t* length) {
    if (!can_write(length, sizeof *length)) return fail_with(EFAULT);
    if (static_cast<int>(*length) < 0) return fail_with(EINVAL);
    if (!can_write(address, *length < size ? *length : size)) return fail_with(EFAULT);
    std::memcpy(address, &from, *length < size ? *length : size);
    *length = size;
    return 0;
}

socklen_t address_of(Attachment& attachment, bool peer, sockaddr_storage* out) {
    const bool stood = attachment.kind == Kind::connection &&
                       attachment.memory().state.load() != session::ConnectionState::failed;
    const sockaddr_storage& kept = attachment.kind == Kind::connection && peer ? attachment.memory().peer
                                   : stood                                     ? attachment.memory().local
                                                                               : attachment.local;
    Endpoint endpoint;
    const int domain = domain_of(attachment);
    if (!endpoint_of(reinterpret_cast<const sockaddr*>(&kept), sizeof kept, &endpoint)) {
        endpoint = {};
        endpoint.family = static_cast<sa_family_t>(domain == AF_INET6 ? AF_INET6 : AF_INET);
    }
    return to_sockaddr(endpoint, domain, out);
}

int accept_ours(Attachment& listener, int fd, sockaddr* address, socklen_t* length, int flags) {
    switch (listener.kind) {
        case Kind::beside:
            return accept_beside(listener, fd, address, length, flags);
        case Kind::only_listener:
            return accept_only(listener, fd, address, length, flags);
        case Kind::connection:
        case Kind::idle:
            break;
    }
    return fail_with(EINVAL);
}

}  // namespace smbdirect::preload
