#include "base/reasons.hpp"
#include "session/stream_protocol.hpp"

namespace smbdirect::session {
namespace {

int take_kernel_error(int a) {
    int error = 0;
    socklen_t size = sizeof error;
    return raw::get_option(a, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? 0 : error;
}

StreamResult send(const ConnectionView& view, int a, const iovec* iov, int count, bool whole) {
    StreamLock lock(view, a, StreamLock::Which::transmit);
    if (lock.error()) return {0, lock.error(), false};
    Cursor from(iov, count);
    return Sender<Correct>(view, a).send(from, whole);
}

StreamResult receive(const ConnectionView& view, int a, Cursor& to, bool check_engine) {
    if (to.room() == 0) return {};
    StreamLock lock(view, a, StreamLock::Which::receive);
    if (lock.error()) return {0, lock.error(), false};
    return Receiver<Correct>(view, a, check_engine).receive(to);
}

}  // namespace

uint64_t readable_bytes(const ConnectionView& view, uint64_t tail, uint64_t position_word, uint64_t head) {
    if (head - tail > view.receive_ring_entries) return 0;
    uint64_t bytes = 0;
    for (uint64_t i = tail; i != head; ++i)
        bytes += stream_bytes(view.receive_ring()[i & (view.receive_ring_entries - 1)]);
    uint32_t position = position_at(tail, position_word);
    return bytes > position ? bytes - position : 0;
}

int pending_error(ConnectionMemory& m, int a) {
    if (m.error.load(std::memory_order_acquire) == 0) return 0;
    int error = m.error.exchange(0, std::memory_order_seq_cst);
    if (error != 0) take_kernel_error(a);  // reporting it also ends POLLERR, as on TCP
    return error;
}

bool engine_is_lost(ConnectionMemory& m, int a) {
    // Of an orderly end alone while we may still send, more is to be said; `state` says it, or our own end
    // does.
    const auto ended = [&] {
        const End end = m.end.load(std::memory_order_acquire);
        return end == End::reset ||
               (end == End::orderly && (m.state.load(std::memory_order_acquire) == ConnectionState::ended ||
                                        (m.shutdown.load(std::memory_order_relaxed) & shutdown_write)));
    };
    auto state = m.state.load(std::memory_order_acquire);
    if (ended() && state != ConnectionState::connecting) return false;
    if (!mirror_hung_up(a)) return false;
    // It may have said so before it went; `state` comes last, and without it nothing was said.
    state = m.state.load(std::memory_order_acquire);
    const bool connecting = state == ConnectionState::connecting;
    if (state == ConnectionState::failed || (ended() && !connecting)) return false;
    int32_t none = 0;
    End open = m.end.load(std::memory_order_acquire);
    const int error = connecting ? ECONNREFUSED : open == End::orderly ? EPIPE : ECONNRESET;
    m.error.compare_exchange_strong(none, error, std::memory_order_seq_cst);
    uint32_t no_reason = 0;
    m.reason.compare_exchange_strong(no_reason, static_cast<uint32_t>(Reason::engine_lost));
    m.end.compare_exchange_strong(open, End::reset, std::memory_order_seq_cst);
    if (connecting)
        m.state.compare_exchange_strong(state, ConnectionState::failed, std::memory_order_seq_cst);
    return true;
}

void wake_engine(ConnectionMemory& m, int a) {
    if (m.armed.load(std::memory_order_seq_cst) == 0) return;
    if (m.armed.exchange(0, std::memory_order_seq_cst) == 1 && raw::send(a, &kRing, 1) != 1)
        engine_is_lost(m, a);  // the next call hears of it
}

StreamResult stream_receive(const ConnectionView& view, int a, const iovec* iov, int count, bool peek,
                            bool check_engine) {
    Cursor to(iov, count);
    if (!peek) return receive(view, a, to, check_engine);
    if (to.room() == 0) return {};
    StreamLock lock(view, a, StreamLock::Which::receive);
    if (lock.error()) return {0, lock.error(), false};
    return Receiver<Correct>(view, a, check_engine).peek(to);
}

bool stream_engine_died(const ConnectionView& view, int a) { return engine_is_lost(*view.memory, a); }

StreamResult stream_discard(const ConnectionView& view, int a, size_t length) {
    Cursor nowhere(length);
    return receive(view, a, nowhere, true);
}

// Without the lock, so that it works in a signal handler and beside a dead owner: looks again if a receive
// was quicker.
uint64_t stream_readable(const ConnectionView& view) {
    ConnectionMemory& m = *view.memory;
    uint64_t bytes = 0;
    for (int attempt = 0; attempt < 16; ++attempt) {
        uint64_t head = m.receive_head.load(std::memory_order_acquire);
        uint64_t tail = m.receive_tail.load(std::memory_order_acquire);
        uint64_t position = m.receive_position.load(std::memory_order_acquire);
        bytes = readable_bytes(view, tail, position, head);
        std::atomic_thread_fence(std::memory_order_acquire);
        if (m.receive_tail.load() == tail && m.receive_position.load() == position) break;
    }
    return bytes;
}

StreamResult stream_send(const ConnectionView& view, int a, const iovec* iov, int count) {
    return send(view, a, iov, count, false);
}

StreamResult stream_send_whole(const ConnectionView& view, int a, const iovec* iov, int count) {
    return send(view, a, iov, count, true);
}

uint64_t stream_unsent(const ConnectionView& view) {
    uint64_t tail = view.memory->transmit_tail.load(std::memory_order_acquire);
    uint64_t unsent = view.memory->transmit_head.load(std::memory_order_acquire) - tail;
    return unsent > view.transmit_size ? view.transmit_size : unsent;
}

void ring_doorbell(const ConnectionView& view, int a) { ring_counted(*view.memory, a); }

void stream_shut(const ConnectionView& view, int a, uint32_t bits) {
    {
        // A signal handler in the middle of a send() has it already, and goes on without.
        StreamLock lock(view, a, StreamLock::Which::transmit);
        view.memory->shutdown.fetch_or(bits);
    }
    ring_counted(*view.memory, a);
}

ConnectionState stream_state(const ConnectionView& view, int a) {
    ConnectionMemory& m = *view.memory;
    const auto state = m.state.load(std::memory_order_acquire);
    if (state != ConnectionState::connecting) return state;
    engine_is_lost(m, a);
    return m.state.load(std::memory_order_acquire);
}

int take_error(const ConnectionView& view, int a) {
    ConnectionMemory& m = *view.memory;
    engine_is_lost(m, a);
    int error = m.error.exchange(0, std::memory_order_seq_cst);
    take_kernel_error(a);
    return error;
}

}  // namespace smbdirect::session
