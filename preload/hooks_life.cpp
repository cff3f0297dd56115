// Interposers of the calls that make, copy and close descriptors.
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <cerrno>

#include "hook.hpp"
#include "life.hpp"
#include "listen.hpp"
#include "options.hpp"
#include "process.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/memory.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

// An explicit SMBDIRECT socket is a TCP socket until it is connected or listens: bind, its checks and
// getsockname() are the kernel's. Where the kernel itself has such sockets to give, it gives one.
int make_explicit(int domain, int type, int protocol) {
    const int saved = errno;
    const int kernels_own = real::socket(domain, type, protocol);
    if (kernels_own >= 0) {
        fd_table.set(kernels_own, foreign);
        return kernels_own;
    }
    constexpr int kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    if ((domain != AF_INET && domain != AF_INET6) || (type & ~kFlags) != SOCK_STREAM) return -1;
    const int fd = real::socket(domain, type, 0);
    if (fd < 0) return fd;
    const int on = 1;
    if (domain == AF_INET6) real::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    Attachment* idle = make_attachment(Kind::idle, static_cast<uint32_t>(protocol));
    if (!idle || (capture_options(fd, &idle->options), !fd_table.put(fd, idle))) {
        raw(SYS_close, fd);
        return errno = ENOBUFS, -1;
    }
    errno = saved;
    if (tracing()) trace(0, 0, fd, "explicit SMBDIRECT socket, protocol %d", protocol);
    return fd;
}

HOOK(int, socket, int domain, int type, int protocol) {
    constexpr int kFirstOfSpecial = 256;  // protocols of the kernel's own numbering
    if (protocol >= kFirstOfSpecial && static_cast<uint32_t>(protocol) == settings().protocol)
        return make_explicit(domain, type, protocol);
    const int fd = real::socket(domain, type, protocol);
    if (fd < 0) return fd;
    const bool may_become_ours = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
                                 (protocol == 0 || protocol == IPPROTO_TCP);
    fd_table.set(fd, may_become_ours ? tcp : foreign);
    return fd;
}

// ---- copies

// The new number stands for the same thing. What is not ours is looked at again when it is used.
void copy_entry(int from, int to) {
    Held ours(fd_table.acquire(from));
    if (!ours && fd_table.peek(to) == unknown) return;
    const bool matters = ours || FdTable::is_lasting(fd_table.peek(to));
    if (matters && in_borrowed_memory()) return;
    if (ours)
        fd_table.put(to, ours.release());
    else
        fd_table.set(to, unknown);
}

HOOK(int, dup, int fd) {
    const int copy = real::dup(fd);
    if (copy >= 0) copy_entry(fd, copy);
    return copy;
}

int replaced(int from, int to, int result) {
    if (result >= 0 && from != to) copy_entry(from, to);
    return result;
}

HOOK(int, dup2, int from, int to) {
    before_replace(from, to);
    return replaced(from, to, real::dup2(from, to));
}
HOOK(int, __dup2, int from, int to) { return hook_dup2(from, to); }

HOOK(int, dup3, int from, int to, int flags) {
    before_replace(from, to);
    return replaced(from, to, real::dup3(from, to, flags));
}

int do_fcntl(int fd, int command, void* argument) {
    const int result = real::fcntl(fd, command, argument);
    if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) copy_entry(fd, result);
    return result;
}

// Variadic in C; as libc itself does, one argument is passed on whether there is one or not.
HOOK(int, fcntl, int fd, int command, void* argument) { return do_fcntl(fd, command, argument); }
HOOK(int, fcntl64, int fd, int command, void* argument) { return do_fcntl(fd, command, argument); }
HOOK(int, __fcntl, int fd, int command, void* argument) { return do_fcntl(fd, command, argument); }

// ---- close

HOOK(int, close, int fd) {
    Held listener, lingering;
    if (fd_table.peek(fd) != unknown) [[unlikely]] {
        lingering = lingers(fd);
        listener = forget(fd);
    }
    const int result = real::close(fd);
    if (fd_table.peek(fd) != unknown) [[unlikely]]
        forget_if_stale(fd);
    if (listener) forget_listener(*listener);
    if (lingering && result == 0) linger(*lingering);
    return result;
}
HOOK(int, __close, int fd) { return hook_close(fd); }

HOOK(int, close_range, unsigned first, unsigned last, int flags) {
    if (!(flags & CLOSE_RANGE_CLOEXEC)) forget_range(first, last);
    return real::close_range(first, last, flags);
}

HOOK(void, closefrom, int first) {
    forget_range(static_cast<unsigned>(first < 0 ? 0 : first), ~0u);
    real::closefrom(first);
}

// ---- epoll

bool may_be_swapped(uintptr_t word) { return word == tcp || word == tcp_watched || word == swapping; }

// What was added may have been the TCP socket that connect() in another thread has just replaced, or is about
// to replace: whether that one has replayed this registration or come too early to see it, there is one then.
int add_to_successor(int epoll_fd, int fd, epoll_event* event, uintptr_t before) {
    uintptr_t now = fd_table.peek(fd);
    constexpr int kPatience = 10'000;  // some system calls; for ever in a signal handler that came in between
    for (int i = 0; now == swapping && i < kPatience; ++i, now = fd_table.peek(fd)) sched_yield();
    if (now == before || !FdTable::is_attachment(now)) return 0;
    const int saved = errno;
    const int result = real::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, event);
    if (result != 0 && errno == EEXIST) return errno = saved, 0;
    return result;
}

HOOK(int, epoll_ctl, int epoll_fd, int operation, int fd, epoll_event* event) {
    const uintptr_t before = fd_table.peek(fd);
    // Before it is in the set, so that connect() in another thread does not overlook it.
    if (operation == EPOLL_CTL_ADD && before == tcp) fd_table.replace(fd, tcp, tcp_watched);
    int result = real::epoll_ctl(epoll_fd, operation, fd, event);
    if (operation == EPOLL_CTL_ADD && result == 0 && may_be_swapped(before))
        result = add_to_successor(epoll_fd, fd, event, before);
    const uintptr_t word = fd_table.peek(fd);
    // Registered with the socket that was here before, and another thread was quicker than the replay.
    if (result != 0 && errno == ENOENT && operation == EPOLL_CTL_MOD && FdTable::is_attachment(word)) {
        const int saved = errno;
        result = real::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, event);
        if (result != 0) errno = saved;
    }
    if (result == 0 && operation == EPOLL_CTL_ADD && word != foreign && fd_table.peek(epoll_fd) != epoll)
        fd_table.set(epoll_fd, epoll);
    return result;
}

}  // namespace
}  // namespace smbdirect::preload
