#include "complain.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "attachment.hpp"
#include "fd_table.hpp"
#include "process.hpp"
#include "real.hpp"

namespace smbdirect::preload {

void complain(const sockaddr_storage& peer, Reason reason, int error) {
    const int saved = errno;
    const char* quiet = environment("SMBDIRECT_QUIET");
    // Number 2 may be anything in a daemon; it is not written to when it is a socket of any kind.
    int type = 0;
    socklen_t size = sizeof type;
    const bool is_socket = real::getsockopt(STDERR_FILENO, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    if (is_socket || (quiet && *quiet && *quiet != '0')) {
        errno = saved;
        return;
    }
    char host[INET6_ADDRSTRLEN] = "?", line[512];
    const bool v6 = peer.ss_family == AF_INET6;
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(peer);
    const void* address =
        v6 ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr)
           : static_cast<const void*>(&v4.sin_addr);
    inet_ntop(peer.ss_family, address, host, sizeof host);
    const int length =
        snprintf(line, sizeof line, "libsmbdirect: connect to %s%s%s:%u: %s: %s (reason %u)\n", v6 ? "[" : "",
                 host, v6 ? "]" : "", ntohs(v4.sin_port), strerrordesc_np(error), reason_sentence(reason),
                 static_cast<unsigned>(reason));
    if (length > 0)
        raw(SYS_write, STDERR_FILENO, line,
            static_cast<size_t>(length) < sizeof line ? length : sizeof line - 1);
    errno = saved;
}

void complain_once(Attachment& attachment, int error) {
    if (!attachment.complaint_due.exchange(false)) return;
    const auto& memory = attachment.memory();
    complain(memory.peer, static_cast<Reason>(memory.reason.load()), error);
}

}  // namespace smbdirect::preload
