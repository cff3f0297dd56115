#include "fabric/iwarp/iwarp_fabric.hpp"

#include "fabric/iwarp/listener.hpp"

namespace smbdirect::fabric {
namespace {

class IwarpFabric final : public Fabric {
  public:
    IwarpFabric(EventLoop& loop, const iwarp::Settings& settings) : core_(loop, settings) {}

    std::string_view name() const override { return "iwarp"; }

    Result<std::unique_ptr<Listener>> listen(const ListenParameters& parameters,
                                             ListenerEvents* events) override {
        auto listener = std::make_unique<iwarp::IwarpListener>(core_, events);
        if (auto started = listener->start(parameters); !started) return std::unexpected(started.error());
        return listener;
    }

    Result<std::unique_ptr<Endpoint>> connect(const ConnectParameters& parameters,
                                              EndpointEvents* events) override {
        auto endpoint = std::make_unique<iwarp::IwarpEndpoint>(core_);
        if (auto started = endpoint->start_connecting(parameters, events); !started) {
            return std::unexpected(started.error());
        }
        return endpoint;
    }

  private:
    iwarp::Core core_;
};

}  // namespace

std::unique_ptr<Fabric> make_iwarp_fabric(EventLoop& loop, const iwarp::Settings& settings) {
    return std::make_unique<IwarpFabric>(loop, settings);
}

}  // namespace smbdirect::fabric
