// Listens on every address of an RDMA device that the wanted address covers, now or later.
#pragma once

#include <memory>
#include <vector>

#include "fabric/verbs/addresses.hpp"
#include "fabric/verbs/resources.hpp"

namespace smbdirect::fabric::verbs {

class VerbsListener final : public Listener {
  public:
    // `gone` is called from the destructor.
    VerbsListener(Core& core, const ListenParameters& parameters, ListenerEvents* events,
                  std::function<void(VerbsListener*)> gone);
    ~VerbsListener() override;

    // Opens what is missing and closes what is no longer there. The first error of an address that stands.
    Result<void> cover(const std::vector<RdmaAddress>& addresses);
    size_t covered() const;

    sockaddr_storage local_address() const override { return parameters_.address; }
    int fd() const override { return -1; }

  private:
    class Place;  // one address

    Core& core_;
    ListenParameters parameters_;
    ListenerEvents* const events_;
    const std::function<void(VerbsListener*)> gone_;
    std::vector<std::unique_ptr<Place>> places_;
};

}  // namespace smbdirect::fabric::verbs
