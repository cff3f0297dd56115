#include "passed_fds.hpp"

#include "recognise.hpp"
#include "session/rights.hpp"

namespace smbdirect::preload {

void look_at_passed_fds(const msghdr& message) {
    session::for_each_passed_fd(message, [](int fd) {
        fd_table.set(fd, unknown);  // whatever had the number before
        recognise(fd);
    });
}

}  // namespace smbdirect::preload
