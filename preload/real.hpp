// The functions behind our interposers: libc's, or those of another preloaded library behind us. Found by
// dlsym(RTLD_NEXT) when first used; no constructor, since constructors of other libraries call read() and
// close() before ours would run. While dlsym itself is at work (it may call malloc, and that anything) raw
// system calls answer.
#pragma once

#include <aio.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstddef>

namespace smbdirect::preload {

template <class... Arguments>
inline long raw(long number, Arguments... arguments) {
    return ::syscall(number, arguments...);
}

namespace real {

// Null on re-entry from dlsym and where nothing has that name. Preserves errno.
void* find_next(const char* name);

// clang-format off
// X(result, name, parameters, arguments, raw system call)
#define SMBDIRECT_REAL_FUNCTIONS(X)                                                                                   \
    X(int, socket, (int domain, int type, int protocol), (domain, type, protocol), raw(SYS_socket, domain, type, protocol)) \
    X(int, bind, (int fd, const sockaddr* a, socklen_t l), (fd, a, l), raw(SYS_bind, fd, a, l))                       \
    X(int, listen, (int fd, int backlog), (fd, backlog), raw(SYS_listen, fd, backlog))                                \
    X(int, accept, (int fd, sockaddr* a, socklen_t* l), (fd, a, l), raw(SYS_accept4, fd, a, l, 0))                    \
    X(int, accept4, (int fd, sockaddr* a, socklen_t* l, int f), (fd, a, l, f), raw(SYS_accept4, fd, a, l, f))         \
    X(int, connect, (int fd, const sockaddr* a, socklen_t l), (fd, a, l), raw(SYS_connect, fd, a, l))                 \
    X(int, getsockname, (int fd, sockaddr* a, socklen_t* l), (fd, a, l), raw(SYS_getsockname, fd, a, l))              \
    X(int, getpeername, (int fd, sockaddr* a, socklen_t* l), (fd, a, l), raw(SYS_getpeername, fd, a, l))              \
    X(int, shutdown, (int fd, int how), (fd, how), raw(SYS_shutdown, fd, how))                                        \
    X(ssize_t, read, (int fd, void* b, size_t n), (fd, b, n), raw(SYS_read, fd, b, n))                                \
    X(ssize_t, write, (int fd, const void* b, size_t n), (fd, b, n), raw(SYS_write, fd, b, n))                        \
    X(ssize_t, readv, (int fd, const iovec* v, int n), (fd, v, n), raw(SYS_readv, fd, v, n))                          \
    X(ssize_t, writev, (int fd, const iovec* v, int n), (fd, v, n), raw(SYS_writev, fd, v, n))                        \
    X(ssize_t, preadv2, (int fd, const iovec* v, int n, off64_t o, int f), (fd, v, n, o, f), raw(SYS_preadv2, fd, v, n, o, 0L, f)) \
    X(ssize_t, pwritev2, (int fd, const iovec* v, int n, off64_t o, int f), (fd, v, n, o, f), raw(SYS_pwritev2, fd, v, n, o, 0L, f)) \
    X(ssize_t, recv, (int fd, void* b, size_t n, int f), (fd, b, n, f), raw(SYS_recvfrom, fd, b, n, f, nullptr, nullptr)) \
    X(ssize_t, recvfrom, (int fd, void* b, size_t n, int f, sockaddr* a, socklen_t* l), (fd, b, n, f, a, l), raw(SYS_recvfrom, fd, b, n, f, a, l)) \
    X(ssize_t, recvmsg, (int fd, msghdr* m, int f), (fd, m, f), raw(SYS_recvmsg, fd, m, f))                           \
    X(int, recvmmsg, (int fd, mmsghdr* m, unsigned n, int f, timespec* t), (fd, m, n, f, t), raw(SYS_recvmmsg, fd, m, n, f, t)) \
    X(ssize_t, send, (int fd, const void* b, size_t n, int f), (fd, b, n, f), raw(SYS_sendto, fd, b, n, f, nullptr, 0)) \
    X(ssize_t, sendto, (int fd, const void* b, size_t n, int f, const sockaddr* a, socklen_t l), (fd, b, n, f, a, l), raw(SYS_sendto, fd, b, n, f, a, l)) \
    X(ssize_t, sendmsg, (int fd, const msghdr* m, int f), (fd, m, f), raw(SYS_sendmsg, fd, m, f))                     \
    X(int, sendmmsg, (int fd, mmsghdr* m, unsigned n, int f), (fd, m, n, f), raw(SYS_sendmmsg, fd, m, n, f))          \
    X(ssize_t, __read_chk, (int fd, void* b, size_t n, size_t l), (fd, b, n, l), raw(SYS_read, fd, b, n))             \
    X(ssize_t, __recv_chk, (int fd, void* b, size_t n, size_t l, int f), (fd, b, n, l, f), raw(SYS_recvfrom, fd, b, n, f, nullptr, nullptr)) \
    X(ssize_t, __recvfrom_chk, (int fd, void* b, size_t n, size_t s, int f, sockaddr* a, socklen_t* l), (fd, b, n, s, f, a, l), raw(SYS_recvfrom, fd, b, n, f, a, l)) \
    X(ssize_t, sendfile, (int out, int in, off64_t* o, size_t n), (out, in, o, n), raw(SYS_sendfile, out, in, o, n))  \
    X(ssize_t, splice, (int in, off64_t* i, int out, off64_t* o, size_t n, unsigned f), (in, i, out, o, n, f), raw(SYS_splice, in, i, out, o, n, f)) \
    X(ssize_t, tee, (int in, int out, size_t n, unsigned f), (in, out, n, f), raw(SYS_tee, in, out, n, f))            \
    X(ssize_t, vmsplice, (int fd, const iovec* v, size_t n, unsigned f), (fd, v, n, f), raw(SYS_vmsplice, fd, v, n, f)) \
    X(ssize_t, copy_file_range, (int in, off64_t* i, int out, off64_t* o, size_t n, unsigned f), (in, i, out, o, n, f), raw(SYS_copy_file_range, in, i, out, o, n, f)) \
    X(int, setsockopt, (int fd, int l, int o, const void* v, socklen_t n), (fd, l, o, v, n), raw(SYS_setsockopt, fd, l, o, v, n)) \
    X(int, getsockopt, (int fd, int l, int o, void* v, socklen_t* n), (fd, l, o, v, n), raw(SYS_getsockopt, fd, l, o, v, n)) \
    X(int, ioctl, (int fd, unsigned long r, void* a), (fd, r, a), raw(SYS_ioctl, fd, r, a))                           \
    X(int, fcntl, (int fd, int c, void* a), (fd, c, a), raw(SYS_fcntl, fd, c, a))                                     \
    X(int, epoll_ctl, (int e, int op, int fd, epoll_event* v), (e, op, fd, v), raw(SYS_epoll_ctl, e, op, fd, v))      \
    X(int, dup, (int fd), (fd), raw(SYS_dup, fd))                                                                     \
    X(int, dup2, (int from, int to), (from, to), from == to ? raw(SYS_fcntl, from, 1, 0) < 0 ? -1 : to : raw(SYS_dup3, from, to, 0)) \
    X(int, dup3, (int from, int to, int f), (from, to, f), raw(SYS_dup3, from, to, f))                                \
    X(int, close, (int fd), (fd), raw(SYS_close, fd))                                                                 \
    X(int, close_range, (unsigned a, unsigned z, int f), (a, z, f), raw(SYS_close_range, a, z, f))                    \
    X(void, closefrom, (int from), (from), (void)raw(SYS_close_range, from, ~0u, 0))                                  \
    X(int, fclose, (FILE* stream), (stream), -1)                                                                      \
    X(FILE*, fdopen, (int fd, const char* mode), (fd, mode), nullptr)                                                 \
    X(int, vdprintf, (int fd, const char* f, va_list a), (fd, f, a), -1)                                              \
    X(int, __vdprintf_chk, (int fd, int flag, const char* f, va_list a), (fd, flag, f, a), -1)                        \
    X(int, aio_read, (aiocb* r), (r), -1)                                                                             \
    X(int, aio_write, (aiocb* r), (r), -1)                                                                            \
    X(int, aio_read64, (aiocb64* r), (r), -1)                                                                         \
    X(int, aio_write64, (aiocb64* r), (r), -1)                                                                        \
    X(int, lio_listio, (int mode, aiocb* const* l, int n, sigevent* e), (mode, l, n, e), -1)                          \
    X(int, lio_listio64, (int mode, aiocb64* const* l, int n, sigevent* e), (mode, l, n, e), -1)
// clang-format on

#define SMBDIRECT_REAL(result, name, parameters, arguments, fallback)   \
    inline constinit std::atomic<void*> pointer_##name{nullptr};        \
    inline result name parameters {                                     \
        void* found = pointer_##name.load(std::memory_order_relaxed);   \
        if (!found) [[unlikely]] {                                      \
            found = find_next(#name);                                   \
            if (!found) return static_cast<result>(fallback);           \
            pointer_##name.store(found, std::memory_order_relaxed);     \
        }                                                               \
        return reinterpret_cast<result(*) parameters>(found) arguments; \
    }
SMBDIRECT_REAL_FUNCTIONS(SMBDIRECT_REAL)
#undef SMBDIRECT_REAL

}  // namespace real
}  // namespace smbdirect::preload
