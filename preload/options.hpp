// Socket options of a socket that is a TCP socket only to its program: kept in shared memory, echoed, and
// acted upon where they mean something.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

// Reads back from a true TCP socket what the program has set on it (`domain` included).
void capture_options(int tcp_socket, session::SocketOptions* to);
void copy_options(const session::SocketOptions& from, session::SocketOptions* to);
// Sets on a true TCP socket what a former socket of the number had.
void apply_options(const session::SocketOptions& from, int tcp_socket);
// What the kernel itself must know about A: the receive timeout, by which blocking calls wait.
void apply_to_mirror(const session::SocketOptions& from, int a);

// As TCP_INFO tells it: TCP_ESTABLISHED and so on.
int tcp_state(const Attachment&);
// AF_INET or AF_INET6: of the program's socket.
int domain_of(Attachment&);

// As the system calls; -1 with errno.
int set_option(Attachment&, int fd, int level, int option, const void* value, socklen_t length);
int get_option(Attachment&, int fd, int level, int option, void* value, socklen_t* length);

}  // namespace smbdirect::preload
