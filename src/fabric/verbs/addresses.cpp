#include "fabric/verbs/addresses.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>

#include "fabric/address.hpp"

namespace smbdirect::fabric::verbs {
bool operator==(const RdmaAddress& a, const RdmaAddress& b) {
    return same_address(a.address, b.address) && a.iwarp == b.iwarp && a.device == b.device;
}

class AddressTable::Anchor final : private DeviceUser {
  public:
    explicit Anchor(Core& core) : core_(core) {}
    ~Anchor() {
        if (device_) device_->remove_user(this);
    }

    bool bind(const sockaddr_storage& address) {
        auto id = core_.create_id(nullptr);
        if (!id) return false;
        id_ = std::move(*id);
        where_.address = address;
        set_port(where_.address, 0);
        sockaddr_storage asked = where_.address;
        if (rdma_bind_addr(id_.get(), reinterpret_cast<sockaddr*>(&asked)) != 0 || !id_->verbs) return false;
        auto device = core_.device_of(id_.get());
        if (!device) return false;
        device_ = *device;
        device_->add_user(this);
        where_.iwarp = device_->is_iwarp();
        where_.device = device_->name();
        return true;
    }

    bool stands() const { return id_ != nullptr; }
    const RdmaAddress& where() const { return where_; }

  private:
    CmId on_device_removed() override {
        device_->remove_user(this);
        device_.reset();
        return std::move(id_);
    }

    Core& core_;
    CmId id_;
    std::shared_ptr<Device> device_;  // before the identifier that keeps it open
    RdmaAddress where_;
};

AddressTable::AddressTable(Core& core) : core_(core) {}
AddressTable::~AddressTable() = default;

void AddressTable::scan() {
    auto host = host_addresses();
    std::erase_if(host, is_loopback);  // which no device has
    std::erase_if(anchors_, [&](const auto& anchor) {
        return !anchor->stands() || std::none_of(host.begin(), host.end(), [&](const auto& address) {
            return same_address(address, anchor->where().address);
        });
    });
    if (!core_.open_channel()) return;  // no device at all
    for (const auto& address : host) {
        const bool known = std::any_of(anchors_.begin(), anchors_.end(), [&](const auto& anchor) {
            return same_address(address, anchor->where().address);
        });
        if (known) continue;
        auto anchor = std::make_unique<Anchor>(core_);
        if (anchor->bind(address)) anchors_.push_back(std::move(anchor));
    }
}

std::vector<RdmaAddress> AddressTable::addresses() const {
    std::vector<RdmaAddress> out;
    for (const auto& anchor : anchors_)
        if (anchor->stands()) out.push_back(anchor->where());
    return out;
}

std::optional<RdmaAddress> AddressTable::route(const sockaddr_storage& remote,
                                               const sockaddr_storage& local) const {
    if (anchors_.empty() || is_loopback(remote)) return std::nullopt;
    // A datagram socket that is connected, and never sends: the kernel looks the route up for it.
    const int probe = socket(remote.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return std::nullopt;
    sockaddr_storage source = local, target = remote;
    if (local.ss_family == remote.ss_family && !is_any(local)) {
        set_port(source, 0);
        [[maybe_unused]] const int bound =
            ::bind(probe, reinterpret_cast<const sockaddr*>(&source), address_size(source));
    }
    if (port_of(target) == 0) set_port(target, 445);
    socklen_t length = sizeof source;
    const bool found =
        ::connect(probe, reinterpret_cast<const sockaddr*>(&target), address_size(target)) == 0 &&
        getsockname(probe, reinterpret_cast<sockaddr*>(&source), &length) == 0;
    close(probe);
    if (!found) return std::nullopt;
    for (const auto& anchor : anchors_)
        if (anchor->stands() && same_address(anchor->where().address, source)) return anchor->where();
    return std::nullopt;
}

}  // namespace smbdirect::fabric::verbs
