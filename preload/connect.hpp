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
// MSG_FASTOPEN and its kin would connect past the rules.
bool fast_open_is_refused(const sockaddr* address, socklen_t length);

// True for a fresh TCP socket: a stream, of protocol TCP, in state CLOSE.
bool is_fresh_tcp(int fd);

}  // namespace smbdirect::preload
