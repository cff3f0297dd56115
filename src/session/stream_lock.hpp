// The two locks of a connection, held by the library only, and what to do when their owner was killed.
// Internal.
#pragma once

#include "session/raw_calls.hpp"
#include "session/readiness.hpp"

namespace smbdirect::session {

inline constexpr int kRecoveryWaitMs = 10'000;

// B is closed, or shut down both ways: nobody will ever read or write there again. Only what is A still can
// tell: another thread may have closed the number under this call, and it may be a socket of TCP by now.
inline bool mirror_hung_up(int a) {
    if ((raw::poll_one(a, 0, 0) & (POLLHUP | POLLERR)) == 0) return false;
    int domain = 0;
    socklen_t size = sizeof domain;
    return raw::get_option(a, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

// Rings whatever `armed` says: where the one who took `armed` may have died before it rang.
void ring_counted(ConnectionMemory&, int a);

// Held for a copy, never across anything that waits for a peer. Error: EAGAIN when this thread holds it
// already (a signal handler came in), ECONNRESET when it cannot be had any more.
class StreamLock {
  public:
    enum class Which { receive, transmit };

    StreamLock(const ConnectionView& view, int a, Which which);
    ~StreamLock() {
        if (error_ == 0) pthread_mutex_unlock(lock_);
    }
    StreamLock(const StreamLock&) = delete;
    StreamLock& operator=(const StreamLock&) = delete;

    int error() const { return error_; }

  private:
    pthread_mutex_t* lock_;
    int error_ = 0;
};

}  // namespace smbdirect::session
