#include "fabric/verbs/listener.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <cerrno>

#include "fabric/address.hpp"
#include "fabric/verbs/endpoint.hpp"

namespace smbdirect::fabric::verbs {

class VerbsListener::Place final : private CmHandler, private DeviceUser {
  public:
    Place(VerbsListener& owner, const RdmaAddress& where) : owner_(owner), where_(where) {}
    ~Place() { close(); }

    Result<void> open() {
        auto id = owner_.core_.create_id(this);
        if (!id) return std::unexpected(id.error());
        id_ = std::move(*id);
        sockaddr_storage address = where_.address;
        auto& wanted = owner_.parameters_;
        const bool ib = !where_.iwarp && wanted.ib_port != 0;
        set_port(address, ib ? wanted.ib_port : port_of(wanted.address));
        if (rdma_bind_addr(id_.get(), reinterpret_cast<sockaddr*>(&address)) != 0 ||
            rdma_listen(id_.get(), wanted.backlog) != 0)
            return failed(errno);
        // Port 0: the first address chooses for all.
        if (port_of(wanted.address) == 0) set_port(wanted.address, ntohs(rdma_get_src_port(id_.get())));
        auto device = owner_.core_.device_of(id_.get());
        if (!device) return std::unexpected(device.error());
        device_ = *device;
        device_->add_user(this);
        return {};
    }

    bool stands() const { return id_ != nullptr; }
    const RdmaAddress& where() const { return where_; }

  private:
    Result<void> failed(int errnum) {
        id_.reset();
        switch (errnum) {
            case EADDRINUSE:
                return fail(Reason::rdma_port_taken, errnum);
            case EACCES:
            case EPERM:
                return fail(Reason::rdma_port_denied, EACCES);
            default:
                return fail(Reason::listen_failed, errnum);
        }
    }

    void on_cm_event(const CmEvent& event) override {
        if (event.type == RDMA_CM_EVENT_CONNECT_REQUEST) take_request(event);
    }

    // A connection that cannot be had for lack of something is refused by destroying its identifier.
    void take_request(const CmEvent& event) {
        CmId id(event.id);
        const sockaddr_storage peer = address_from(rdma_get_peer_addr(id.get()));
        auto endpoint = std::make_unique<VerbsEndpoint>(owner_.core_);
        const auto& wanted = owner_.parameters_;
        auto taken = endpoint->take_request(std::move(id), event, {wanted.send_queue, wanted.receive_queue});
        if (!taken) return owner_.events_->on_refused(peer, taken.error());
        owner_.events_->on_request(std::move(endpoint), event.private_data);
    }

    CmId on_device_removed() override {
        close();
        return std::move(id_);
    }

    void close() {
        if (device_) device_->remove_user(this);
        device_.reset();
    }

    VerbsListener& owner_;
    const RdmaAddress where_;
    CmId id_;
    std::shared_ptr<Device> device_;  // before the identifier that keeps it open
};

VerbsListener::VerbsListener(Core& core, const ListenParameters& parameters, ListenerEvents* events,
                             std::function<void(VerbsListener*)> gone)
    : core_(core), parameters_(parameters), events_(events), gone_(std::move(gone)) {}

VerbsListener::~VerbsListener() { gone_(this); }

Result<void> VerbsListener::cover(const std::vector<RdmaAddress>& addresses) {
    std::erase_if(places_, [&](const auto& place) {
        return !place->stands() ||
               std::find(addresses.begin(), addresses.end(), place->where()) == addresses.end();
    });
    Result<void> result;
    for (const auto& address : addresses) {
        const bool known = std::any_of(places_.begin(), places_.end(),
                                       [&](const auto& place) { return place->where() == address; });
        if (known || !covers(parameters_.address, parameters_.v6_only, address.address)) continue;
        auto place = std::make_unique<Place>(*this, address);
        if (auto opened = place->open(); opened)
            places_.push_back(std::move(place));
        else if (result)
            result = opened;
    }
    return result;
}

size_t VerbsListener::covered() const {
    return static_cast<size_t>(
        std::count_if(places_.begin(), places_.end(), [](const auto& place) { return place->stands(); }));
}

}  // namespace smbdirect::fabric::verbs
