#include "engine/driver.hpp"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/private_data.hpp"

namespace smbdirect::engine {

using connection::Role;
using connection::State;
using session::ConnectionState;
using session::End;

Driver::Driver(const DriverContext& context, DriverEvents* events, uint64_t id)
    : context_(context), events_(events), id_(id) {}

Driver::~Driver() {
    if (timer_) context_.loop->cancel_timer(timer_);
    if (close_timer_) context_.loop->cancel_timer(close_timer_);
    if (push_timer_) context_.loop->cancel_timer(push_timer_);
    if (mirror_.b() >= 0) {
        context_.loop->unwatch(mirror_.b(), this);
        mirror_.close_reset();
    }
    context_.loop->forget(this);
    endpoint_.reset();
    if (memfd_ >= 0) ::close(memfd_);
    session::unmap_connection_memory(&view_);
    if (counted_open_) --context_.counters->connections_open;
    context_.trace->forget_connection(id_);
}

// ---------------------------------------------------------------- making

Result<void> Driver::create_memory(bool accepted, uint32_t face) {
    memfd_ = session::create_connection_memory(context_.settings->geometry, &view_);
    if (memfd_ < 0) return smbdirect::fail(Reason::engine_resources);
    auto* memory = view_.memory;
    memory->connection_id = id_;
    memory->engine_id = context_.engine_id;
    memory->face = face_ = face;
    memory->accepted = accepted ? 1 : 0;
    memory->state.store(ConnectionState::connecting, std::memory_order_relaxed);
    return {};
}

Result<void> Driver::register_private_buffers() {
    const auto& settings = *context_.settings;
    const auto& limits = endpoint_->limits();
    sends_.resize(std::min(settings.send_queue, limits.max_send_wr));
    max_slots_ =
        std::min<uint32_t>(settings.geometry.receive_ring_entries, 2u * settings.stranger.receive_credit_max);
    receive_headers_ = kNegotiateBuffer;
    send_headers_ = receive_headers_ + max_slots_ * kHeaderStride;
    private_.resize(send_headers_ + sends_.size() * kHeaderStride);
    auto region = endpoint_->register_memory(private_.data(), private_.size(), fabric::access_none);
    if (!region) return std::unexpected(region.error());
    private_region_ = *region;
    return post_negotiate_receive();
}

void Driver::create_core(Role role, const fabric::PrivateData& peer) {
    own_kind_ = is_own_kind(peer);
    core_settings_ = own_kind_ ? context_.settings->own_kind : context_.settings->stranger;
    core_settings_.send_with_invalidate = endpoint_->limits().send_with_invalidate;
    core_settings_.half_close = abilities() & abilities_of(peer) & knows_half_close;
    if (is_same_fabric(peer, endpoint_->fabric_name())) {
        endpoint_->peer_is_own_kind();
        fit_to_wire();
    }
    core_.emplace(role, core_settings_);
    core_->start(context_.loop->now());
}

// An explicit socket knows no half-close, as the kernel's do not.
uint8_t Driver::abilities() const { return face_ == 6 ? knows_half_close : 0; }

// A fragment that is little more than what the wire carries best is cut down to that.
void Driver::fit_to_wire() {
    const uint32_t preferred = endpoint_->limits().preferred_message;
    if (preferred < core_settings_.max_send_size / 2 || preferred >= core_settings_.max_send_size) return;
    core_settings_.max_send_size = core_settings_.max_receive_size = preferred / 8 * 8;
}

Result<void> Driver::start_connect(fabric::Fabric* fabric, const fabric::ConnectParameters& parameters,
                                   const sockaddr_storage& peer_shown, uint32_t face, int* a) {
    if (auto made = create_memory(false, face); !made) return made;
    if (auto paired = make_pair(true, a); !paired) return paired;
    fabric::ConnectParameters wanted = parameters;
    wanted.private_data = make_private_data(wanted.ird, wanted.ord, fabric->name(), abilities());
    wanted.send_queue = context_.settings->send_queue;
    wanted.receive_queue = context_.settings->stranger.receive_credit_max + 1;
    auto endpoint = fabric->connect(wanted, this);
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoint_ = std::move(*endpoint);
    view_.memory->peer = peer_shown;
    view_.memory->local = endpoint_->local_address();
    std::strncpy(view_.memory->fabric, endpoint_->fabric_name(), sizeof view_.memory->fabric - 1);
    return register_private_buffers();
}

Result<void> Driver::start_accept(std::unique_ptr<fabric::Endpoint> endpoint, const fabric::PrivateData& peer,
                                  const sockaddr_storage& local_shown, uint32_t face) {
    passive_ = true;
    endpoint_ = std::move(endpoint);
    local_shown_ = local_shown;
    face_ = face;
    if (auto registered = register_private_buffers(); !registered) return registered;
    create_core(Role::passive, peer);
    fabric::AcceptParameters parameters;
    // What the device can, where that is known yet, and no more than the peer says that it serves: MPA of
    // revision 1 tells nobody else.
    const auto& limits = endpoint_->limits();
    if (limits.max_ird) parameters.ird = std::min(parameters.ird, limits.max_ird);
    if (limits.max_ord) parameters.ord = std::min(parameters.ord, limits.max_ord);
    if (const uint32_t served = ird_of(peer))
        parameters.ord = static_cast<uint8_t>(std::min<uint32_t>(parameters.ord, served));
    // A peer that sent the 8 bytes alone gets an answer in kind; one that sent none expects none
    // [MS-SMBD] 6.2.
    if (has_ird_ord(peer)) {
        parameters.private_data =
            make_private_data(parameters.ird, parameters.ord, endpoint_->fabric_name(), abilities());
        if (!own_kind_) parameters.private_data.length = kIrdOrdLength;
    }
    auto accepted = endpoint_->accept(parameters, this);
    arm_timer();
    return accepted;
}

Result<void> Driver::make_pair(bool connecting, int* a) {
    session::MirrorPair pair;
    if (!session::make_mirror_pair(view_.memory, connecting, &pair))
        return smbdirect::fail(Reason::engine_resources);
    *a = pair.a;
    attach_mirror(pair.b);
    return {};
}

void Driver::adopt_b(int b) { attach_mirror(b); }

void Driver::attach_mirror(int b) {
    mirror_.attach(view_, b);
    context_.loop->watch(b, EPOLLIN | EPOLLRDHUP | EPOLLET, this);
    if (!program_told_ && !stream_end_told_) return;
    // The connection, or the peer's half of it, ended before the program accepted it. It has time to read
    // now.
    if (close_timer_) context_.loop->cancel_timer(std::exchange(close_timer_, 0));
    mirror_.announce(slots_.head(), bytes_published_);
    if (view_.memory->end.load() == End::orderly)
        mirror_.end_of_stream();
    else
        drop_mirror();
}

void Driver::proceed() {
    held_ = false;
    turn();
}

void Driver::give_up(Error error) {
    begin_end(error);
    endpoint_.reset();
    peer_gone_ = true;
    finish();
}

void Driver::refuse(Error error) {
    held_ = false;
    if (!counted_open_ || peer_gone_ || disconnecting_) return fail(error);
    // The peer thinks that it is connected: as with TCP, a reset tells it that nobody will ever accept it.
    end_for_program(error);
    program_gone_ = true;  // nobody will ever take it
    reset_peer();
    finish_when_drained();
}

// ---------------------------------------------------------------- events

void Driver::on_established(const fabric::PrivateData& peer) {
    if (finished_ || disconnecting_) return;
    if (!passive_) {
        create_core(Role::active, peer);
        view_.memory->local = endpoint_->local_address();
    }
    core_->on_transport_established(context_.loop->now());
    if (passive_ && core_->termination())
        trace_violation();  // the request that came before this is refused; work() sees it
    else
        settle_sizes();
    turn();
}

void Driver::on_completions() { turn(); }

void Driver::on_ready(uint32_t epoll_events) {
    if (epoll_events & EPOLLHUP) program_gone_ = true;
    b_has_news_ = true;
    turn();
}

void Driver::on_disconnected(Error error) {
    if (finished_) return;
    take_completions();  // what came before the end is delivered before it
    peer_gone_ = true;
    if (core_) core_->on_transport_lost();
    if (view_.memory) pump_inbound();
    if (mirror_.b() >= 0) mirror_.announce(slots_.head(), bytes_published_);
    held_ = false;
    if (error.errnum == 0 && stream_is_cut_off()) error.errnum = ECONNRESET;
    // What came before an orderly end comes before it, though it waits for the program to read and make room.
    if (error.errnum == 0 && more_is_to_come())
        end_to_tell_ = error;
    else
        end_for_program(error);
    turn();
}

// An orderly end by the peer while our stream is still on its way: over TCP its host answers what comes now
// with a reset. Whoever waits for room waits in vain.
bool Driver::stream_is_cut_off() {
    uint64_t head = transmit_head_;
    return stream_lost_ ||
           (mirror_.b() >= 0 && mirror_.read_transmit_head(&head) && head != transmit_released_);
}

void Driver::on_timer() {
    timer_ = 0;
    if (finished_ || !core_ || peer_gone_) return;
    take_completions();  // what came while this process stood still is judged before the time that has passed
    if (!finished_ && !disconnecting_ && !core_->termination()) core_->on_timer(context_.loop->now());
    turn();
}

void Driver::arm_timer() {
    if (!core_ || finished_ || peer_gone_) return;
    auto deadline = core_->deadline();
    // A deadline that moved later needs nothing: the timer looks again when it fires.
    if (!deadline || (timer_ && timer_deadline_ <= *deadline)) return;
    if (timer_) context_.loop->cancel_timer(timer_);
    timer_deadline_ = *deadline;
    timer_ = context_.loop->add_timer(*deadline, [this] { on_timer(); });
}

// A fragment is filled before it goes. Where the program pauses in the middle of a message, as if it were
// corked, the peer gets what there is after a moment; strangers are spared that.
void Driver::arm_push_timer() {
    constexpr fabric::Nanoseconds kMoment = 20'000'000;
    if (push_timer_ || !own_kind_ || finished_ || disconnecting_ || !core_ || !core_->is_held_back()) return;
    push_timer_ = context_.loop->add_timer(context_.loop->now() + kMoment, [this] {
        push_timer_ = 0;
        core_->push();
        turn();
    });
}

// ---------------------------------------------------------------- the turn

void Driver::turn() {
    if (finished_ || in_turn_) return;
    in_turn_ = true;
    const uint64_t moved = transmit_head_ + bytes_published_;
    // A hostile program can always have something new: after some rounds the others get their turn first.
    int rounds_left = 16;
    do {
        if (--rounds_left == 0) {
            context_.loop->defer([alive = std::weak_ptr<int>(alive_), this] {
                if (!alive.expired()) turn();
            });
            break;
        }
        if (mirror_.b() >= 0 && !mirror_.begin_turn(std::exchange(b_has_news_, false))) {
            fail_by_program(Reason::foreign_data_call);
            break;
        }
        if (!work()) break;
    } while (!may_rest());
    in_turn_ = false;
    spin_after_small_messages(moved);
    if (program_gone_ || write_shut_ || peer_gone_) finish_when_drained();
    arm_timer();
    arm_push_timer();
}

// The doorbell stays off until the loop sleeps.
bool Driver::may_rest() {
    if (mirror_.has_news()) return false;
    if (mirror_.b() >= 0) context_.loop->look_at(this);
    return true;
}

// A request or a response went through, no bulk: the next one is likely to be near. With as many connections
// busy as there are cores, looking on would only take time from those who make it.
void Driver::spin_after_small_messages(uint64_t moved_before) {
    constexpr uint64_t kSmall = 16 * 1024;
    const uint64_t moved = transmit_head_ + bytes_published_ - moved_before;
    auto& guard = *context_.spin_guard;
    const auto now = context_.loop->now();
    if (moved > kSmall) guard.saw_bulk(now);
    const auto& chosen = context_.settings->spin_us;
    if (moved == 0 || moved > kSmall || chosen == 0u) return;
    if (context_.counters->connections_open <= kMostForSpinning && guard.allows(now))
        context_.loop->spin(chosen ? int64_t{*chosen} * 1000 : guard.usual_wait());
}

// False: the connection failed on the way, nothing more is to be done in this turn.
bool Driver::work() {
    take_completions();
    if (view_.memory) {
        look_at_program();
        if (!disconnecting_ && !pump_inbound()) return false;
        if (std::exchange(sweep_due_, false) && mirror_.b() >= 0 && !mirror_.sweep()) {
            fail_by_program(Reason::foreign_data_call);
            return false;
        }
        if (mirror_.b() >= 0) mirror_.announce(slots_.head(), bytes_published_);
        if (peer_ended_ && inbound_.empty() && !program_told_) tell_end_of_stream();
        if (end_to_tell_ && !more_is_to_come()) end_for_program(*std::exchange(end_to_tell_, std::nullopt));
    }
    if (!core_ || disconnecting_) return true;
    if (peer_gone_) return answer_sends_after_end();
    if (auto termination = core_->termination()) {
        pump();  // a failure response may be due [MS-SMBD] 3.1.5.6
        const bool by_peer = termination->reason == Reason::protocol_violation ||
                             termination->reason == Reason::receive_overrun;
        if (by_peer) ++context_.counters->protocol_violations;
        fail(*termination);
        return false;
    }
    if (held_) return true;
    replenish();
    if (!take_program_stream() || !send_program_stream()) return false;
    if (!counted_open_ && established()) settle_established();
    if (mirror_.b() >= 0) mirror_.release(transmit_released_);
    return true;
}

// The program sends although the peer has ended the connection: TCP's answer is a reset, with EPIPE as the
// error.
bool Driver::answer_sends_after_end() {
    if (mirror_.b() >= 0)
        mirror_.request_return_at(end_to_tell_ && slots_.published_count() != 0 ? half_read()
                                                                                : last_byte_read());
    uint64_t head = transmit_head_;
    if (mirror_.b() < 0 || !mirror_.read_transmit_head(&head) || head == transmit_head_) return true;
    view_.memory->error.store(EPIPE);
    view_.memory->end.store(End::reset);
    drop_mirror();
    return true;
}

void Driver::look_at_program() {
    if (mirror_.b() < 0) return;
    uint64_t tail = 0;
    if (!mirror_.read_receive_tail(&tail)) return fail_by_program(Reason::shared_memory_violation);
    slots_.consumed_up_to(tail, [this](uint32_t block) { extents_.give_back(block - slots_.count()); });
    if (!write_shut_ && (view_.memory->shutdown.load() & session::shutdown_write)) {
        write_shut_ = true;
        mirror_.switch_out_on();
    }
}

void Driver::settle_established() {
    counted_open_ = true;
    ++context_.counters->connections_total;
    ++context_.counters->connections_open;
    const std::string_view fabric = endpoint_->fabric_name();
    ++(fabric == "memory"  ? context_.counters->connections_memory
       : fabric == "iwarp" ? context_.counters->connections_iwarp
                           : context_.counters->connections_verbs);
    view_.memory->max_fragmented_send_size.store(core_->negotiated().max_fragmented_send_size);
    view_.memory->half_close.store(core_settings_.half_close);
    view_.memory->state.store(ConnectionState::established);
    if (!passive_) mirror_.switch_out_on();
    trace_negotiated();
}

void Driver::sweep() {
    if (finished_ || !view_.memory) return;
    sweep_due_ = true;
    turn();
    if (finished_) return;
    if (!received_since_sweep_ && ceiling_ > initial_ceiling_) {
        ceiling_ = initial_ceiling_;
        if (core_) core_->set_receive_ceiling(ceiling_);
        drop_idle_receive();
        give_back_idle_memory();
    }
    if (transmit_head_ == transmit_head_at_sweep_) drop_idle_transmit();
    drop_idle_extents();
    transmit_head_at_sweep_ = transmit_head_;
    received_since_sweep_ = false;
}

}  // namespace smbdirect::engine
