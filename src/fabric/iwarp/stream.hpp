// The state that the receiving and the sending half of an iWARP stream share.
#pragma once

#include <sys/uio.h>

#include "fabric/soft/region_table.hpp"
#include "fabric/soft/work_queues.hpp"
#include "wire/ddp.hpp"

namespace smbdirect::fabric::iwarp {

constexpr uint64_t no_work = ~uint64_t{0};

// An RDMA Read that we asked for. The sink named on the wire is made up for this one read: it opens no memory
// to the peer but the elements of the work request, and only to the one response that is due (RFC
// 5042 7.3.2).
struct OutboundRead {
    uint64_t work = no_work;  // number in the send queue; no_work: a ready-to-receive Read
    uint32_t sink_stag = 0;
    uint64_t sink_offset = 0;
    uint32_t length = 0;
    uint32_t placed = 0;
};

// One that the peer asked for.
struct InboundRead {
    wire::ReadRequest request;
    uint32_t sent = 0;
};

struct Stream {
    soft::RegionTable& regions;
    soft::Ring<soft::PostedReceive>& receives;
    soft::Ring<soft::SendWork>& sends;
    soft::Ring<OutboundRead> outbound_reads{256};
    soft::Ring<InboundRead> inbound_reads{256};
    bool crc = true;
    bool may_send = true;  // RFC 5044 7.1.2 rule 4: the responder only after the first valid FPDU
    uint8_t ird = 0, ord = 0;
    uint32_t mulpdu = 1442;
};

// Why a stream must end.
struct Fault {
    wire::Violation violation;
    Reason reason = Reason::ddp_violation;
};

}  // namespace smbdirect::fabric::iwarp
