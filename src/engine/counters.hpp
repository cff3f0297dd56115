// What the engine counts. Touched only on the loop's thread.
#pragma once

#include <cstdint>
#include <string>

namespace smbdirect::engine {

struct Counters {
    uint64_t connections_total = 0;   // that reached the established state
    uint64_t connections_open = 0;    // now
    uint64_t connections_failed = 0;  // never established
    uint64_t connections_reset = 0;   // established, then ended by an error of either side
    uint64_t connections_memory = 0;  // of connections_total: on the memory fabric
    uint64_t connections_iwarp = 0;   // in software
    uint64_t connections_verbs = 0;   // on an RDMA device
    uint64_t bytes_sent = 0;          // payload of Data Transfer messages
    uint64_t bytes_received = 0;
    uint64_t messages_sent = 0;  // Data Transfer messages
    uint64_t messages_received = 0;
    uint64_t upper_messages_sent = 0;  // SMB messages
    uint64_t upper_messages_received = 0;
    uint64_t channel_reads = 0;  // READ and WRITE whose data went by RDMA channel, as client or server
    uint64_t channel_writes = 0;
    uint64_t channel_bytes_read = 0;  // of files
    uint64_t channel_bytes_written = 0;
    uint64_t channel_requests_refused = 0;  // bad ones of peers, which the program was made to refuse
    uint64_t channels_unused_signing =
        0;  // connections with large transfers that went inline for this reason
    uint64_t channels_unused_encryption = 0;
    uint64_t channels_unused_dialect = 0;
    uint64_t stalls_no_credit = 0;     // times a message had to wait for the peer's credits
    uint64_t protocol_violations = 0;  // by peers
    uint64_t program_violations = 0;   // by programs: stream framing, shared memory
    uint64_t knocks = 0;
    uint64_t knocks_claimed = 0;
    uint64_t requests = 0;  // of the session protocol
    uint64_t requests_refused = 0;
    uint64_t trace_dropped = 0;
    // Gauges, filled when asked.
    uint64_t listeners = 0, fds = 0, memory_kib = 0, uptime_seconds = 0, pid = 0, monitor_pid = 0,
             engine_restarts = 0;
    uint64_t spin_us = 0;  // how long the loop looks on after a small message, where it does
};

std::string counters_as_lines(const Counters&);
std::string counters_as_json(const Counters&);

}  // namespace smbdirect::engine
