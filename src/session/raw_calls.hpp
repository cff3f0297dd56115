// System calls that nobody interposes and that leave errno alone: the result is the kernel's, negative errno
// on failure. The library overrides libc's send, recv, read, close and the like, so session code never calls
// those. None is a cancellation point, so a thread cannot be cancelled in one while it holds a lock of ours.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>

namespace smbdirect::session::raw {

#if defined(__x86_64__)
inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
    long result;
    register long r10 asm("r10") = d;
    register long r8 asm("r8") = e;
    register long r9 asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
    register long x8 asm("x8") = number;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    register long x3 asm("x3") = d;
    register long x4 asm("x4") = e;
    register long x5 asm("x5") = f;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "raw system calls: x86_64 and aarch64 only"
#endif

inline long address(const void* pointer) { return reinterpret_cast<long>(pointer); }

// Shared, read and write. TSan has to see mappings come and go, or it takes two that had the same address one
// after the other for one; a library that is preloaded is never built with it.
#ifdef __SANITIZE_THREAD__
inline long map_shared(long size, int fd) {
    void* map = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return map == MAP_FAILED ? -errno : address(map);
}
inline void unmap(void* map, uint64_t size) { ::munmap(map, size); }
#else
inline long map_shared(long size, int fd) {
    return call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
inline void unmap(void* map, uint64_t size) { call(SYS_munmap, address(map), static_cast<long>(size)); }
#endif

inline long send(int fd, const void* data, size_t size) {
    return call(SYS_sendto, fd, address(data), static_cast<long>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
}
inline long receive(int fd, void* data, size_t size) {
    return call(SYS_recvfrom, fd, address(data), static_cast<long>(size), MSG_DONTWAIT);
}
inline long send_message(int fd, const msghdr* message, int flags) {
    return call(SYS_sendmsg, fd, address(message), flags);
}
inline long receive_message(int fd, msghdr* message, int flags) {
    return call(SYS_recvmsg, fd, address(message), flags);
}
inline long close(int fd) { return call(SYS_close, fd); }
inline long socket(int domain, int type, int protocol) { return call(SYS_socket, domain, type, protocol); }
inline long socket_pair(int domain, int type, int* pair) {
    return call(SYS_socketpair, domain, type, 0, address(pair));
}
inline long bind(int fd, const void* name, socklen_t length) {
    return call(SYS_bind, fd, address(name), static_cast<long>(length));
}
inline long connect(int fd, const void* name, socklen_t length) {
    return call(SYS_connect, fd, address(name), static_cast<long>(length));
}
inline long shut_down(int fd, int how) { return call(SYS_shutdown, fd, how); }
inline long set_option(int fd, int level, int option, const void* value, socklen_t size) {
    return call(SYS_setsockopt, fd, level, option, address(value), static_cast<long>(size));
}
inline long get_option(int fd, int level, int option, void* value, socklen_t* size) {
    return call(SYS_getsockopt, fd, level, option, address(value), address(size));
}

// Until the word, which several processes share, is no longer 0 and somebody woke us; or a signal came.
inline void wait_while_zero(const std::atomic<uint32_t>& word, int timeout_ms) {
    const timespec limit{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000L};
    call(SYS_futex, address(&word), FUTEX_WAIT, 0, address(&limit));
}
inline void wake_all(std::atomic<uint32_t>& word) { call(SYS_futex, address(&word), FUTEX_WAKE, INT_MAX); }

// Waits for `events` (POLLERR and POLLHUP always) up to timeout_ms. The mask, 0 for nothing or an
// interruption.
inline int poll_one(int fd, short events, int timeout_ms) {
    pollfd entry{fd, events, 0};
    timespec limit{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000L};
    long n = call(SYS_ppoll, address(&entry), 1, address(&limit), 0, 8);
    return n > 0 ? entry.revents : 0;
}

// Bytes in a socket's receive queue; 0 when it cannot be told.
inline uint32_t queued(int fd) {
    int bytes = 0;
    return call(SYS_ioctl, fd, FIONREAD, address(&bytes)) < 0 || bytes < 0 ? 0 : static_cast<uint32_t>(bytes);
}

// What was sent through a socket of a pair and not yet received, in bytes of kernel memory.
inline uint32_t unread_by_peer(int fd) {
    int bytes = 0;
    return call(SYS_ioctl, fd, SIOCOUTQ, address(&bytes)) < 0 || bytes < 0 ? 0 : static_cast<uint32_t>(bytes);
}

inline uint64_t clock_ns(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);  // vDSO: touches no errno, interposed by nobody
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

// errno and false, for the functions whose contract is errno.
inline bool failed(long result) {
    errno = static_cast<int>(-result);
    return false;
}

}  // namespace smbdirect::session::raw
