#include "complain.hpp"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "attachment.hpp"
#include "process.hpp"
#include "real.hpp"

namespace smbdirect::preload {

void complain(const Endpoint& peer, Reason reason, int error) {
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
    char to[64], line[512];
    describe(peer, to);
    const int length =
        snprintf(line, sizeof line, "libsmbdirect: connect to %s: %s: %s (reason %u)\n", to,
                 strerrordesc_np(error), reason_sentence(reason), static_cast<unsigned>(reason));
    if (length > 0)
        raw(SYS_write, STDERR_FILENO, line,
            static_cast<size_t>(length) < sizeof line ? length : sizeof line - 1);
    errno = saved;
}

void complain_once(Attachment& attachment, int error) {
    if (!attachment.complaint_due.exchange(false)) return;
    const auto& memory = attachment.memory();
    Endpoint peer;
    endpoint_of(reinterpret_cast<const sockaddr*>(&memory.peer), sizeof memory.peer, &peer);
    complain(peer, static_cast<Reason>(memory.reason.load()), error);
}

}  // namespace smbdirect::preload
