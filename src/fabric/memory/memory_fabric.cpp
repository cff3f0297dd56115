#include "fabric/memory/memory_fabric.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "fabric/address.hpp"
#include "fabric/soft/endpoint.hpp"

namespace smbdirect::fabric {
namespace {

using soft::PostedReceive;
using soft::SendWork;

constexpr uint32_t largest_message = 1u << 30;
constexpr uint16_t first_ephemeral_port = 49152;

// Copies `length` bytes from the work's elements to `to`, or from `from` to them.
void gather(const SendWork& work, uint32_t offset, std::byte* to, uint32_t length) {
    if (work.is_inline) {
        std::memcpy(to, work.inline_bytes.data() + offset, length);
        return;
    }
    while (length) {
        const Sge piece = soft::piece_at(work.list(), offset);
        const uint32_t n = std::min(length, piece.length);
        std::memcpy(to, piece.address, n);
        to += n, offset += n, length -= n;
    }
}

void scatter(std::span<const Sge> list, const std::byte* from, uint32_t length) {
    uint32_t offset = 0;
    while (offset < length) {
        const Sge piece = soft::piece_at(list, offset);
        const uint32_t n = std::min(length - offset, piece.length);
        std::memcpy(piece.address, from + offset, n);
        offset += n;
    }
}

class MemoryFabric;

class MemoryEndpoint final : public soft::SoftEndpoint {
  public:
    MemoryEndpoint(EventLoop& loop, bool passive, sockaddr_storage local, sockaddr_storage remote);
    ~MemoryEndpoint() override;

    static void introduce(MemoryEndpoint& active, MemoryEndpoint& passive);
    void start_connecting(const ConnectParameters& parameters, EndpointEvents* events);

    Result<void> accept(const AcceptParameters& parameters, EndpointEvents* events) override;
    void reject(const PrivateData&) override;
    void flush() override;
    void disconnect() override;
    void abort() override;
    const char* fabric_name() const override { return "memory"; }
    uint64_t unacknowledged_bytes() const override { return 0; }

    bool has_peer() const { return peer_; }

    PrivateData request_data;  // active: what the listener is told

  private:
    // Ends both sides.
    void part(Error mine, Error theirs);
    void stop_timer();
    void become_established(uint8_t ird, uint8_t ord, const PrivateData& peer);
    bool run(SendWork& work);
    bool run_send(const SendWork& work);
    bool run_write(const SendWork& work);
    bool run_read(SendWork& work);
    // The peer's rule was broken by us: what a Terminate does on a wire.
    bool violated(Reason at_peer);

    MemoryEndpoint* peer_ = nullptr;
    bool passive_;
    uint8_t ird_ = 0, ord_ = 0;  // active: as offered
    uint64_t next_ = 0;          // number of the next send to carry out
    uint64_t connect_timer_ = 0;
};

MemoryEndpoint::MemoryEndpoint(EventLoop& loop, bool passive, sockaddr_storage local, sockaddr_storage remote)
    : SoftEndpoint(loop), passive_(passive) {
    local_ = local;
    remote_ = remote;
    limits_.max_message = largest_message;
}

MemoryEndpoint::~MemoryEndpoint() {
    stop_timer();
    const bool refused = passive_ && phase_ == Phase::setup;
    part({Reason::local_abort, ECONNABORTED},
         refused ? Error{Reason::peer_rejected, ECONNREFUSED} : Error{Reason::peer_reset, ECONNRESET});
}

void MemoryEndpoint::introduce(MemoryEndpoint& active, MemoryEndpoint& passive) {
    active.peer_ = &passive;
    passive.peer_ = &active;
}

void MemoryEndpoint::start_connecting(const ConnectParameters& parameters, EndpointEvents* events) {
    request_data = parameters.private_data;
    ird_ = parameters.ird;
    ord_ = parameters.ord;
    set_depths(parameters.send_queue, parameters.receive_queue);
    set_events(events);
    connect_timer_ = loop_.add_timer(loop_.now() + parameters.timeout, [this] {
        connect_timer_ = 0;
        part({Reason::connect_timeout, ETIMEDOUT}, {Reason::peer_reset, ECONNRESET});
    });
}

void MemoryEndpoint::stop_timer() {
    loop_.cancel_timer(connect_timer_);
    connect_timer_ = 0;
}

void MemoryEndpoint::become_established(uint8_t ird, uint8_t ord, const PrivateData& peer) {
    stop_timer();
    limits_.max_ird = ird;
    limits_.max_ord = ord;
    announce_established(peer.view());
}

Result<void> MemoryEndpoint::accept(const AcceptParameters& parameters, EndpointEvents* events) {
    if (!passive_ || phase_ == Phase::established) return fail(Reason::engine_refused, EINVAL);
    if (!peer_ || phase_ != Phase::setup) return fail(Reason::peer_closed, ECONNRESET);
    set_events(events);
    const uint8_t ird = std::min(parameters.ird, peer_->ord_), ord = std::min(parameters.ord, peer_->ird_);
    peer_->become_established(ord, ird, parameters.private_data);
    become_established(ird, ord, peer_->request_data);
    return {};
}

void MemoryEndpoint::reject(const PrivateData&) {
    if (!passive_ || phase_ != Phase::setup) return;
    part({Reason::local_close, 0}, {Reason::peer_rejected, ECONNREFUSED});
}

void MemoryEndpoint::part(Error mine, Error theirs) {
    MemoryEndpoint* peer = std::exchange(peer_, nullptr);
    if (peer) {
        peer->peer_ = nullptr;
        peer->stop_timer();
        peer->die(theirs);
    }
    stop_timer();
    die(mine);
}

void MemoryEndpoint::disconnect() {
    flush();
    part({Reason::local_close, 0}, {Reason::peer_closed, 0});
}

void MemoryEndpoint::abort() { part({Reason::local_abort, ECONNABORTED}, {Reason::peer_reset, ECONNRESET}); }

void MemoryEndpoint::flush() {
    while (phase_ == Phase::established && next_ != sends_.end_number()) {
        SendWork& work = sends_[next_++];
        // Sends and writes are done when handed over, whatever the peer thinks of them, as on a wire.
        work.done = work.opcode != Opcode::rdma_read;
        if (!run(work)) return;
        work.done = true;
    }
    retire_sends();
}

bool MemoryEndpoint::run(SendWork& work) {
    switch (work.opcode) {
        case Opcode::rdma_write:
            return run_write(work);
        case Opcode::rdma_read:
            return run_read(work);
        default:
            return run_send(work);
    }
}

bool MemoryEndpoint::violated(Reason at_peer) {
    part({Reason::remote_terminate, ECONNRESET}, {at_peer, ECONNRESET});
    return false;
}

bool MemoryEndpoint::run_send(const SendWork& work) {
    auto& receives = peer_->receives_;
    if (receives.empty() || receives.front().capacity < work.length) return violated(Reason::receive_overrun);
    const PostedReceive receive = receives.front();
    for (uint32_t done = 0; done < work.length;) {
        const Sge piece = soft::piece_at(receive.list(), done);
        const uint32_t n = std::min(work.length - done, piece.length);
        gather(work, done, piece.address, n);
        done += n;
    }
    std::optional<uint32_t> invalidated;
    if (work.opcode == Opcode::send_with_invalidate) {
        if (!peer_->regions_.invalidate(work.invalidate_rkey))
            return violated(Reason::remote_access_violation);
        invalidated = work.invalidate_rkey;
    }
    receives.pop();
    peer_->complete_receive(receive, work.length, invalidated);
    return true;
}

bool MemoryEndpoint::run_write(const SendWork& work) {
    if (work.length == 0) return true;  // RFC 5041 5: nothing is validated for zero bytes
    const auto to =
        peer_->regions_.remote(work.remote_rkey, work.remote_offset, work.length, access_remote_write);
    if (!to) return violated(Reason::remote_access_violation);
    gather(work, 0, *to, work.length);
    return true;
}

bool MemoryEndpoint::run_read(SendWork& work) {
    if (work.length == 0) return true;
    const auto from =
        peer_->regions_.remote(work.remote_rkey, work.remote_offset, work.length, access_remote_read);
    if (!from) {
        work.status = Status::remote_access_error;
        return violated(Reason::remote_access_violation);
    }
    scatter(work.list(), *from, work.length);
    return true;
}

// ---- listening and connecting

class MemoryListener final : public Listener {
  public:
    MemoryListener(MemoryFabric& fabric, sockaddr_storage address, const ListenParameters& parameters,
                   ListenerEvents* events)
        : fabric_(fabric), address_(address), parameters_(parameters), events_(events) {}
    ~MemoryListener() override;

    sockaddr_storage local_address() const override { return address_; }
    int fd() const override { return -1; }
    ListenerEvents* events() const { return events_; }
    const ListenParameters& parameters() const { return parameters_; }

    bool serves(const sockaddr_storage& target) const {
        return port_of(address_) == port_of(target) && covers(address_, parameters_.v6_only, target);
    }

  private:
    MemoryFabric& fabric_;
    sockaddr_storage address_;
    const ListenParameters parameters_;
    ListenerEvents* events_;
};

class MemoryFabric final : public Fabric {
  public:
    explicit MemoryFabric(EventLoop& loop) : loop_(loop), alive_(std::make_shared<bool>(true)) {}
    ~MemoryFabric() override { *alive_ = false; }

    std::string_view name() const override { return "memory"; }
    Result<std::unique_ptr<Listener>> listen(const ListenParameters& parameters,
                                             ListenerEvents* events) override;
    Result<std::unique_ptr<Endpoint>> connect(const ConnectParameters& parameters,
                                              EndpointEvents* events) override;

    void forget(const MemoryListener* listener) { std::erase(listeners_, listener); }

  private:
    MemoryListener* find(const sockaddr_storage& target) const;
    void deliver_request(std::unique_ptr<MemoryEndpoint> passive, const MemoryListener* listener,
                         const PrivateData& data);
    uint16_t ephemeral_port();

    EventLoop& loop_;
    std::shared_ptr<bool> alive_;
    std::vector<MemoryListener*> listeners_;
    uint16_t next_port_ = first_ephemeral_port;
};

MemoryListener::~MemoryListener() { fabric_.forget(this); }

uint16_t MemoryFabric::ephemeral_port() {
    const uint16_t port = next_port_;
    next_port_ = next_port_ == 65535 ? first_ephemeral_port : static_cast<uint16_t>(next_port_ + 1);
    return port;
}

MemoryListener* MemoryFabric::find(const sockaddr_storage& target) const {
    // One that names the address goes before one that takes any.
    MemoryListener* any = nullptr;
    for (MemoryListener* listener : listeners_) {
        if (!listener->serves(target)) continue;
        if (!is_any(listener->local_address())) return listener;
        any = listener;
    }
    return any;
}

Result<std::unique_ptr<Listener>> MemoryFabric::listen(const ListenParameters& parameters,
                                                       ListenerEvents* events) {
    sockaddr_storage address = parameters.address;
    if (address.ss_family != AF_INET && address.ss_family != AF_INET6) {
        return fail(Reason::listen_failed, EAFNOSUPPORT);
    }
    if (port_of(address) == 0) set_port(address, ephemeral_port());
    for (const MemoryListener* other : listeners_) {
        const auto theirs = other->local_address();
        if (port_of(theirs) == port_of(address) && theirs.ss_family == address.ss_family &&
            same_host(theirs, address)) {
            return fail(Reason::rdma_port_taken, EADDRINUSE);
        }
    }
    auto listener = std::make_unique<MemoryListener>(*this, address, parameters, events);
    listeners_.push_back(listener.get());
    return listener;
}

Result<std::unique_ptr<Endpoint>> MemoryFabric::connect(const ConnectParameters& parameters,
                                                        EndpointEvents* events) {
    MemoryListener* listener = find(parameters.remote);
    if (!listener) return fail(Reason::connect_refused, ECONNREFUSED);
    sockaddr_storage local = parameters.local;
    if (local.ss_family == AF_UNSPEC) {
        local = parameters.remote;
        set_port(local, 0);
    }
    if (port_of(local) == 0) set_port(local, ephemeral_port());

    auto active = std::make_unique<MemoryEndpoint>(loop_, false, local, parameters.remote);
    auto passive = std::make_unique<MemoryEndpoint>(loop_, true, parameters.remote, local);
    passive->set_depths(listener->parameters().send_queue, listener->parameters().receive_queue);
    MemoryEndpoint::introduce(*active, *passive);
    active->start_connecting(parameters, events);
    // std::function wants copies: the request travels in a shared box.
    auto box = std::make_shared<std::unique_ptr<MemoryEndpoint>>(std::move(passive));
    loop_.defer([this, alive = alive_, listener, box, data = parameters.private_data] {
        if (*alive) deliver_request(std::move(*box), listener, data);
    });
    return active;
}

void MemoryFabric::deliver_request(std::unique_ptr<MemoryEndpoint> passive, const MemoryListener* listener,
                                   const PrivateData& data) {
    if (!passive->has_peer()) return;
    // The listener may have gone meanwhile; then the destructor of the endpoint rejects.
    if (std::find(listeners_.begin(), listeners_.end(), listener) == listeners_.end()) return;
    listener->events()->on_request(std::move(passive), data);
}

}  // namespace

std::unique_ptr<Fabric> make_memory_fabric(EventLoop& loop) { return std::make_unique<MemoryFabric>(loop); }

}  // namespace smbdirect::fabric
