// How an interposed call fails.
#pragma once

#include <cerrno>

namespace smbdirect::preload {

inline int fail_with(int error) {
    errno = error;
    return -1;
}

}  // namespace smbdirect::preload
