// The end of a connection: by the program, by the peer, or by the engine itself, and what each of them is
// told.
#include "engine/driver.hpp"

#include <algorithm>
#include <utility>

#include "session/raw_calls.hpp"

namespace smbdirect::engine {

using session::ConnectionState;
using session::End;

namespace {
constexpr uint32_t kLastWordMs =
    5'000;  // as long as others wait for the answer to a keep-alive [MS-SMBD] <4>
}

// Traces, counts and publishes that this side ends it. False: it was ending already, and nothing is left to
// tell the peer.
bool Driver::begin_end(Error error) {
    const bool first = !peer_gone_ && !disconnecting_;
    if (first) {
        trace_line("ends", error);
        disconnecting_ = true;
        ++(counted_open_ ? context_.counters->connections_reset : context_.counters->connections_failed);
    }
    end_for_program(error);
    return first;
}

void Driver::fail(Error error) {
    if (!begin_end(error)) return;
    // Who does not answer takes no part in an orderly end, and should it come back, this was none.
    if (error.reason == Reason::keepalive_timeout) return reset_peer(kLastWordMs);
    endpoint_->flush();
    endpoint_->disconnect();
    arm_close_timer();
}

// The program's own calls or its shared memory cannot be trusted: to the peer it is a reset, at once.
void Driver::fail_by_program(Reason reason) {
    ++context_.counters->program_violations;
    if (begin_end({reason, ECONNRESET})) reset_peer();
}

// on_disconnected follows, but for a connection that has never stood.
void Driver::reset_peer(uint32_t at_most_ms) {
    disconnecting_ = true;
    endpoint_->abort();
    if (counted_open_)
        arm_close_timer(at_most_ms);
    else
        peer_gone_ = true;
}

// Bounds an end that waits for the peer, or for a program to claim what arrived for it. Progress is given
// more time: what send() accepted is not thrown away because a line is slow.
void Driver::arm_close_timer(uint32_t at_most_ms) {
    if (close_timer_) return;
    const auto limit = int64_t{std::min(at_most_ms, context_.settings->close_timeout_ms)} * 1'000'000;
    close_timer_ =
        context_.loop->add_timer(context_.loop->now() + limit, [this, released = transmit_released_] {
            close_timer_ = 0;
            if (!disconnecting_ && transmit_released_ != released) return arm_close_timer();
            peer_gone_ = true;
            endpoint_->abort();
            finish();
        });
}

void Driver::end_for_program(Error error) {
    if (program_told_ || !view_.memory) return;
    program_told_ = true;
    if (!disconnecting_) {
        trace_line("ended", error);
        if (!counted_open_)
            ++context_.counters->connections_failed;
        else if (error.errnum)
            ++context_.counters->connections_reset;
    }
    auto* memory = view_.memory;
    const bool never_stood = !passive_ && !counted_open_;
    memory->reason.store(static_cast<uint32_t>(error.reason));
    // An explicit socket knows no orderly end: all poll bits, and the cause in SO_ERROR.
    if (error.errnum == 0 && !never_stood && face_ != 6)
        error.errnum = memory->shutdown.load() ? ESHUTDOWN : ECONNRESET;
    if (error.errnum == 0 && !never_stood) {
        memory->end.store(End::orderly);
        memory->state.store(ConnectionState::ended);
        if (mirror_.b() >= 0) mirror_.end_of_stream();
        return;
    }
    if (stream_end_told_ && error.errnum == ECONNRESET) error.errnum = EPIPE;  // as TCP, in CLOSE_WAIT
    memory->error.store(error.errnum ? error.errnum : ECONNREFUSED);
    memory->end.store(End::reset);
    memory->state.store(never_stood ? ConnectionState::failed : ConnectionState::ended);
    drop_mirror();
}

void Driver::drop_mirror() {
    if (mirror_.b() < 0) return;
    context_.loop->unwatch(mirror_.b(), this);
    mirror_.close_reset();
    program_gone_ = true;  // nothing more can come from it
}

// The program has closed or shut its sending side, or the peer is gone: is there anything left to do?
void Driver::finish_when_drained() {
    if (finished_) return;
    if (both_halves_are_over()) hang_up();
    if (peer_gone_ || !endpoint_) {
        // Not yet accepted by the program: as with TCP, accept() gives what was sent, and the end.
        const bool awaited = passive_ && !program_gone_ && mirror_.b() < 0 && view_.memory && counted_open_;
        if (awaited)
            arm_close_timer();
        else if (program_gone_ || mirror_.b() < 0)
            finish();
        return;
    }
    if (disconnecting_) return;
    const bool unread = program_gone_ && slots_.published_count() != 0 && !program_told_;
    if (program_gone_ && view_.memory && (unread || view_.memory->abort.load() || !counted_open_)) {
        // As TCP: unread data, or SO_LINGER {1, 0}, make close() a reset.
        trace_line("aborted by the program", {Reason::local_abort, 0});
        reset_peer();
        return peer_gone_ ? finish() : void();
    }
    const bool whole = !core_ || (!message_pending() && transmit_head_ == message_end_);
    // A program that has ended in the middle of a message (or of its length header) will never complete it.
    const bool torso =
        core_ && (program_gone_ || core_settings_.half_close) &&
        (message_pending() ? transmit_head_ < message_end_ : transmit_head_ - message_end_ < 4);
    if (whole || torso) end_stream_or_disconnect(whole);
    if (program_gone_) arm_close_timer();
}

// The program has shut its own, and the other one is shut or over, and read. An explicit socket has no
// halves.
bool Driver::both_halves_are_over() const {
    if (!write_shut_ || face_ != 6 || mirror_.b() < 0 || slots_.published_count() != 0 || !inbound_.empty())
        return false;
    if (send_head_ != send_tail_ || transmit_released_ != transmit_head_) return false;
    const End end = view_.memory->end.load();
    if (end == End::reset) return false;
    return (view_.memory->shutdown.load() & session::shutdown_read) ||
           (core_settings_.half_close && end == End::orderly);
}

// As with TCP the program sees a HUP then, and we go on as if it had closed.
void Driver::hang_up() {
    view_.memory->end.store(End::orderly);
    view_.memory->state.store(ConnectionState::ended);
    context_.loop->unwatch(mirror_.b(), this);
    mirror_.close_orderly();
    program_told_ = program_gone_ = true;
}

// All that the program will ever send is taken. With a peer that knows half a close, shutdown() for writing
// ends our stream alone; and what there is of an unfinished message goes before its end.
void Driver::end_stream_or_disconnect(bool whole) {
    const uint32_t shut = view_.memory ? view_.memory->shutdown.load() : 0;
    const bool listens_on = !program_gone_ && !stream_end_told_ && !(shut & session::shutdown_read);
    const bool half_close = core_ && core_settings_.half_close && established();
    if (half_close && !core_->stream_end_sent() && (listens_on || !whole)) {
        if (transmit_registered_ < transmit_head_) return;  // not yet all that there is
        // So little cannot be looked at, and so cannot be translated.
        if (stage_ == Stage::look && message_bytes_there() != 0) announce_stream(std::nullopt);
        core_->end_stream();
        pump();
        if (disconnecting_ || !core_->stream_end_sent()) return;
        consumed_to(transmit_head_);
        if (mirror_.b() >= 0) mirror_.release(transmit_released_);
    }
    if ((half_close && listens_on) || send_head_ != send_tail_) return;
    trace_line(write_shut_ ? "shut down by the program" : "closed by the program", {Reason::local_close, 0});
    disconnecting_ = true;
    tell_drained();
    endpoint_->disconnect();
}

// Whoever waits in a close() under SO_LINGER.
void Driver::tell_drained() {
    if (!program_gone_ || !view_.memory) return;
    view_.memory->drained.store(1);
    session::raw::wake_all(view_.memory->drained);
}

// The peer's stream is over, and all of it published; the connection stands.
void Driver::tell_end_of_stream() {
    if (std::exchange(stream_end_told_, true)) return;
    trace_line("shut down for writing by the peer", {});
    view_.memory->end.store(End::orderly);
    if (mirror_.b() >= 0) mirror_.end_of_stream();
}

void Driver::finish() {
    if (finished_) return;
    finished_ = true;
    if (mirror_.b() >= 0) drop_mirror();
    tell_drained();
    context_.loop->defer([events = events_, self = this] { events->on_gone(self); });
}

}  // namespace smbdirect::engine
