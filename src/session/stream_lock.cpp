#include "session/stream_lock.hpp"

namespace smbdirect::session {
namespace {

// h1: asks the engine to hold still and waits until it does. False: the engine is gone (or stopped for long).
bool ask_for_quiet(ConnectionMemory& m, int a, std::atomic<uint32_t>& request, std::atomic<uint32_t>& ack) {
    ack.store(0, std::memory_order_seq_cst);
    request.store(1, std::memory_order_seq_cst);
    ring_counted(m, a);
    for (int waited = 0; waited < kRecoveryWaitMs; ++waited) {
        if (ack.load(std::memory_order_seq_cst)) return true;
        if (raw::poll_one(a, 0, 1) & (POLLHUP | POLLERR)) return false;
    }
    return false;
}

void let_go_on(ConnectionMemory& m, int a, std::atomic<uint32_t>& request) {
    request.store(0, std::memory_order_seq_cst);
    ring_counted(m, a);
}

// The dead owner may have taken responsibility for tokens without receiving them. With the engine quiet none
// is in flight, so an empty A and a count of 0 is the truth again (h3); the engine then announces what is in
// the ring (h4).
void recover_receive(const ConnectionView& view, int a) {
    ConnectionMemory& m = *view.memory;
    ask_for_quiet(m, a, m.receive_recovery_request, m.receive_recovery_ack);
    unsigned char strays[256];
    while (raw::receive(a, strays, sizeof strays) > 0) {
    }
    m.tokens.store(0, std::memory_order_seq_cst);
    let_go_on(m, a, m.receive_recovery_request);
}

// The dead owner may have announced a stuffing and sent none or half of it. The engine has emptied B to the
// last byte and OUT is on: put the poison back and go on.
void recover_transmit(const ConnectionView& view, int a) {
    ConnectionMemory& m = *view.memory;
    if (ask_for_quiet(m, a, m.transmit_recovery_request, m.transmit_recovery_ack)) raw::send(a, &kRing, 1);
    let_go_on(m, a, m.transmit_recovery_request);
}

}  // namespace

void ring_counted(ConnectionMemory& m, int a) {
    m.extra_rings.fetch_add(1, std::memory_order_seq_cst);
    raw::send(a, &kRing, 1);
}

StreamLock::StreamLock(const ConnectionView& view, int a, Which which)
    : lock_(which == Which::receive ? &view.memory->receive_lock : &view.memory->transmit_lock) {
    int result = pthread_mutex_lock(lock_);
    if (result == 0) return;
    if (result == EOWNERDEAD) {
        if (which == Which::receive)
            recover_receive(view, a);
        else
            recover_transmit(view, a);
        pthread_mutex_consistent(lock_);
        return;
    }
    error_ = result == EDEADLK ? EAGAIN : ECONNRESET;
}

}  // namespace smbdirect::session
