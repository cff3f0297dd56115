// A message (or a fragment) of the peer on its way to the program.
#pragma once

#include <cstdint>
#include <vector>

#include "session/memory.hpp"
#include "smb2/server_channels.hpp"

namespace smbdirect::engine {

// How the message that is arriving is treated.
enum class Assembly : uint8_t {
    direct,   // its fragments go to the program as they come
    judging,  // gathered until enough is there to judge by
    whole,    // gathered to its end, to be translated
    guarded,  // as direct, but a channel in it would end the connection
    dropped,  // the program has got another one for it
};

struct Inbound {
    session::ReceiveDescriptor descriptor;
    uint32_t block = 0;  // a slot, or an extent's number + the number of slots: free again when it was read
    bool placed = true;  // false: it waits for an extent, with `message` as it shall be put together
    bool failed = false;
    uint32_t reads_outstanding = 0;
    smb2::TranslatedRequest message;
    // RDMA Reads that are still to be posted: from this fetch on, of which so much is done.
    size_t next_fetch = 0;
    uint32_t fetched = 0;
    smb2::RemoteCursor source;

    // From the peer, by RDMA Read.
    bool is_fetched() const { return !message.fetches.empty(); }
    bool is_ready() const {
        return placed && !failed && reads_outstanding == 0 && next_fetch == message.fetches.size();
    }
};

}  // namespace smbdirect::engine
