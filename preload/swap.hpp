// Putting another socket under a number of the program, so that neither the program nor its epoll sets
// notice.
#pragma once

namespace smbdirect::preload {

// dup3(other, fd): `other` is closed. The number keeps FD_CLOEXEC; O_NONBLOCK, the owner and the epoll
// registrations are carried over (readiness.md section 5). False with errno: fd is as it was, and `other` is
// still open.
bool put_under(int fd, int other);

// Sets or clears O_NONBLOCK.
void set_nonblocking(int fd, bool on);

}  // namespace smbdirect::preload
