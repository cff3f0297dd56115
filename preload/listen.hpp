// listen(): beside TCP, or SMBDIRECT only.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

int listen_tcp(int fd, int backlog);  // a number that is no attachment
int listen_ours(Attachment&, int fd, int backlog);

// A listener whose listen() was not seen (inherited, activated by systemd, passed): asked for at its first
// accept(). Gives the attachment if SMBDIRECT arrives there as well.
Held examine_listener(int fd);

// Registers a listener again, at most every few seconds, should the engine (and the monitor, which would have
// told its successor) have died meanwhile. To be called when the program has just accepted a TCP connection.
void look_after_listener(Attachment&, int fd);

// The program closes a listener of its own.
void forget_listener(const Attachment&);

}  // namespace smbdirect::preload
