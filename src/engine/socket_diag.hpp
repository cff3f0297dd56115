// Asks the kernel (sock_diag, no privilege needed) which TCP sockets listen in this network namespace.
#pragma once

#include <sys/socket.h>

#include <cstdint>

namespace smbdirect::engine {

// True if a TCP listener with this SO_COOKIE exists at the address's port (any listener of the port where the
// kernel has no inet_diag). Also true when the kernel cannot be asked: a listener is only given up for
// certain.
bool tcp_listener_exists(const sockaddr_storage& address, uint64_t cookie);

}  // namespace smbdirect::engine
