// listen(): beside TCP, or SMBDIRECT only.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

int listen_tcp(int fd, int backlog);  // a number that is no attachment
int listen_ours(Attachment&, int fd, int backlog);

// A listener whose listen() was not seen (inherited, activated by systemd, passed): asked for at its first accept().
// Gives the attachment if SMBDIRECT arrives there as well.
Held examine_listener(int fd);

// The program closes a listener of its own.
void forget_listener(const Attachment&);

}  // namespace smbdirect::preload
