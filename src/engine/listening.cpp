#include "engine/listening.hpp"

#include <algorithm>
#include <cerrno>

#include "fabric/address.hpp"

namespace smbdirect::engine {

using session::FabricChoice;

uint16_t iwarp_port_for(uint16_t program_port) {
    constexpr uint16_t kSmb = 445, kIwarp = 5445;  // [MS-SMBD] 1.9
    if (program_port == kSmb || program_port == kIwarp) return kIwarp;
    return program_port > 65535 - 5000 ? 0 : static_cast<uint16_t>(program_port + 5000);
}

uint16_t ib_port_for(uint16_t program_port) { return program_port == 5445 ? 445 : program_port; }

RdmaPorts rdma_ports_for(uint16_t by_rule, uint32_t face, uint16_t program_port) {
    if (by_rule) return {by_rule, by_rule};
    if (face != 6) return {program_port, program_port};
    return {iwarp_port_for(program_port), ib_port_for(program_port)};
}

namespace {

bool contains(const std::vector<sockaddr_storage>& list, const sockaddr_storage& address) {
    return std::any_of(list.begin(), list.end(),
                       [&](const auto& other) { return fabric::same_address(other, address); });
}

}  // namespace

Listening::Listening(const Fabrics& fabrics, ListenerRecord& record, fabric::ListenerEvents* events)
    : fabrics_(fabrics), record_(record), events_(events) {}

Listening::~Listening() = default;

fabric::ListenParameters Listening::parameters(const sockaddr_storage& address) const {
    fabric::ListenParameters out;
    out.address = address;
    out.v6_only = record_.v6_only != 0;
    fabric::set_port(out.address, record_.rdma_port);
    out.ib_port = record_.ib_port;
    return out;
}

// The kernel's iWARP devices share the ports of TCP, and a wildcard socket of ours would take theirs: where
// there is one, every other address has a socket of its own.
std::vector<sockaddr_storage> Listening::software_addresses() const {
    const auto choice = record_.fabric;
    if (choice == FabricChoice::memory || choice == FabricChoice::verbs) return {};
    std::vector<sockaddr_storage> theirs;
    if (choice == FabricChoice::automatic)
        for (const auto& known : fabrics_.verbs->addresses())
            if (known.iwarp && fabric::covers(record_.address, record_.v6_only, known.address))
                theirs.push_back(known.address);
    if (theirs.empty()) return {record_.address};
    if (!fabric::is_any(record_.address)) return {};
    auto ours = fabric::host_addresses();
    std::erase_if(ours, [&](const auto& address) {
        return !fabric::covers(record_.address, record_.v6_only, address) || contains(theirs, address);
    });
    return ours;
}

Result<void> Listening::open_software(const std::vector<sockaddr_storage>& wanted, int inherited_fd) {
    std::erase_if(software_, [&](const Software& open) { return !contains(wanted, open.address); });
    Result<void> result;
    for (const auto& address : wanted) {
        const bool known = std::any_of(software_.begin(), software_.end(), [&](const Software& open) {
            return fabric::same_address(open.address, address);
        });
        if (known) continue;
        auto asked = parameters(address);
        asked.inherited_fd = inherited_fd;
        auto made = fabrics_.iwarp->listen(asked, events_);
        if (!made) {
            if (result) result = std::unexpected(made.error());
            continue;
        }
        if (record_.rdma_port == 0) record_.rdma_port = fabric::port_of((*made)->local_address());
        software_.push_back({address, std::move(*made)});
    }
    return result;
}

Result<void> Listening::open_verbs() {
    if (record_.fabric == FabricChoice::memory || record_.fabric == FabricChoice::iwarp) return {};
    auto made = fabrics_.verbs->listen(parameters(record_.address), events_);
    if (!made) return std::unexpected(made.error());
    verbs_ = std::move(*made);
    if (record_.rdma_port == 0) record_.rdma_port = fabric::port_of(verbs_->local_address());
    return {};
}

Result<void> Listening::open(int inherited_fd) {
    const bool automatic = record_.fabric == FabricChoice::automatic;
    // A port that the software fabric chooses is one for all of them; otherwise the devices come first, since
    // a wildcard socket would keep them out.
    Result<void> software, verbs;
    if (record_.rdma_port == 0 && record_.fabric != FabricChoice::verbs) {
        software = open_software(software_addresses(), inherited_fd);
        if (record_.ib_port == 0) record_.ib_port = record_.rdma_port;
        verbs = open_verbs();
    } else {
        verbs = open_verbs();
        const auto wanted = software_addresses();
        const bool wildcard = wanted.size() == 1 && fabric::same_address(wanted[0], record_.address);
        software = open_software(wanted, wildcard ? inherited_fd : -1);
    }
    const bool served = !software_.empty() || (verbs_ && fabrics_.verbs->covered(verbs_.get()) != 0);
    if (!served && !software) return software;
    if (!served && !verbs) return verbs;
    if (!automatic && !verbs) return verbs;

    // Programs of this engine can always be reached ring to ring, if the rule of the connecting side says so.
    if (auto made = fabrics_.memory->listen(parameters(record_.address), events_))
        memory_ = std::move(*made);
    else if (record_.fabric == FabricChoice::memory)
        return std::unexpected(made.error());
    return {};
}

void Listening::follow_addresses() {
    // What cannot be had now is tried again with the next change.
    (void)open_software(software_addresses(), -1);
}

int Listening::socket() const {
    const bool one = software_.size() == 1 && fabric::same_address(software_[0].address, record_.address);
    return one ? software_[0].listener->fd() : -1;
}

}  // namespace smbdirect::engine
