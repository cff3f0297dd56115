// Which addresses of this host belong to an RDMA device. Each is held by an identifier that is bound to it:
// that is how the kernel tells which device it is, and how we hear that the device goes away, even while no
// connection uses it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/verbs/core.hpp"

namespace smbdirect::fabric::verbs {

struct RdmaAddress {
    sockaddr_storage address{};  // without a port; a link-local one with its scope
    bool iwarp = false;
    std::string device;

    friend bool operator==(const RdmaAddress& a, const RdmaAddress& b);
};

class AddressTable {
  public:
    explicit AddressTable(Core& core);
    ~AddressTable();

    // Looks at the addresses that the host has now.
    void scan();
    std::vector<RdmaAddress> addresses() const;
    // The address that a connection to `remote` would come from, if it is one of an RDMA device. `local` is
    // what the program bound, or AF_UNSPEC.
    std::optional<RdmaAddress> route(const sockaddr_storage& remote, const sockaddr_storage& local) const;

  private:
    class Anchor;
    Core& core_;
    std::vector<std::unique_ptr<Anchor>> anchors_;
};

}  // namespace smbdirect::fabric::verbs
