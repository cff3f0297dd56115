#include "fabric/iwarp/listener.hpp"

#include <netinet/in.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "fabric/address.hpp"

namespace smbdirect::fabric::iwarp {
namespace {

constexpr int accepts_a_turn = 64;
constexpr Nanoseconds out_of_descriptors_pause = 100'000'000;

}  // namespace

class IwarpListener::HalfOpen final : public Watcher {
  public:
    HalfOpen(IwarpListener& owner, Socket socket)
        : owner_(owner), socket_(std::move(socket)), peer_(remote_address_of(socket_.fd())) {
        watched_ = loop().watch(socket_.fd(), EPOLLIN | EPOLLRDHUP, this);
        timer_ = loop().add_timer(loop().now() + owner_.core_.settings.request_timeout,
                                  [this] { owner_.drop(this); });
    }
    ~HalfOpen() {
        loop().cancel_timer(timer_);
        if (socket_) loop().unwatch(socket_.fd(), this);
    }

    bool watched() const { return watched_; }
    const sockaddr_storage& peer() const { return peer_; }
    std::span<const std::byte> bytes() const { return {buffer_.data(), have_}; }
    Socket release() {
        loop().unwatch(socket_.fd(), this);
        return std::move(socket_);
    }

    void on_ready(uint32_t) override {
        const ssize_t n = recv(socket_.fd(), buffer_.data() + have_, buffer_.size() - have_, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) return owner_.drop(this);
        have_ += static_cast<size_t>(n);
        size_t frame = 0;
        const auto request = wire::parse_mpa(wire::MpaKind::request, bytes(), &frame);
        if (!request && request.error() == wire::MpaError::incomplete) return;
        if (!request && request.error() == wire::MpaError::words_missing) {
            return refuse({.revision = std::to_integer<uint8_t>(buffer_[17])});
        }
        // RFC 5044 7.1.2: nothing may follow the Request before our Reply.
        if (!request || frame != have_) {
            release().reset();
            return owner_.drop(this);
        }
        switch (judge_request(*request)) {
            case Verdict::close:
                return owner_.drop(this);
            case Verdict::reject:
                return refuse(*request);
            case Verdict::acceptable:
                return owner_.on_request(this);
        }
    }

  private:
    EventLoop& loop() const { return owner_.core_.loop; }

    void refuse(const wire::MpaFrame& request) {
        std::array<std::byte, wire::mpa_max_frame> out;
        const size_t size = wire::build_mpa(make_rejection(request, {}), out);
        [[maybe_unused]] const ssize_t sent = send(socket_.fd(), out.data(), size, MSG_NOSIGNAL);
        owner_.drop(this);
    }

    IwarpListener& owner_;
    Socket socket_;
    sockaddr_storage peer_;
    std::array<std::byte, wire::mpa_max_frame + 1>
        buffer_;  // one more: shows what is glued behind the longest frame
    size_t have_ = 0;
    uint64_t timer_ = 0;
    bool watched_ = false;
};

IwarpListener::IwarpListener(Core& core, ListenerEvents* events) : core_(core), events_(events) {}

IwarpListener::~IwarpListener() {
    core_.loop.cancel_timer(pause_timer_);
    half_open_.clear();
    if (fd() >= 0) core_.loop.unwatch(fd(), this);
}

Result<void> IwarpListener::start(const ListenParameters& parameters) {
    send_queue_ = parameters.send_queue;
    receive_queue_ = parameters.receive_queue;
    if (parameters.inherited_fd >= 0) {
        inherited_ = parameters.inherited_fd;
    } else {
        socket_ = open_socket(parameters.address.ss_family);
        if (!socket_) return fail(Reason::listen_failed);
        const int on = 1, v6_only = parameters.v6_only;
        setsockopt(socket_.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (parameters.address.ss_family == AF_INET6) {
            setsockopt(socket_.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof v6_only);
        }
        tune_buffers(socket_.fd(), core_.settings);  // inherited by what is accepted
        const auto* address = reinterpret_cast<const sockaddr*>(&parameters.address);
        if (bind(socket_.fd(), address, address_size(parameters.address)) != 0 ||
            listen(socket_.fd(), parameters.backlog) != 0) {
            switch (errno) {
                case EADDRINUSE:
                    return fail(Reason::rdma_port_taken);
                case EACCES:
                case EPERM:
                    return fail(Reason::rdma_port_denied);
                default:
                    return fail(Reason::listen_failed);
            }
        }
    }
    if (!core_.loop.watch(fd(), EPOLLIN, this)) return fail(Reason::listen_failed);
    return {};
}

void IwarpListener::on_ready(uint32_t) {
    for (int i = 0; i < accepts_a_turn; ++i) {
        Socket socket(accept4(fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (socket) {
            take(std::move(socket));
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) return pause();
        if (errno == EAGAIN) return;
        // Anything else is the fate of one connection: go on with the next.
    }
}

// Out of descriptors: the backlog waits, and the loop must not spin on it.
void IwarpListener::pause() {
    if (pause_timer_) return;
    core_.loop.modify(fd(), 0, this);
    pause_timer_ = core_.loop.add_timer(core_.loop.now() + out_of_descriptors_pause, [this] {
        pause_timer_ = 0;
        core_.loop.modify(fd(), EPOLLIN, this);
    });
}

// A flood of silent connections pushes out its own oldest: neither other peers nor, for long, new ones are
// locked out.
void IwarpListener::make_room(const sockaddr_storage& peer) {
    const auto same_peer = [&](const auto& other) { return same_host(other->peer(), peer); };
    const auto same = std::count_if(half_open_.begin(), half_open_.end(), same_peer);
    if (static_cast<unsigned>(same) >= core_.settings.half_open_per_peer) {
        half_open_.erase(std::find_if(half_open_.begin(), half_open_.end(), same_peer));
    } else if (half_open_.size() >= core_.settings.half_open) {
        half_open_.pop_front();
    }
}

void IwarpListener::take(Socket socket) {
    tune_connection(socket.fd(), core_.settings);
    make_room(remote_address_of(socket.fd()));
    auto connection = std::make_unique<HalfOpen>(*this, std::move(socket));
    if (connection->watched()) half_open_.push_back(std::move(connection));
}

void IwarpListener::drop(HalfOpen* connection) {
    half_open_.remove_if([connection](const auto& other) { return other.get() == connection; });
}

void IwarpListener::on_request(HalfOpen* connection) {
    auto endpoint = std::make_unique<IwarpEndpoint>(core_);
    endpoint->set_depths(send_queue_, receive_queue_);
    endpoint->take_request(connection->release(), connection->bytes());
    drop(connection);
    PrivateData peer;
    const auto data = endpoint->request().private_data;
    const size_t length = std::min(data.size(), peer.bytes.size());
    std::copy_n(data.begin(), length, peer.bytes.begin());
    peer.length = static_cast<uint8_t>(length);
    events_->on_request(std::move(endpoint), peer);
}

}  // namespace smbdirect::fabric::iwarp
