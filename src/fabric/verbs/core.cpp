#include "fabric/verbs/core.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

namespace smbdirect::fabric::verbs {
namespace {

bool set_nonblocking(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

CmEvent copy_of(const rdma_cm_event& event) {
    CmEvent copy{.type = event.event, .status = event.status, .id = event.id};
    const auto& parameters = event.param.conn;
    copy.responder_resources = parameters.responder_resources;
    copy.initiator_depth = parameters.initiator_depth;
    if (parameters.private_data) {
        const size_t length = std::min<size_t>(parameters.private_data_len, copy.private_data.bytes.size());
        std::copy_n(static_cast<const std::byte*>(parameters.private_data), length,
                    copy.private_data.bytes.begin());
        copy.private_data.length = static_cast<uint8_t>(length);
    }
    return copy;
}

}  // namespace

uint64_t lockable_bytes() {
    rlimit limit{};
    return getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX
                                                                                     : limit.rlim_cur;
}

Error resource_error(int errnum) {
    if (errnum == ENOMEM && lockable_bytes() != UINT64_MAX) return {Reason::memlock_limit, ENOBUFS};
    return {Reason::rdma_resources, errnum == ENOMEM ? ENOBUFS : errnum};
}

// ---------------------------------------------------------------- Core

Core::Core(EventLoop& event_loop) : loop(event_loop), background(event_loop) {}

Core::~Core() {
    if (channel_) loop.unwatch(channel_->fd, this);
}

Result<void> Core::open_channel() {
    if (channel_) return {};
    EventChannel channel(rdma_create_event_channel());
    if (!channel || !set_nonblocking(channel->fd)) return fail(Reason::fabric_unavailable, ENETUNREACH);
    if (!loop.watch(channel->fd, EPOLLIN, this)) return fail(Reason::engine_resources);
    channel_ = std::move(channel);
    return {};
}

Result<CmId> Core::create_id(CmHandler* handler) {
    if (auto opened = open_channel(); !opened) return std::unexpected(opened.error());
    rdma_cm_id* id = nullptr;
    if (rdma_create_id(channel_.get(), &id, handler, RDMA_PS_TCP) != 0)
        return std::unexpected(resource_error(errno));
    return CmId(id);
}

Result<std::shared_ptr<Device>> Core::device_of(const rdma_cm_id* id) {
    if (!id->verbs) return fail(Reason::fabric_unavailable, ENETUNREACH);
    auto& known = devices_[id->verbs];
    if (auto device = known.lock()) return device;
    auto device = std::make_shared<Device>(*this, id->verbs);
    if (auto opened = device->open(); !opened) return std::unexpected(opened.error());
    known = device;
    return device;
}

void Core::on_ready(uint32_t) {
    for (;;) {
        rdma_cm_event* event = nullptr;
        if (rdma_get_cm_event(channel_.get(), &event) != 0) return;  // EAGAIN, or nothing that we could mend
        const CmEvent copy = copy_of(*event);
        ibv_context* const removed = copy.type == RDMA_CM_EVENT_DEVICE_REMOVAL ? copy.id->verbs : nullptr;
        // The owner of a new identifier is found through the listener that it came for. Owners that have
        // let go of an identifier which somebody else destroys took themselves out of it.
        auto* handler =
            static_cast<CmHandler*>(event->listen_id ? event->listen_id->context : event->id->context);
        rdma_ack_cm_event(event);
        if (copy.type == RDMA_CM_EVENT_DEVICE_REMOVAL) {
            // By way of the device, so that everybody who uses it lets go at once.
            const auto known = devices_.find(removed);
            if (auto device = known == devices_.end() ? nullptr : known->second.lock()) device->remove();
        } else if (handler)
            handler->on_cm_event(copy);
        else if (copy.type == RDMA_CM_EVENT_CONNECT_REQUEST)
            rdma_destroy_id(copy.id);
    }
}

void Core::forget(const Device* device) {
    std::erase_if(devices_, [device](const auto& known) {
        const auto other = known.second.lock();
        return !other || other.get() == device;
    });
}

void Core::remove_device(std::string_view uverbs_name) {
    for (const auto& [context, known] : devices_)
        if (auto device = known.lock(); device && device->context()->device->dev_name == uverbs_name)
            return device->remove();
}

// ---------------------------------------------------------------- Device

Device::Device(Core& core, ibv_context* context) : core_(core), context_(context) {}

Device::~Device() {
    if (!completions_) return;
    core_.loop.unwatch(completions_->fd, this);
    if (!removed_) core_.loop.unwatch(context_->async_fd, this);
}

Result<void> Device::open() {
    if (ibv_query_device(context_, &attributes_) != 0) return std::unexpected(resource_error(errno));
    ibv_port_attr port{};
    max_message_ = ibv_query_port(context_, 1, &port) == 0 ? port.max_msg_sz : 1u << 30;
    completions_.reset(ibv_create_comp_channel(context_));
    if (!completions_ || !set_nonblocking(completions_->fd) || !set_nonblocking(context_->async_fd) ||
        !core_.loop.watch(completions_->fd, EPOLLIN, this) ||
        !core_.loop.watch(context_->async_fd, EPOLLIN, this))
        return std::unexpected(resource_error(errno));
    fill_gap_of_siw();
    return {};
}

bool Device::is_siw() const {
    constexpr uint32_t kSiw = 0x626d74;
    return attributes_.vendor_id == kSiw;
}

// libsiw takes the queue whose mapping happens to begin at 0x90000 for one that could not be mapped
// (SIW_INVAL_UOBJ_KEY), and from then on no queue can be made until another one goes: after some eight
// connections. Mappings are numbered from 0 on as they are made, so a first one that is larger keeps
// everybody from that place. 32 bytes an entry.
void Device::fill_gap_of_siw() {
    constexpr int kEntries = 0x90000 / 32 + 1;
    if (is_siw()) placeholder_.reset(ibv_create_cq(context_, kEntries, nullptr, nullptr, 0));
}

void Device::on_ready(uint32_t) {
    const auto self = shared_from_this();  // the last one who uses it may let go while it tells of an event
    take_cq_events();
    take_async_events();
}

void Device::take_cq_events() {
    ibv_cq* queue = nullptr;
    void* owner = nullptr;
    while (completions_ && ibv_get_cq_event(completions_.get(), &queue, &owner) == 0) {
        ibv_ack_cq_events(queue, 1);  // before its owner may destroy the queue, which waits for that
        if (owner) static_cast<QueuePairOwner*>(owner)->on_cq_event();
    }
}

void Device::take_async_events() {
    ibv_async_event event{};
    while (!removed_ && ibv_get_async_event(context_, &event) == 0) {
        QueuePairOwner* owner = nullptr;
        switch (event.event_type) {
            case IBV_EVENT_QP_FATAL:
            case IBV_EVENT_QP_REQ_ERR:
            case IBV_EVENT_QP_ACCESS_ERR:
            case IBV_EVENT_COMM_EST:
                owner = static_cast<QueuePairOwner*>(event.element.qp->qp_context);
                break;
            case IBV_EVENT_CQ_ERR:
                owner = static_cast<QueuePairOwner*>(event.element.cq->cq_context);
                break;
            default:
                break;
        }
        const ibv_event_type type = event.event_type;
        ibv_ack_async_event(&event);
        if (owner) owner->on_qp_async_event(type);
        if (type == IBV_EVENT_DEVICE_FATAL) return remove();
        // A port that is down does not end a connection: it may come back before the transport gives up.
        if (type == IBV_EVENT_GID_CHANGE || type == IBV_EVENT_PORT_ACTIVE)
            if (core_.on_addresses_may_have_changed) core_.on_addresses_may_have_changed();
    }
}

void Device::remove() {
    if (std::exchange(removed_, true)) return;
    core_.forget(this);
    core_.loop.unwatch(context_->async_fd, this);
    const std::vector<DeviceUser*> users(users_.begin(), users_.end());
    std::vector<CmId> last;  // they keep the device's context until we are through with it
    for (auto* user : users)
        if (users_.contains(user)) last.push_back(user->on_device_removed());
    core_.loop.unwatch(completions_->fd, this);
    placeholder_.reset();
    sever();
    completions_.reset();
    if (core_.on_addresses_may_have_changed) core_.on_addresses_may_have_changed();
}

// The kernel waits until nobody has the device open any more (`rdma link delete` would hang), but librdmacm
// keeps every device open that it ever saw, until it notices the loss at its next look at another device. So
// the descriptors are taken from under it: they lead nowhere from now on, and closing them later is harmless.
// So is the completion channel's: a connect that is being interrupted has a queue on it still.
void Device::sever() {
    const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nowhere < 0) return;
    dup3(nowhere, context_->cmd_fd, O_CLOEXEC);
    dup3(nowhere, context_->async_fd, O_CLOEXEC);
    dup3(nowhere, completions_->fd, O_CLOEXEC);
    close(nowhere);
}

}  // namespace smbdirect::fabric::verbs
