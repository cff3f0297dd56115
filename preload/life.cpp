#include "life.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "process.hpp"
#include "real.hpp"
#include "session/raw_calls.hpp"
#include "session/readiness.hpp"
#include "trace.hpp"

namespace smbdirect::preload {

Held lingers(int fd) {
    if (!FdTable::is_attachment(fd_table.peek(fd))) return Held();
    const int saved = errno;
    Held ours = in_borrowed_memory() ? Held() : Held(fd_table.acquire(fd));
    errno = saved;
    if (!ours || ours->kind != Kind::connection || ours->explicit_face()) return Held();
    const auto& options = ours->memory().options;
    const bool waits = options.linger_on && options.linger_seconds > 0 &&
                       ours->memory().end.load() != session::End::reset &&
                       session::stream_unsent(ours->view) != 0;
    return waits ? std::move(ours) : Held();
}

void linger(Attachment& closed) {
    const int saved = errno;
    session::Request request;
    request.type = session::RequestType::linger;
    request.connection_id = closed.id();
    if (ask(request, -1, nullptr, {.may_start = false})) {
        constexpr int kMostSeconds = INT_MAX / 1000;
        const int seconds = std::min<int>(closed.memory().options.linger_seconds, kMostSeconds);
        session::raw::wait_while_zero(closed.memory().drained, seconds * 1000);
    }
    errno = saved;
}

Held forget(int fd) {
    const uintptr_t word = fd_table.peek(fd);
    const int saved = errno;
    if (FdTable::is_lasting(word) && in_borrowed_memory()) {
        errno = saved;
        return Held();  // the parent's number stays open
    }
    if (!FdTable::is_attachment(word)) {
        fd_table.set(fd, unknown);
        errno = saved;
        return Held();
    }
    const uintptr_t taken = fd_table.take(fd);
    if (!FdTable::is_attachment(taken)) return Held();
    Held ours(reinterpret_cast<Attachment*>(taken));
    if (ours->kind == Kind::connection) {
        auto& options = ours->memory().options;
        // SO_LINGER {1, 0}: a reset. The engine looks at this when the last holder of the descriptor is gone.
        const bool resets = options.linger_on && options.linger_seconds == 0;
        auto& abort = ours->memory().abort;
        if (resets)
            abort.fetch_or(session::abort_by_linger);
        else
            abort.fetch_and(~uint32_t{session::abort_by_linger});
    }
    if (tracing()) trace(0, ours->id(), fd, "close");
    errno = saved;
    return ours->kind == Kind::connection || ours->kind == Kind::idle ? Held() : std::move(ours);
}

void before_replace(int from, int fd) {
    if (from == fd || !FdTable::is_attachment(fd_table.peek(fd))) return;
    const int saved = errno;
    if (real::fcntl(from, F_GETFD, nullptr) >= 0) forget(fd);
    errno = saved;
}

void forget_range(unsigned first, unsigned last) {
    fd_table.for_each_known(first, last, [](int fd) { forget(fd); });
}

}  // namespace smbdirect::preload
