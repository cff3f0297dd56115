#include "real.hpp"

#include <cerrno>

namespace smbdirect::preload::real {
namespace {
// Initial-exec, so that no access to it can allocate.
thread_local constinit bool looking __attribute__((tls_model("initial-exec"))) = false;
}  // namespace

void* find_next(const char* name) {
    if (looking) return nullptr;
    const int saved = errno;
    looking = true;
    void* found = dlsym(RTLD_NEXT, name);
    looking = false;
    errno = saved;
    return found;
}

}  // namespace smbdirect::preload::real
