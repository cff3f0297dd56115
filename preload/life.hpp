// What closing a descriptor of ours means.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

// Of a connection that is about to be closed: a reference, if close() has to wait under SO_LINGER.
Held lingers(int fd);
// After the close: if that was the last one, waits until what was sent has gone, or the time is over.
void linger(Attachment&);
// The number is about to be closed: takes it out of the table, and does what a close() of TCP would do to the
// connection. Gives the attachment of a listener beside TCP, of which the engine shall hear after the close.
Held forget(int fd);
// As forget(), where dup2() or dup3() closes it; not if they will fail because `from` is not open.
void before_replace(int from, int fd);
void forget_range(unsigned first, unsigned last);

}  // namespace smbdirect::preload
