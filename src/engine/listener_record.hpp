// What survives an engine of a program's listener: plain data, kept by the monitor together with two
// descriptors.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "session/messages.hpp"

namespace smbdirect::engine {

enum class ListenerKind : uint32_t { beside = 1, only = 2 };

struct ListenerRecord {
    uint64_t id = 0;
    ListenerKind kind = ListenerKind::beside;
    uint32_t face = 6;
    session::FabricChoice fabric = session::FabricChoice::automatic;
    uint16_t rdma_port = 0;  // on iWARP, host byte order
    uint16_t ib_port = 0;    // on InfiniBand and RoCE
    uint32_t v6_only = 1;
    uint64_t cookie = 0;  // SO_COOKIE of the program's TCP listener
    uint64_t name_engine_id =
        0;  // only: the AF_UNIX listener's name carries the id of the engine that made it
    sockaddr_storage address{};  // the program's, with the program's port
};

// The RDMA ports for a program's port (DESIGN D7): 445 and 5445 mean 5445 on iWARP and 445 on InfiniBand and
// RoCE; any other P is P + 5000 on iWARP, which shares the ports of TCP, and P on the others. 0: overflow.
uint16_t iwarp_port_for(uint16_t program_port);
uint16_t ib_port_for(uint16_t program_port);

struct RdmaPorts {
    uint16_t iwarp, ib;
};
// A rule that names one (not 0) decides; an explicit SMBDIRECT socket (face not 6) is taken at its word.
RdmaPorts rdma_ports_for(uint16_t by_rule, uint32_t face, uint16_t program_port);

}  // namespace smbdirect::engine
