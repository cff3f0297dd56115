// The library's interposers under their names in linked builds (preload/hook.hpp), so that sanitizers can
// look at them.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

extern "C" {
int smbdirect_socket(int, int, int);
int smbdirect_bind(int, const sockaddr*, socklen_t);
int smbdirect_listen(int, int);
int smbdirect_accept(int, sockaddr*, socklen_t*);
int smbdirect_accept4(int, sockaddr*, socklen_t*, int);
int smbdirect_connect(int, const sockaddr*, socklen_t);
int smbdirect_getsockname(int, sockaddr*, socklen_t*);
int smbdirect_getpeername(int, sockaddr*, socklen_t*);
int smbdirect_shutdown(int, int);
ssize_t smbdirect_read(int, void*, size_t);
ssize_t smbdirect_write(int, const void*, size_t);
ssize_t smbdirect_recv(int, void*, size_t, int);
ssize_t smbdirect_send(int, const void*, size_t, int);
ssize_t smbdirect_sendmsg(int, const msghdr*, int);
ssize_t smbdirect_recvmsg(int, msghdr*, int);
int smbdirect_sendmmsg(int, mmsghdr*, unsigned, int);
int smbdirect_recvmmsg(int, mmsghdr*, unsigned, int, timespec*);
int smbdirect_setsockopt(int, int, int, const void*, socklen_t);
int smbdirect_getsockopt(int, int, int, void*, socklen_t*);
int smbdirect_fcntl(int, int, ...);
int smbdirect_dup(int);
int smbdirect_dup2(int, int);
int smbdirect_close(int);
int smbdirect_close_range(unsigned, unsigned, int);
}
