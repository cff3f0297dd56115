#include "wait.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include <cerrno>

#include "real.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

int64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// poll() never restarts after a signal, while a blocking send() or connect() does if the handler was
// installed with SA_RESTART. Which handler ran cannot be known; if all that are installed say so, this one
// did.
bool all_handlers_restart() {
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action;
        if (sigaction(number, nullptr, &action) != 0) continue;
        const bool handled = action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
        if (handled && !(action.sa_flags & SA_RESTART)) return false;
    }
    return true;
}

// Hung up, and still nothing to say: the engine is gone without a word. A few rounds for what is in flight,
// then reset.
int hung_up(Attachment& attachment) {
    constexpr uint32_t kRounds = 100;
    if (attachment.dead_rounds.fetch_add(1, std::memory_order_relaxed) < kRounds) return 0;
    return ECONNRESET;
}

}  // namespace

bool is_nonblocking(int fd, int flags) {
    if (flags & MSG_DONTWAIT) return true;
    const int saved = errno;
    const int status = real::fcntl(fd, F_GETFL, nullptr);
    errno = saved;
    return status >= 0 && (status & O_NONBLOCK);
}

Deadline::Deadline(int64_t microseconds) : at_ns_(microseconds ? now_ns() + microseconds * 1000 : 0) {}

int Deadline::left_ms() const {
    if (none()) return -1;
    const int64_t left = at_ns_ - now_ns();
    if (left <= 0) return 0;
    constexpr int64_t kMost = 3'600'000;
    const int64_t ms = (left + 999'999) / 1'000'000;
    return static_cast<int>(ms < kMost ? ms : kMost);
}

// A look without taking: it sleeps exactly as long as A is not readable, restarts after a signal exactly when
// TCP's recv() would, and A carries the program's SO_RCVTIMEO.
int wait_readable(Attachment& attachment, int fd, bool has_some) {
    if (tracing()) trace(0, attachment.id(), fd, "waits to receive");
    if (has_some) {  // poll() never restarts; with the time limit of recv()
        pollfd poll_fd{fd, POLLIN, 0};
        const int64_t limit = attachment.socket_options().receive_timeout_us.load();
        const int ready = ::poll(&poll_fd, 1, Deadline(limit).left_ms());
        if (ready <= 0) return ready == 0 ? EAGAIN : errno;
        if (poll_fd.revents & POLLNVAL) return EBADF;
        return poll_fd.revents & (POLLHUP | POLLERR) ? hung_up(attachment) : 0;
    }
    unsigned char byte;
    const ssize_t seen = real::recv(fd, &byte, 1, MSG_PEEK);
    if (seen > 0) {
        attachment.dead_rounds.store(0, std::memory_order_relaxed);
        return 0;
    }
    if (seen < 0 && (errno == EAGAIN || errno == EINTR || errno == EBADF)) return errno;
    return hung_up(attachment);
}

int wait_writable(Attachment& attachment, int fd, const Deadline& deadline, bool has_some) {
    if (tracing()) trace(0, attachment.id(), fd, "waits for room");
    pollfd poll_fd{fd, POLLOUT, 0};
    for (;;) {
        const int ready = ::poll(&poll_fd, 1, deadline.left_ms());
        if (ready == 0) {
            if (deadline.left_ms() == 0) return EAGAIN;
            continue;
        }
        if (ready < 0) {
            if (errno == EINTR && deadline.none() && !has_some && all_handlers_restart()) continue;
            return errno;
        }
        if (poll_fd.revents & POLLNVAL) return EBADF;
        return poll_fd.revents & (POLLHUP | POLLERR) ? hung_up(attachment) : 0;
    }
}

}  // namespace smbdirect::preload
