// The verbs fabric: librdmacm and libibverbs. InfiniBand, RoCE and iWARP adapters, rdma_rxe and siw. Devices
// may come and go while it stands, and there may be none.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "fabric/fabric.hpp"
#include "fabric/verbs/addresses.hpp"

namespace smbdirect::fabric {

using verbs::RdmaAddress;

class VerbsFabric : public Fabric {
  public:
    // The addresses of this host that belong to an RDMA device.
    virtual std::vector<RdmaAddress> addresses() const = 0;
    // Whether the way to `remote` leads over one of them: connect() then takes it, and fails otherwise.
    virtual std::optional<RdmaAddress> route(const sockaddr_storage& remote,
                                             const sockaddr_storage& local) const = 0;
    // Called when an address of this host may have come or gone, before listeners follow: an iWARP device of
    // the kernel (siw) has its port as a TCP port, which somebody else may have to let go first.
    virtual void on_change(std::function<void()> before_listening) = 0;
    // How many addresses this listener of ours serves now.
    virtual size_t covered(const Listener*) const = 0;
};

// Must outlive what it made; the loop must outlive the fabric.
std::unique_ptr<VerbsFabric> make_verbs_fabric(EventLoop& loop);

}  // namespace smbdirect::fabric
