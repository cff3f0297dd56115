// Descriptors beside a message (SCM_RIGHTS). Internal.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstring>

namespace smbdirect::session {

// Room beside a message for so many descriptors.
template <int most>
struct Rights {
    alignas(cmsghdr) char room[CMSG_SPACE(most * sizeof(int))] = {};

    void expect(msghdr& message) {
        message.msg_control = room;
        message.msg_controllen = sizeof room;
    }
    void pass(msghdr& message, const int* fds, int count) {
        const size_t size = static_cast<size_t>(count) * sizeof(int);
        message.msg_control = room;
        message.msg_controllen = CMSG_SPACE(size);
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        *header = {CMSG_LEN(size), SOL_SOCKET, SCM_RIGHTS};
        std::memcpy(CMSG_DATA(header), fds, size);
    }
};

template <class Take>
void for_each_passed_fd(const msghdr& message, Take take) {
    auto& all = const_cast<msghdr&>(message);  // what CMSG_NXTHDR asks for
    for (cmsghdr* header = CMSG_FIRSTHDR(&all); header; header = CMSG_NXTHDR(&all, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            take(fd);
        }
    }
}

}  // namespace smbdirect::session
