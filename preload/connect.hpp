// connect(): TCP sockets that a rule turns into SMBDIRECT, explicit SMBDIRECT sockets, and second calls.
#pragma once

#include <sys/socket.h>

#include "attachment.hpp"
#include "endpoint.hpp"
#include "rules.hpp"

namespace smbdirect::preload {

// A TCP socket (not ours) is to be connected. True if that was dealt with: `result` and errno are the call's.
bool convert_at_connect(int fd, const sockaddr* address, socklen_t length, int* result);
// connect() on a number that is ours.
int connect_ours(Attachment&, int fd, const sockaddr* address, socklen_t length);
// A connection is given up; its number becomes a fresh TCP socket. As the system calls.
int disconnect(Attachment&, int fd);
// MSG_FASTOPEN and its kin would connect past the rules.
bool fast_open_is_refused(const sockaddr* address, socklen_t length);

// True for a TCP socket, a stream, in state CLOSE: not yet connected, or no more.
bool is_fresh_tcp(int fd);

}  // namespace smbdirect::preload
