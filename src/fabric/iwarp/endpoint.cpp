#include "fabric/iwarp/endpoint.hpp"

#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

namespace smbdirect::fabric::iwarp {
namespace {

constexpr uint32_t largest_message = 1u << 30;
constexpr uint32_t reading = EPOLLIN | EPOLLRDHUP;

// The largest prefix of the iovec that stays within `limit`: the tests' way to get partial reads and writes.
int clip(const iovec* from, int count, size_t limit, std::array<iovec, Batch::max_iov>& to) {
    int used = 0;
    while (used < count && limit) {
        to[static_cast<size_t>(used)] = {from[used].iov_base, std::min(from[used].iov_len, limit)};
        limit -= to[static_cast<size_t>(used++)].iov_len;
    }
    return used;
}

}  // namespace

IwarpEndpoint::IwarpEndpoint(Core& core)
    : SoftEndpoint(core.loop),
      core_(core),
      stream_{.regions = regions_, .receives = receives_, .sends = sends_},
      receiver_(stream_, *this, *core.staging),
      transmitter_(stream_, core.batches) {
    limits_.max_message = largest_message;
}

IwarpEndpoint::~IwarpEndpoint() {
    events_ = nullptr;
    if (passive_ && phase_ == Phase::setup) {
        reject({});
    } else if (phase_ != Phase::dead) {
        part({Reason::local_abort, ECONNABORTED}, Parting::reset);
    }
}

// ---- becoming a stream

Result<void> IwarpEndpoint::start_connecting(const ConnectParameters& parameters, EndpointEvents* events) {
    set_depths(parameters.send_queue, parameters.receive_queue);
    connector_ = std::make_unique<Connector>(
        core_, parameters, [this](Result<Connected> result) { on_connected(std::move(result)); });
    if (auto started = connector_->start(); !started) {
        connector_.reset();
        phase_ = Phase::dead;
        return started;
    }
    local_ = connector_->local_address();
    remote_ = parameters.remote;
    set_events(events);
    return {};
}

void IwarpEndpoint::on_connected(Result<Connected> result) {
    // The connector calls this as its last act, and goes now.
    const auto connector = std::move(connector_);
    if (!result) return die(result.error());
    socket_ = std::move(result->socket);
    begin_stream(result->agreement);
    transmitter_.queue_rtr(result->agreement.rtr);
    announce_established(result->peer.view());
    if (result->agreement.rtr != Rtr::none) write();
}

void IwarpEndpoint::take_request(Socket socket, std::span<const std::byte> request_bytes) {
    passive_ = true;
    socket_ = std::move(socket);
    std::copy(request_bytes.begin(), request_bytes.end(), request_bytes_.begin());
    request_ = *wire::parse_mpa(wire::MpaKind::request, std::span(request_bytes_).first(request_bytes.size()),
                                nullptr);
    local_ = local_address_of(socket_.fd());
    remote_ = remote_address_of(socket_.fd());
    set_mulpdu(mulpdu_of_path(socket_.fd()));
    watch(reading);
}

void IwarpEndpoint::begin_stream(const Agreement& agreement) {
    local_ = local_address_of(socket_.fd());
    remote_ = remote_address_of(socket_.fd());
    stream_.crc = agreement.crc;
    stream_.ird = agreement.ird;
    stream_.ord = agreement.ord;
    stream_.may_send = !passive_;
    if (!passive_) set_mulpdu(mulpdu_of_path(socket_.fd()));
    limits_.max_ird = agreement.ird;
    limits_.max_ord = agreement.ord;
    streaming_ = true;
    watch(reading);
}

void IwarpEndpoint::set_mulpdu(uint32_t mulpdu) {
    if (core_.settings.fpdu_limit) mulpdu = std::min(mulpdu, std::max(core_.settings.fpdu_limit, 128u));
    stream_.mulpdu = mulpdu;
    limits_.preferred_message = mulpdu - static_cast<uint32_t>(wire::untagged_header_size);
}

void IwarpEndpoint::peer_is_own_kind() { set_mulpdu(wire::max_mulpdu); }

Result<void> IwarpEndpoint::accept(const AcceptParameters& parameters, EndpointEvents* events) {
    if (!passive_ || phase_ == Phase::established) return fail(Reason::engine_refused, EINVAL);
    if (phase_ != Phase::setup) return fail(Reason::peer_closed, ECONNRESET);
    const Wishes wishes{
        .crc = wants_crc(socket_.fd(), core_.settings), .ird = parameters.ird, .ord = parameters.ord};
    const Answer answer = make_reply(request_, wishes, parameters.private_data.view());
    send_reply(answer.reply);
    if (phase_ != Phase::setup) return fail(Reason::peer_reset, ECONNRESET);
    begin_stream(answer.agreement);
    announce_established(request_.private_data);
    set_events(events);
    return {};
}

void IwarpEndpoint::reject(const PrivateData& data) {
    if (!passive_ || phase_ != Phase::setup) return;
    send_reply(make_rejection(request_, data.view()));
    part({Reason::local_close, 0}, Parting::fin);
}

void IwarpEndpoint::send_reply(const wire::MpaFrame& reply) {
    std::array<std::byte, wire::mpa_max_frame> bytes;
    const size_t size = wire::build_mpa(reply, bytes);
    // The first bytes of a connection always fit the send buffer.
    if (send(socket_.fd(), bytes.data(), size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) {
        part({Reason::peer_reset, ECONNRESET}, Parting::reset);
    }
}

// ---- the socket

void IwarpEndpoint::watch(uint32_t events) {
    if (events == watched_) return;
    const bool good =
        watched_ ? loop_.modify(socket_.fd(), events, this) : loop_.watch(socket_.fd(), events, this);
    if (!good) return part({Reason::engine_resources, ENOBUFS}, Parting::reset);
    watched_ = events;
}

ssize_t IwarpEndpoint::read_bytes(const iovec* iov, int count) {
    std::array<iovec, Batch::max_iov> clipped;
    if (core_.settings.io_limit) {
        count = clip(iov, count, core_.settings.io_limit, clipped);
        iov = clipped.data();
    }
    return readv(socket_.fd(), iov, count);
}

ssize_t IwarpEndpoint::write_bytes(const iovec* iov, int count) {
    std::array<iovec, Batch::max_iov> clipped;
    if (core_.settings.io_limit) {
        count = clip(iov, count, core_.settings.io_limit, clipped);
        iov = clipped.data();
    }
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(iov);
    message.msg_iovlen = static_cast<size_t>(count);
    // What is assembled together ends a TCP segment: FPDUs stay aligned (RFC 5044 4.5), as far as it is in
    // our hands.
    return sendmsg(socket_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_EOR);
}

void IwarpEndpoint::on_ready(uint32_t events) {
    if (!streaming_) {
        // Between Request and Reply the peer has nothing to say: an FPDU now would be one without an
        // agreement.
        return part({Reason::peer_closed, ECONNRESET}, Parting::reset);
    }
    if (events & ~EPOLLOUT) read();
    // A full socket is not tried again before it says that there is room.
    if (phase_ != Phase::dead && (!blocked_ || (events & EPOLLOUT))) write();
}

void IwarpEndpoint::read() {
    switch (receiver_.turn(*this)) {
        case Receiver::Turn::drained:
        case Receiver::Turn::more:
            return;  // level-triggered: the loop comes back
        case Receiver::Turn::end_of_stream:
            return on_end_of_stream();
        case Receiver::Turn::io_error:
            return part(stream_error(receiver_.io_errno()), Parting::reset);
        case Receiver::Turn::fault:
            if (receiver_.fault().reason == Reason::remote_terminate) return on_peer_terminate();
            return on_fault(receiver_.fault(), receiver_.fault_header());
    }
}

void IwarpEndpoint::write() {
    const auto turn = transmitter_.turn(*this);
    blocked_ = turn == Transmitter::Turn::blocked || turn == Transmitter::Turn::more;
    retire_sends();
    switch (turn) {
        case Transmitter::Turn::idle:
            if (phase_ == Phase::closing && sends_.empty())
                return part({Reason::local_close, 0}, Parting::fin);
            return watch(reading);
        case Transmitter::Turn::blocked:
        case Transmitter::Turn::more:
            return watch(reading | EPOLLOUT);
        case Transmitter::Turn::fault:
            return on_fault(transmitter_.fault(), {});
        case Transmitter::Turn::io_error:
            break;
    }
    // The peer has gone. What it sent before may still be here, and says why.
    const int error = transmitter_.io_errno();
    while (phase_ != Phase::dead) {
        const auto left = receiver_.turn(*this);
        if (left == Receiver::Turn::more) continue;
        if (left == Receiver::Turn::fault && receiver_.fault().reason == Reason::remote_terminate) {
            return on_peer_terminate();
        }
        if (left == Receiver::Turn::end_of_stream && error == EPIPE && receiver_.at_boundary()) {
            return part({Reason::peer_closed, 0}, Parting::fin);
        }
        return part(stream_error(error), Parting::reset);
    }
}

void IwarpEndpoint::flush() {
    if (streaming_ && phase_ == Phase::established && !blocked_) write();
}

void IwarpEndpoint::on_message(const soft::PostedReceive& receive, uint32_t length,
                               std::optional<uint32_t> invalidated) {
    complete_receive(receive, length, invalidated);
}

void IwarpEndpoint::on_read_done(uint64_t work) {
    if (work == no_work) return;
    sends_[work].done = true;
    retire_sends();
}

uint64_t IwarpEndpoint::unacknowledged_bytes() const {
    int queued = 0;
    if (socket_ && streaming_) ioctl(socket_.fd(), SIOCOUTQ, &queued);
    return transmitter_.untaken_bytes() + static_cast<uint64_t>(std::max(queued, 0));
}

// ---- the end

void IwarpEndpoint::disconnect() {
    if (phase_ == Phase::setup) {
        if (passive_) return reject({});
        return part({Reason::local_close, 0}, Parting::reset);
    }
    if (phase_ != Phase::established) return;
    phase_ = Phase::closing;
    write();
    if (phase_ == Phase::dead) return;
    close_timer_ = loop_.add_timer(loop_.now() + core_.settings.close_timeout, [this] {
        close_timer_ = 0;
        part({Reason::local_close, ETIMEDOUT}, Parting::reset);
    });
}

void IwarpEndpoint::abort() { part({Reason::local_abort, ECONNABORTED}, Parting::reset); }

void IwarpEndpoint::on_end_of_stream() {
    // siw and RNICs close both directions on a FIN; what we still had to send finds nobody.
    if (!receiver_.at_boundary()) return part({Reason::ddp_violation, ECONNRESET}, Parting::fin);
    part({Reason::peer_closed, 0}, Parting::fin);
}

void IwarpEndpoint::on_fault(const Fault& fault, std::span<const std::byte> header) {
    // First error wins: one Terminate, then silence (RFC 5040 6.2). In the middle of an FPDU it cannot be
    // said.
    if (!transmitter_.mid_stream() && stream_.may_send) {
        std::byte bytes[128];
        const size_t size = build_terminate_fpdu(fault.violation, 0, header, stream_.crc, bytes);
        [[maybe_unused]] const ssize_t sent = send(socket_.fd(), bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    part({fault.reason, ECONNRESET}, Parting::fin);
}

void IwarpEndpoint::on_peer_terminate() {
    // A protection error is about a read where one is outstanding; sends and writes have completed long ago.
    const wire::Violation why = receiver_.peer_violation();
    const bool protection = why.layer == 0 && why.type == 1;
    if (protection && !stream_.outbound_reads.empty() && stream_.outbound_reads.front().work != no_work) {
        sends_[stream_.outbound_reads.front().work].status = Status::remote_access_error;
    }
    part({Reason::remote_terminate, ECONNRESET}, Parting::fin);
}

void IwarpEndpoint::part(Error error, Parting how) {
    connector_.reset();
    loop_.cancel_timer(close_timer_);
    close_timer_ = 0;
    if (socket_) {
        if (watched_) loop_.unwatch(socket_.fd(), this);
        watched_ = 0;
        if (how == Parting::reset) {
            socket_.reset();
        } else {
            core_.lingerer.take(std::move(socket_));
        }
    }
    die(error);
}

}  // namespace smbdirect::fabric::iwarp
