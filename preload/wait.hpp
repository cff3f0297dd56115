// Blocking: always in a call of libc on A itself, so that it is a cancellation point and ends with signals as
// TCP's does.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

bool is_nonblocking(int fd, int flags);

class Deadline {
  public:
    explicit Deadline(int64_t microseconds);  // 0: none
    // For poll(): rounded up; -1: for ever, 0: passed.
    int left_ms() const;
    bool none() const { return at_ns_ == 0; }

  private:
    int64_t at_ns_;
};

// 0: look again. Else the errno to report: EAGAIN when SO_RCVTIMEO has passed, EINTR. has_some: the
// call has something to give already, so that a signal ends it, whatever its handler says of restarting.
int wait_readable(Attachment&, int fd, bool has_some = false);
int wait_writable(Attachment&, int fd, const Deadline&, bool has_some = false);

}  // namespace smbdirect::preload
