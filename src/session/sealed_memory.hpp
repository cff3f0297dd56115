// memfds whose size nobody can change any more, so that no peer can make a mapping end in SIGBUS. Internal.
#pragma once

#include <cstdint>

namespace smbdirect::session {

int create_sealed_memory(const char* name, uint64_t size, void** map);  // CLOEXEC; -1 with errno
void* map_sealed_memory(int memfd, uint64_t least, uint64_t* size);     // null with errno
void unmap_memory(void* map, uint64_t size);

}  // namespace smbdirect::session
