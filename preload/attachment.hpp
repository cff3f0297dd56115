// One thing that a descriptor number of this process stands for: a connection, a listener, or an explicit
// SMBDIRECT socket that is neither yet. Attachments come from a pool that is never given back, so that a
// stale pointer is still a pointer to an attachment; whoever uses one holds a reference.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "fd_table.hpp"
#include "session/memory.hpp"

namespace smbdirect::preload {

enum class Kind : uint8_t {
    connection,     // the number is A
    beside,         // a true TCP listener that SMBDIRECT arrivals knock on
    only_listener,  // the AF_UNIX listener of a listener that is SMBDIRECT only
    idle,           // an explicit SMBDIRECT socket (over a TCP socket) before connect() or listen()
};

struct Attachment {
    std::atomic<uint32_t> references;  // 0: free
    Kind kind;
    uint32_t face;                  // 6, or the number of the explicit protocol
    session::ConnectionView view;   // connection
    session::KnockTable* knocks;    // beside
    uint64_t listener_id;           // beside, only_listener
    int owner;                      // process that registered the listener
    std::atomic<int64_t> check_at;  // beside: when to ask whether the engine knows it (CLOCK_MONOTONIC, ms)
    std::atomic<uint32_t> failed_checks;  // beside: in a row
    sockaddr_storage local;  // only_listener: as the program shall see it; connection: what it had bound
    session::SocketOptions options;  // of what has no connection memory
    std::atomic<bool>
        told;  // connection: connect() has reported the outcome (TCP's SS_CONNECTED or SS_UNCONNECTED)
    std::atomic<bool> complaint_due;    // connection by rule: if it fails, stderr has not been told yet
    std::atomic<uint32_t> dead_rounds;  // see wait.cpp

    session::ConnectionMemory& memory() const { return *view.memory; }
    session::SocketOptions& socket_options() {
        return kind == Kind::connection ? view.memory->options : options;
    }
    uint64_t id() const {
        return kind == Kind::connection ? view.memory->connection_id : 0;
    }  // for the trace
    bool explicit_face() const { return face != 6; }
};

// With one reference, the caller's. Null: no memory.
Attachment* make_attachment(Kind kind, uint32_t face);
bool try_hold(Attachment*);
void drop(Attachment*);
// For a descriptor that is known to be A, without the memory of its connection: one that ended, with this
// error; 0: orderly, at both ends.
Attachment* make_orphan(int error);

// A reference for the length of a call. Null where the number is not ours.
class Held {
  public:
    explicit Held(Attachment* attachment = nullptr) : attachment_(attachment) {}
    Held(Held&& other) noexcept : attachment_(std::exchange(other.attachment_, nullptr)) {}
    Held(const Held&) = delete;
    Held& operator=(Held&& other) noexcept {
        std::swap(attachment_, other.attachment_);
        return *this;
    }
    ~Held() {
        if (attachment_) [[unlikely]]
            drop(attachment_);
    }
    explicit operator bool() const { return attachment_; }
    Attachment* operator->() const { return attachment_; }
    Attachment& operator*() const { return *attachment_; }
    Attachment* get() const { return attachment_; }
    Attachment* release() { return std::exchange(attachment_, nullptr); }

  private:
    Attachment* attachment_;
};

// One more reference to what somebody holds already.
inline Held share(Attachment& held) {
    try_hold(&held);
    return Held(&held);
}

}  // namespace smbdirect::preload
