#include "fabric/verbs/verbs_fabric.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "fabric/address.hpp"
#include "fabric/verbs/change_watch.hpp"
#include "fabric/verbs/endpoint.hpp"
#include "fabric/verbs/listener.hpp"

namespace smbdirect::fabric {
namespace verbs {
namespace {

constexpr int kPortAttempts = 8;

// The connection manager chooses among ports that no identifier has, and siw then connects from a TCP port of
// that number, which may be taken: so TCP is asked first. 0: it did not say.
uint16_t free_tcp_port(const sockaddr_storage& address) {
    const int probe = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return 0;
    sockaddr_storage found = address;
    set_port(found, 0);
    socklen_t length = sizeof found;
    const bool bound = ::bind(probe, reinterpret_cast<const sockaddr*>(&found), address_size(found)) == 0 &&
                       getsockname(probe, reinterpret_cast<sockaddr*>(&found), &length) == 0;
    close(probe);
    return bound ? port_of(found) : uint16_t{0};
}

class RealVerbsFabric final : public VerbsFabric, private ChangeEvents {
  public:
    explicit RealVerbsFabric(EventLoop& loop) : core_(loop), table_(core_), watch_(loop, this) {
        core_.on_addresses_may_have_changed = [this, alive = std::weak_ptr<int>(alive_)] {
            // Later: this is said from the middle of a removal.
            core_.loop.defer([this, alive] {
                if (!alive.expired()) on_change();
            });
        };
        table_.scan();
    }
    ~RealVerbsFabric() override { core_.on_addresses_may_have_changed = nullptr; }

    std::string_view name() const override { return "verbs"; }
    std::vector<RdmaAddress> addresses() const override { return table_.addresses(); }
    std::optional<RdmaAddress> route(const sockaddr_storage& remote,
                                     const sockaddr_storage& local) const override {
        return table_.route(remote, local);
    }
    void on_change(std::function<void()> before_listening) override {
        before_listening_ = std::move(before_listening);
    }
    size_t covered(const Listener* listener) const override {
        return static_cast<const VerbsListener*>(listener)->covered();
    }

    Result<std::unique_ptr<Listener>> listen(const ListenParameters& parameters,
                                             ListenerEvents* events) override {
        auto listener = std::make_unique<VerbsListener>(
            core_, parameters, events, [this](VerbsListener* gone) { std::erase(listeners_, gone); });
        // No device at all is no error: one may come. That none of those that are there can be had is one.
        auto covered = listener->cover(table_.addresses());
        if (!covered && listener->covered() == 0) return std::unexpected(covered.error());
        listeners_.push_back(listener.get());
        return listener;
    }

    Result<std::unique_ptr<Endpoint>> connect(const ConnectParameters& parameters,
                                              EndpointEvents* events) override {
        const auto from = table_.route(parameters.remote, parameters.local);
        if (!from) return fail(Reason::fabric_unavailable, ENETUNREACH);
        ConnectParameters wanted = parameters;
        if (!from->iwarp && wanted.ib_port) set_port(wanted.remote, wanted.ib_port);
        const bool any_port = wanted.local.ss_family == AF_UNSPEC || port_of(wanted.local) == 0;
        for (int attempts_left = from->iwarp && any_port ? kPortAttempts : 0;; --attempts_left) {
            if (attempts_left) {
                wanted.local = from->address;
                set_port(wanted.local, free_tcp_port(from->address));
            }
            auto endpoint = std::make_unique<VerbsEndpoint>(core_);
            auto started = endpoint->start_connecting(wanted, from->address, events);
            if (started) return endpoint;
            if (attempts_left <= 1 || started.error().errnum != EADDRINUSE)
                return std::unexpected(started.error());
        }
    }

  private:
    void on_removal(std::string_view uverbs_name) override { core_.remove_device(uverbs_name); }
    void on_change() override {
        table_.scan();
        if (before_listening_) before_listening_();
        const auto addresses = table_.addresses();
        // An address that cannot be had now is tried again with the next change, of whatever it is.
        for (auto* listener : listeners_) (void)listener->cover(addresses);
    }

    std::shared_ptr<int> alive_ = std::make_shared<int>(0);
    Core core_;
    AddressTable table_;
    ChangeWatch watch_;
    std::vector<VerbsListener*> listeners_;
    std::function<void()> before_listening_;
};

}  // namespace
}  // namespace verbs

std::unique_ptr<VerbsFabric> make_verbs_fabric(EventLoop& loop) {
    // Of hardware that is gone libibverbs frees nothing otherwise. Read at its first use.
    setenv("RDMAV_ALLOW_DISASSOC_DESTROY", "1", 0);
    return std::make_unique<verbs::RealVerbsFabric>(loop);
}

}  // namespace smbdirect::fabric
