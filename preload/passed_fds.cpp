#include "passed_fds.hpp"

#include <cstring>

#include "recognise.hpp"

namespace smbdirect::preload {

void look_at_passed_fds(const msghdr& message) {
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd;
            std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            fd_table.set(fd, unknown);  // whatever had the number before
            recognise(fd);
        }
    }
}

}  // namespace smbdirect::preload
