// The data calls of a connection: what recv() and send() mean on top of the rings, with TCP's semantics for a
// converted socket and those of the kernel series for an explicit one (kernel-series.md section 10).
#pragma once

#include <sys/uio.h>

#include "attachment.hpp"

namespace smbdirect::preload {

inline constexpr int kPlainRead =
    1 << 30;  // in flags: read() and its kin, where no bytes wanted means none waited for

// As the system calls: a count, or -1 with errno (and SIGPIPE where TCP raises it).
ssize_t receive(Attachment&, int fd, const iovec* iov, size_t count, int flags);
ssize_t transmit(Attachment&, int fd, const iovec* iov, size_t count, int flags);
// Of an explicit socket: one message, sent as SEND WITH INVALIDATE of the peer's token.
ssize_t transmit_invalidating(Attachment&, int fd, const iovec* iov, size_t count, int flags, uint32_t token);

// Else a listener, or an explicit socket before connect(): no data there.
inline bool is_connection(const Attachment& attachment) { return attachment.kind == Kind::connection; }

}  // namespace smbdirect::preload
