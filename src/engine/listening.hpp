// What one listener of a program has open on the fabrics, as addresses and devices come and go.
#pragma once

#include <memory>
#include <vector>

#include "engine/listener_record.hpp"
#include "fabric/fabric.hpp"
#include "fabric/verbs/verbs_fabric.hpp"

namespace smbdirect::engine {

struct Fabrics {
    fabric::Fabric* iwarp;
    fabric::Fabric* memory;
    fabric::VerbsFabric* verbs;
};

class Listening {
  public:
    // The record outlives us; its RDMA port is filled in when it is 0.
    Listening(const Fabrics& fabrics, ListenerRecord& record, fabric::ListenerEvents* events);
    ~Listening();

    // inherited_fd: the software fabric's socket, from a predecessor of this engine, or -1; stays the
    // caller's.
    Result<void> open(int inherited_fd);
    // Addresses may have changed: an address of a kernel iWARP device is left to that, every other one has
    // the software fabric.
    void follow_addresses();
    // The software fabric's socket, if one serves all: what a successor can go on with. Otherwise -1.
    int socket() const;

  private:
    struct Software {
        sockaddr_storage address;
        std::unique_ptr<fabric::Listener> listener;
    };
    fabric::ListenParameters parameters(const sockaddr_storage& address) const;
    std::vector<sockaddr_storage> software_addresses() const;
    Result<void> open_software(const std::vector<sockaddr_storage>& wanted, int inherited_fd);
    Result<void> open_verbs();

    const Fabrics fabrics_;
    ListenerRecord& record_;
    fabric::ListenerEvents* const events_;
    std::vector<Software> software_;
    std::unique_ptr<fabric::Listener> memory_, verbs_;
};

}  // namespace smbdirect::engine
