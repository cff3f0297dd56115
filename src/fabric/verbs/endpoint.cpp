// The life of a connection: resolution, connection, acceptance, and its end.
#include "fabric/verbs/endpoint.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "fabric/address.hpp"

namespace smbdirect::fabric::verbs {

// The arguments of rdma_connect(), alive as long as the call.
struct ConnectCall {
    std::shared_ptr<Resources> resources;
    rdma_conn_param parameters{};
    PrivateData private_data;
    int error = 0;
    bool abandoned = false;  // the endpoint has gone on without it; touched on the loop's thread only

    void run() {
        parameters.private_data = private_data.bytes.data();
        parameters.private_data_len = private_data.length;
        error = rdma_connect(resources->id.get(), &parameters) == 0 ? 0 : errno;
    }
};

namespace {

constexpr uint8_t kRetries = 7, kRnrRetries = 6;  // 7 would be for ever: a peer without receives holds us up
constexpr Nanoseconds kNeighbourTimeout = 3'500'000'000;  // TCP asks three times, a second each
constexpr uint32_t kRegistrationUnit = 32 * 1024;
constexpr int kMostDepth = 255;

constexpr int kRejectInvalidServiceId =
    8;  // InfiniBand's reason of a rejection where nobody listens (IBA 12.6.7.2)

uint8_t depth_within(int wanted, int most) {
    return static_cast<uint8_t>(std::clamp(wanted, 0, std::clamp(most, 0, kMostDepth)));
}

// A connection that could not be made, as TCP would say it.
Error connect_failure(int errnum) {
    switch (errnum) {
        case ECONNREFUSED:
            return {Reason::connect_refused, ECONNREFUSED};
        case ETIMEDOUT:
            return {Reason::connect_timeout, ETIMEDOUT};
        case ECONNRESET:
            return {Reason::peer_rejected, ECONNREFUSED};
        case ENETUNREACH:
        case EHOSTUNREACH:
        case EHOSTDOWN:
        case EACCES:
        case ENODEV:
            return {Reason::connect_unreachable, errnum == ENODEV ? EHOSTUNREACH : errnum};
        case EADDRINUSE:
        case EADDRNOTAVAIL:
            return {Reason::local_port_or_address, errnum};
        default:
            return {Reason::transport_error, errnum > 0 ? errnum : ECONNREFUSED};
    }
}

Error rejection(const CmEvent& event, bool iwarp) {
    if (iwarp) return connect_failure(event.status < 0 ? -event.status : ECONNRESET);
    if (event.status == kRejectInvalidServiceId) return {Reason::connect_refused, ECONNREFUSED};
    return {Reason::peer_rejected, ECONNREFUSED};
}

void destroy_slowly(Core& core, std::shared_ptr<Resources> resources) {
    if (core.background.run([resources] { resources->destroy(); }, [resources] {}) == 0) resources->destroy();
}

}  // namespace

VerbsEndpoint::VerbsEndpoint(Core& core) : core_(core), resources_(std::make_shared<Resources>()) {}

VerbsEndpoint::~VerbsEndpoint() {
    phase_ = Phase::dead;
    release();
}

// ---------------------------------------------------------------- becoming a connection

Result<void> VerbsEndpoint::adopt(QueueDepths depths) {
    if (auto made = resources_->create_queue_pair(core_, depths, this); !made) return made;
    const Device& device = *resources_->device;
    resources_->device->add_user(this);
    name_ = std::string("verbs:") + device.name();
    const auto& cap = resources_->capabilities;
    limits_.max_sge = std::min<uint32_t>({cap.max_send_sge, cap.max_recv_sge, kMostSges});
    limits_.max_read_sge = std::min<uint32_t>(
        limits_.max_sge, static_cast<uint32_t>(std::max(device.attributes().max_sge_rd, 1)));
    limits_.max_send_wr = cap.max_send_wr;
    limits_.max_recv_wr = cap.max_recv_wr;
    limits_.max_inline = cap.max_inline_data;
    limits_.max_message = device.max_message();
    limits_.max_ird = depth_within(wanted_.ird, device.attributes().max_qp_rd_atom);
    limits_.max_ord = depth_within(wanted_.ord, device.attributes().max_qp_init_rd_atom);
    limits_.send_with_invalidate =
        device.is_iwarp() || (device.attributes().device_cap_flags & IBV_DEVICE_MEM_MGT_EXTENSIONS);
    limits_.keep_write_source_until_completion = device.is_iwarp();
    // What is not signaled siw sends by reference, and "complete" means then that TCP has it: TCP would send
    // what lies there later.
    signal_every_ = device.is_iwarp() ? 1 : kSignalEvery;
    limits_.registration_unit = kRegistrationUnit;
    limits_.lockable = lockable_bytes();
    armed_ = ibv_req_notify_cq(resources_->completion_queue.get(), 0) == 0;
    if (!armed_) return fail(Reason::rdma_resources, EIO);
    return {};
}

Result<void> VerbsEndpoint::start_connecting(const ConnectParameters& parameters,
                                             const sockaddr_storage& source, EndpointEvents* events) {
    auto id = core_.create_id(this);
    if (!id) return std::unexpected(id.error());
    resources_->id = std::move(*id);
    rdma_cm_id* raw = resources_->id.get();
    wanted_ = parameters;
    remote_ = parameters.remote;
    sockaddr_storage from = source;
    set_port(from, parameters.local.ss_family == AF_UNSPEC ? 0 : port_of(parameters.local));
    if (rdma_bind_addr(raw, reinterpret_cast<sockaddr*>(&from)) != 0)
        return fail(Reason::local_port_or_address, errno == ENODEV ? EADDRNOTAVAIL : errno);
    if (auto adopted = adopt({parameters.send_queue, parameters.receive_queue}); !adopted) return adopted;
    local_ = address_from(rdma_get_local_addr(raw));
    if (auto resolving = resolve_address(); !resolving) return resolving;
    events_ = events;
    deadline_ = core_.loop.now() + parameters.timeout;
    unreachable_at_ = core_.loop.now() + std::min(parameters.timeout, kNeighbourTimeout);
    timer_ = core_.loop.add_timer(deadline_, [this] {
        timer_ = 0;
        die({Reason::connect_timeout, ETIMEDOUT});
    });
    return {};
}

// In short turns: the kernel misses the answer of a neighbour that comes while it still asks (as over a
// virtual wire), and looks again only when the time is up.
Result<void> VerbsEndpoint::resolve_address() {
    constexpr int kTurnMs = 250;
    if (rdma_resolve_addr(resources_->id.get(), nullptr, reinterpret_cast<sockaddr*>(&remote_), kTurnMs) != 0)
        return std::unexpected(connect_failure(errno));
    return {};
}

void VerbsEndpoint::on_address_error(int errnum) {
    if (errnum != ETIMEDOUT) return die(connect_failure(errnum));
    if (core_.loop.now() >= unreachable_at_) return die({Reason::connect_unreachable, EHOSTUNREACH});
    if (auto again = resolve_address(); !again) die(again.error());
}

void VerbsEndpoint::connect() {
    auto call = std::make_shared<ConnectCall>();
    call->resources = resources_;
    call->private_data = wanted_.private_data;
    call->parameters.responder_resources = limits_.max_ird;
    call->parameters.initiator_depth = limits_.max_ord;
    call->parameters.retry_count = kRetries;
    call->parameters.rnr_retry_count = kRnrRetries;
    if (resources_->device->is_iwarp()) return connect_in_background(std::move(call));
    call->run();
    if (call->error) die(connect_failure(call->error));
}

void VerbsEndpoint::connect_in_background(std::shared_ptr<ConnectCall> call) {
    waits_for_peer_ = true;
    call_ = call;
    job_ = core_.background.run([call] { call->run(); },
                                [this, call, core = &core_] {
                                    if (call->abandoned) return destroy_slowly(*core, call->resources);
                                    call_.reset();
                                    if (call->error == 0) return;
                                    waits_for_peer_ = false;
                                    die(connect_failure(call->error));
                                });
    if (job_ == 0) die({Reason::engine_resources, EAGAIN});
}

Result<void> VerbsEndpoint::take_request(CmId id, const CmEvent& request, const QueueDepths& depths) {
    passive_ = true;
    id->context = static_cast<CmHandler*>(this);
    resources_->id = std::move(id);
    rdma_cm_id* raw = resources_->id.get();
    local_ = address_from(rdma_get_local_addr(raw));
    remote_ = address_from(rdma_get_peer_addr(raw));
    if (auto adopted = adopt(depths); !adopted) return adopted;
    // Our reads are bounded by what the peer serves, what we serve by what it asks for.
    limits_.max_ord = std::min(limits_.max_ord, request.initiator_depth);
    limits_.max_ird = std::min(limits_.max_ird, std::max<uint8_t>(request.responder_resources, 1));
    return {};
}

Result<void> VerbsEndpoint::accept(const AcceptParameters& parameters, EndpointEvents* events) {
    if (!passive_ || phase_ == Phase::established) return fail(Reason::engine_refused, EINVAL);
    if (phase_ != Phase::setup) return fail(Reason::peer_closed, ECONNRESET);
    limits_.max_ird = std::min(limits_.max_ird, parameters.ird);
    limits_.max_ord = std::min(limits_.max_ord, parameters.ord);
    rdma_conn_param wanted{};
    wanted.private_data = parameters.private_data.bytes.data();
    wanted.private_data_len = parameters.private_data.length;
    wanted.responder_resources = limits_.max_ird;
    wanted.initiator_depth = limits_.max_ord;
    wanted.rnr_retry_count = kRnrRetries;
    events_ = events;
    if (rdma_accept(resources_->id.get(), &wanted) != 0) {
        const int error = errno;
        events_ = nullptr;
        // EINVAL: the peer has given up meanwhile, and the identifier is no longer waiting.
        return fail(Reason::transport_error, error == EINVAL ? ECONNRESET : error);
    }
    if (!armed_) deliver_later([this] { on_cq_event(); });  // what came before there was anybody to tell
    constexpr Nanoseconds kFirstPatience = 200'000'000;
    if (resources_->device->is_siw()) await_first_message(kFirstPatience);
    return {};
}

void VerbsEndpoint::reject(const PrivateData& data) {
    if (phase_ != Phase::setup || !passive_) return;
    rdma_reject(resources_->id.get(), data.bytes.data(), data.length);
    phase_ = Phase::dead;
    release();
}

void VerbsEndpoint::become_established(const CmEvent& event) {
    if (phase_ != Phase::setup) return;
    core_.loop.cancel_timer(std::exchange(timer_, 0));
    waits_for_peer_ = false;
    phase_ = Phase::established;
    if (!passive_) limits_.max_ord = std::min(limits_.max_ord, event.initiator_depth);
    local_ = address_from(rdma_get_local_addr(resources_->id.get()));
    remote_ = address_from(rdma_get_peer_addr(resources_->id.get()));
    if (events_) events_->on_established(event.private_data);
}

// siw_accept() sends the MPA Reply before it takes over the socket. What the peer says between the two, be it
// the frame that siw waits for with ESTABLISHED (RFC 6581 9), lies there unnoticed until something else
// comes: so the peer is made to say something.
void VerbsEndpoint::await_first_message(Nanoseconds patience) {
    constexpr Nanoseconds kMostPatience = 2'000'000'000;
    if (patience > kMostPatience) return;
    first_message_timer_ = core_.loop.add_timer(core_.loop.now() + patience, [this, patience] {
        first_message_timer_ = 0;
        if (phase_ == Phase::closing || phase_ == Phase::dead || has_received_) return;
        post_empty_read();
        await_first_message(3 * patience);
    });
}

void VerbsEndpoint::on_cm_event(const CmEvent& event) {
    const bool iwarp = resources_->device && resources_->device->is_iwarp();
    switch (event.type) {
        case RDMA_CM_EVENT_ADDR_RESOLVED: {
            const auto left = std::max<Nanoseconds>((deadline_ - core_.loop.now()) / 1'000'000, 1);
            if (rdma_resolve_route(resources_->id.get(), static_cast<int>(left)) != 0)
                die(connect_failure(errno));
            return;
        }
        case RDMA_CM_EVENT_ROUTE_RESOLVED:
            return connect();
        case RDMA_CM_EVENT_ADDR_ERROR:
            return on_address_error(-event.status);
        case RDMA_CM_EVENT_ROUTE_ERROR:
            return die(event.status == -ETIMEDOUT ? Error{Reason::connect_unreachable, EHOSTUNREACH}
                                                  : connect_failure(-event.status));
        case RDMA_CM_EVENT_UNREACHABLE:
        case RDMA_CM_EVENT_CONNECT_ERROR:
            // Later it only says that the kernel's neighbour table changed: after a link was down for a
            // moment, for example. The transport's own retries decide.
            if (phase_ != Phase::setup) return;
            waits_for_peer_ = false;
            // siw: what answered is not an MPA Reply.
            if (iwarp && event.status == -EINVAL) return die({Reason::peer_not_iwarp, ECONNREFUSED});
            return die(connect_failure(event.status < 0 ? -event.status : ETIMEDOUT));
        case RDMA_CM_EVENT_REJECTED:
            waits_for_peer_ = false;
            return die(rejection(event, iwarp));
        case RDMA_CM_EVENT_ESTABLISHED:
            return become_established(event);
        case RDMA_CM_EVENT_DISCONNECTED:
            waits_for_peer_ = false;
            if (phase_ == Phase::setup) return die({Reason::peer_reset, ECONNRESET});
            // A peer that was refused something hangs up; what it was is the better reason.
            if (auto device = resources_->device) device->take_async_events();
            if (phase_ == Phase::dead) return;
            if (resetting_) return die({Reason::local_abort, ECONNABORTED});
            take_hardware_completions();  // among which may be its abort()
            if (phase_ == Phase::dead) return;
            if (reset_by_peer_) return die({Reason::peer_reset, ECONNRESET});
            return die(phase_ == Phase::closing ? Error{Reason::local_close, 0}
                                                : Error{Reason::peer_closed, 0});
        default:
            return;  // ADDR_CHANGE, TIMEWAIT_EXIT: the transport's own retries decide
    }
}

CmId VerbsEndpoint::on_device_removed() {
    die({Reason::device_removed, ECONNRESET});
    return nullptr;
}

// ---------------------------------------------------------------- the end

void VerbsEndpoint::disconnect() {
    if (phase_ == Phase::setup) return die({Reason::local_close, 0});
    if (phase_ != Phase::established) return;
    post_batch();
    if (phase_ != Phase::established) return;
    phase_ = Phase::closing;
    if (sends_.empty()) disconnect_now();  // otherwise the last completion does it
}

// The queue pair takes nothing more. For the peer it is an orderly end.
void VerbsEndpoint::disconnect_now() {
    if (std::exchange(disconnect_sent_, true)) return;
    // Fails when the peer was faster; then its event is on the way.
    rdma_disconnect(resources_->id.get());
}

// The verbs know no reset, and SMB Direct no message without bytes: an empty Send is a reset between two of
// our own kind. What was posted before it still goes out; a second call waits for nothing.
void VerbsEndpoint::abort() {
    const bool can_tell = own_kind_ && !resetting_ && !disconnect_sent_ &&
                          (phase_ == Phase::established || phase_ == Phase::closing);
    if (!can_tell || !post_reset()) return break_off({Reason::local_abort, ECONNABORTED});
    resetting_ = true;
    disconnect();
}

// Ends it without waiting for anything; the peer is told where there is one.
void VerbsEndpoint::break_off(Error error) {
    if (phase_ == Phase::dead) return;
    if (phase_ != Phase::setup) rdma_disconnect(resources_->id.get());
    die(error);
}

// Lets go of the device at once, so that nothing of it lingers while the program takes its time, and tells.
void VerbsEndpoint::die(Error error) {
    if (phase_ == Phase::dead) return;
    if (phase_ != Phase::setup) take_hardware_completions();  // what came before the end counts
    phase_ = Phase::dead;
    release();
    flush_outstanding();
    deliver_later([this, error, alive = std::weak_ptr<int>(alive_)] {
        if (events_ && !completed_.empty()) events_->on_completions();
        if (!alive.expired() && events_) events_->on_disconnected(error);
    });
}

void VerbsEndpoint::release() {
    core_.loop.cancel_timer(std::exchange(timer_, 0));
    core_.loop.cancel_timer(std::exchange(first_message_timer_, 0));
    core_.loop.forget(this);
    if (!resources_) return;
    resources_->detach();
    if (resources_->device) resources_->device->remove_user(this);
    auto old = std::exchange(resources_, nullptr);
    if (auto call = std::exchange(call_, nullptr)) {  // which holds it, and destroys it when it returns
        call->abandoned = true;
        core_.background.interrupt(job_);
    } else if (waits_for_peer_) {
        destroy_slowly(core_, std::move(old));
    } else {
        old->destroy();
    }
}

void VerbsEndpoint::deliver_later(std::function<void()> task) {
    core_.loop.defer([task = std::move(task), alive = std::weak_ptr<int>(alive_)] {
        if (!alive.expired()) task();
    });
}

}  // namespace smbdirect::fabric::verbs
