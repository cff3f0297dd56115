// accept(): a TCP listener on which the engine knocks, and the AF_UNIX listener of what is SMBDIRECT only.
#pragma once

#include <sys/socket.h>

#include "attachment.hpp"

namespace smbdirect::preload {

// As accept4(), on a number that is ours.
int accept_ours(Attachment& listener, int fd, sockaddr* address, socklen_t* length, int flags);
// Copies as the kernel does: cut off at *length, which becomes the full length. -1 with errno.
int show_address(const sockaddr_storage& from, socklen_t size, sockaddr* address, socklen_t* length);
// An address of a connection as its program's socket shows it.
socklen_t address_of(Attachment&, bool peer, sockaddr_storage* out);

}  // namespace smbdirect::preload
