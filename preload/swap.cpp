#include "swap.hpp"

#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fd_table.hpp"
#include "real.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

struct Registration {
    int epoll;
    epoll_event event;
};

struct Registrations {
    static constexpr int kMost = 64;
    Registration all[kMost];
    int count = 0;
};

// Lines of fdinfo: "tfd:        5 events:       19 data:                5  pos:0 ino:... sdev:..."
void collect_from(int epoll, int fd, Registrations* found) {
    char path[40], text[16384];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", epoll);
    const long file = raw(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    size_t kept = 0;
    long more;
    while ((more = raw(SYS_read, file, text + kept, sizeof text - 1 - kept)) > 0) {
        kept += static_cast<size_t>(more);
        text[kept] = 0;
        char* line = text;
        for (char* end; (end = std::strchr(line, '\n')); line = end + 1) {
            *end = 0;
            int target;
            unsigned events;
            unsigned long long data;
            if (sscanf(line, "tfd: %d events: %x data: %llx", &target, &events, &data) != 3 || target != fd)
                continue;
            if (found->count == Registrations::kMost) break;
            Registration& one = found->all[found->count++];
            one.epoll = epoll;
            one.event.events = events;
            one.event.data.u64 = data;
        }
        kept = std::strlen(line);
        std::memmove(text, line, kept);
    }
    raw(SYS_close, file);
}

void collect(int fd, Registrations* found) {
    // Whoever adds it to a set from here on looks once more afterwards (epoll_ctl). Made by socket() and
    // never added anywhere is the usual case, and costs nothing.
    if (fd_table.replace(fd, tcp, swapping)) return;
    fd_table.replace(fd, tcp_watched, swapping);
    fd_table.for_each_known(0, FdTable::kChunks * FdTable::kChunkEntries - 1, [&](int other) {
        if (fd_table.peek(other) == epoll) collect_from(other, fd, found);
    });
}

}  // namespace

void set_nonblocking(int fd, bool on) {
    const int saved = errno;
    const int flags = real::fcntl(fd, F_GETFL, nullptr);
    const int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (flags >= 0 && wanted != flags)
        real::fcntl(fd, F_SETFL, reinterpret_cast<void*>(static_cast<intptr_t>(wanted)));
    errno = saved;
}

bool put_under(int fd, int other) {
    const int saved = errno;
    const int flags = real::fcntl(fd, F_GETFL, nullptr);
    const int fd_flags = real::fcntl(fd, F_GETFD, nullptr);
    if (flags < 0 || fd_flags < 0) return false;
    real::fcntl(other, F_SETFL,
                reinterpret_cast<void*>(static_cast<intptr_t>(flags & (O_NONBLOCK | O_ASYNC))));
    if (const int owner = real::fcntl(fd, F_GETOWN, nullptr))
        real::fcntl(other, F_SETOWN, reinterpret_cast<void*>(static_cast<intptr_t>(owner)));
    Registrations found;
    collect(fd, &found);
    // By number, before the file goes: a dup kept elsewhere would leave the old entry firing.
    for (int i = 0; i < found.count; ++i)
        real::epoll_ctl(found.all[i].epoll, EPOLL_CTL_DEL, fd, &found.all[i].event);
    const bool put = real::dup3(other, fd, fd_flags & FD_CLOEXEC ? O_CLOEXEC : 0) == fd;
    const int error = errno;
    for (int i = 0; i < found.count; ++i) {
        Registration& one = found.all[i];
        // EPOLLEXCLUSIVE and a fired EPOLLONESHOT are replayed as they stand.
        if (real::epoll_ctl(one.epoll, EPOLL_CTL_ADD, fd, &one.event) != 0 && tracing())
            trace(1, 0, fd, "cannot replay the registration in epoll %d: %s", one.epoll, errno_name(errno));
    }
    if (!put) {
        fd_table.replace(fd, swapping, tcp_watched);
        errno = error;
        return false;
    }
    raw(SYS_close, other);
    errno = saved;
    return true;
}

}  // namespace smbdirect::preload
