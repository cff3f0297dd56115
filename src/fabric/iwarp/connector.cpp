#include "fabric/iwarp/connector.hpp"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

#include "fabric/address.hpp"

namespace smbdirect::fabric::iwarp {

Connector::Connector(Core& core, const ConnectParameters& parameters, Done done)
    : core_(core), parameters_(parameters), done_(std::move(done)), revision_(core.settings.revision) {
    wishes_.ird = parameters.ird;
    wishes_.ord = parameters.ord;
}

Connector::~Connector() {
    core_.loop.cancel_timer(timer_);
    close();
}

void Connector::close() {
    if (socket_) core_.loop.unwatch(socket_.fd(), this);
    socket_.close();
}

Result<void> Connector::start() {
    if (auto opened = open(); !opened) return opened;
    timer_ = core_.loop.add_timer(core_.loop.now() + parameters_.timeout, [this] {
        timer_ = 0;
        finish(fail(Reason::connect_timeout, ETIMEDOUT));
    });
    deadline_ = core_.loop.now() + parameters_.timeout;
    return {};
}

// Who accepts a TCP connection and then says nothing does not speak MPA, and is known sooner than a lost SYN.
void Connector::arm_reply_timer() {
    core_.loop.cancel_timer(timer_);
    const Nanoseconds limit = std::min(deadline_, core_.loop.now() + core_.settings.reply_timeout);
    timer_ = core_.loop.add_timer(limit, [this] {
        timer_ = 0;
        finish(fail(Reason::peer_not_iwarp, ETIMEDOUT));
    });
}

Result<void> Connector::open() {
    step_ = Step::connecting;
    have_ = 0;
    socket_ = open_socket(parameters_.remote.ss_family);
    if (!socket_) return std::unexpected(connect_error(errno));
    tune_buffers(socket_.fd(), core_.settings);
    tune_connection(socket_.fd(), core_.settings);
    if (parameters_.local.ss_family != AF_UNSPEC) {
        const auto* local = reinterpret_cast<const sockaddr*>(&parameters_.local);
        if (bind(socket_.fd(), local, address_size(parameters_.local)) != 0) {
            return fail(Reason::local_port_or_address);
        }
    }
    const auto* remote = reinterpret_cast<const sockaddr*>(&parameters_.remote);
    if (::connect(socket_.fd(), remote, address_size(parameters_.remote)) != 0 && errno != EINPROGRESS) {
        return std::unexpected(connect_error(errno));
    }
    if (!core_.loop.watch(socket_.fd(), EPOLLOUT, this)) return fail(Reason::engine_resources);
    return {};
}

void Connector::on_ready(uint32_t) {
    if (step_ == Step::awaiting_reply) return read_reply();
    if (const int error = pending_error(socket_.fd())) return finish(std::unexpected(connect_error(error)));
    wishes_.crc = wants_crc(socket_.fd(), core_.settings);
    send_request();
}

void Connector::send_request() {
    const auto request = make_request(wishes_, revision_, parameters_.private_data.view());
    std::array<std::byte, wire::mpa_max_frame> bytes;
    const size_t size = wire::build_mpa(request, bytes);
    const ssize_t sent = send(socket_.fd(), bytes.data(), size, MSG_NOSIGNAL);
    // The first bytes of a connection always fit the send buffer.
    if (sent != static_cast<ssize_t>(size)) return on_silent_close(sent < 0 ? errno : EPIPE);
    step_ = Step::awaiting_reply;
    arm_reply_timer();
    if (!core_.loop.modify(socket_.fd(), EPOLLIN | EPOLLRDHUP, this)) finish(fail(Reason::engine_resources));
}

// Reads the Reply and not a byte more: what follows it belongs to the stream.
void Connector::read_reply() {
    for (;;) {
        size_t want = wire::mpa_header_size;
        if (have_ >= want)
            want += std::to_integer<size_t>(buffer_[18]) << 8 | std::to_integer<size_t>(buffer_[19]);
        if (want > buffer_.size()) return finish(fail(Reason::mpa_negotiation, ECONNREFUSED));
        if (have_ < want) {
            const ssize_t n = recv(socket_.fd(), buffer_.data() + have_, want - have_, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && errno == EAGAIN) return;
            if (n <= 0) return on_silent_close(n < 0 ? errno : 0);
            have_ += static_cast<size_t>(n);
        }
        const auto reply = wire::parse_mpa(wire::MpaKind::reply, {buffer_.data(), have_}, nullptr);
        if (reply) return on_reply(*reply);
        switch (reply.error()) {
            case wire::MpaError::incomplete:
                continue;
            case wire::MpaError::wrong_key:
                return finish(fail(Reason::peer_not_iwarp, ECONNREFUSED));
            default:
                return finish(fail(Reason::mpa_negotiation, ECONNREFUSED));
        }
    }
}

void Connector::on_reply(const wire::MpaFrame& reply) {
    auto agreement = judge_reply(reply, wishes_, revision_);
    if (!agreement) {
        const Refusal& refusal = agreement.error();
        if (refusal.terminate) {
            std::byte bytes[128];
            const size_t size =
                build_terminate_fpdu(*refusal.terminate, 0, {}, wishes_.crc || reply.crc, bytes);
            [[maybe_unused]] const ssize_t sent = send(socket_.fd(), bytes, size, MSG_NOSIGNAL);
        }
        return finish(std::unexpected(refusal.error));
    }
    core_.loop.unwatch(socket_.fd(), this);
    Connected connected{std::move(socket_), *agreement, {}};
    const size_t length = std::min(reply.private_data.size(), connected.peer.bytes.size());
    std::copy_n(reply.private_data.begin(), length, connected.peer.bytes.begin());
    connected.peer.length = static_cast<uint8_t>(length);
    finish(std::move(connected));
}

void Connector::on_silent_close(int errnum) {
    const bool closed = errnum == 0 || errnum == ECONNRESET || errnum == EPIPE;
    if (closed && have_ == 0 && revision_ > 1) {
        revision_ = 1;
        close();
        if (auto opened = open(); !opened) finish(std::unexpected(opened.error()));
        return;
    }
    if (!closed) return finish(std::unexpected(connect_error(errnum)));
    finish(fail(Reason::peer_not_iwarp, ECONNRESET));
}

void Connector::finish(Result<Connected> result) {
    core_.loop.cancel_timer(timer_);
    timer_ = 0;
    if (!result && socket_) {
        core_.loop.unwatch(socket_.fd(), this);
        core_.lingerer.take(std::move(socket_));
    }
    const Done done = std::move(done_);  // may destroy this object
    done(std::move(result));
}

}  // namespace smbdirect::fabric::iwarp
