// The invisible start of a process, with a pipe that tells when it is ready. Internal; see client.hpp.
#pragma once

namespace smbdirect::session {

// As spawn_invisibly(); `ready_fd`, if not -1, is descriptor 3 of the new process, which closes it when it is
// ready.
bool spawn_invisibly_with(const char* path, const char* const* arguments, int ready_fd);

}  // namespace smbdirect::session
