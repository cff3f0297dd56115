// Descriptors that arrive by SCM_RIGHTS: recognised in the call that brings them, while the process is still
// what it was.
#pragma once

#include <sys/socket.h>

namespace smbdirect::preload {

void look_at_passed_fds(const msghdr& message);

}  // namespace smbdirect::preload
