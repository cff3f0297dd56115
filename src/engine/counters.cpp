#include "engine/counters.hpp"

#include <array>
#include <utility>

namespace smbdirect::engine {
namespace {

using Row = std::pair<const char*, uint64_t Counters::*>;

constexpr std::array kRows = {
    Row{"pid", &Counters::pid},
    Row{"monitor_pid", &Counters::monitor_pid},
    Row{"uptime_seconds", &Counters::uptime_seconds},
    Row{"engine_restarts", &Counters::engine_restarts},
    Row{"connections_total", &Counters::connections_total},
    Row{"connections_open", &Counters::connections_open},
    Row{"connections_failed", &Counters::connections_failed},
    Row{"connections_reset", &Counters::connections_reset},
    Row{"connections_memory", &Counters::connections_memory},
    Row{"connections_iwarp", &Counters::connections_iwarp},
    Row{"connections_verbs", &Counters::connections_verbs},
    Row{"bytes_sent", &Counters::bytes_sent},
    Row{"bytes_received", &Counters::bytes_received},
    Row{"messages_sent", &Counters::messages_sent},
    Row{"messages_received", &Counters::messages_received},
    Row{"upper_messages_sent", &Counters::upper_messages_sent},
    Row{"upper_messages_received", &Counters::upper_messages_received},
    Row{"channel_reads", &Counters::channel_reads},
    Row{"channel_writes", &Counters::channel_writes},
    Row{"channel_bytes_read", &Counters::channel_bytes_read},
    Row{"channel_bytes_written", &Counters::channel_bytes_written},
    Row{"channel_requests_refused", &Counters::channel_requests_refused},
    Row{"channels_unused_signing", &Counters::channels_unused_signing},
    Row{"channels_unused_encryption", &Counters::channels_unused_encryption},
    Row{"channels_unused_dialect", &Counters::channels_unused_dialect},
    Row{"stalls_no_credit", &Counters::stalls_no_credit},
    Row{"protocol_violations", &Counters::protocol_violations},
    Row{"program_violations", &Counters::program_violations},
    Row{"listeners", &Counters::listeners},
    Row{"knocks", &Counters::knocks},
    Row{"knocks_claimed", &Counters::knocks_claimed},
    Row{"requests", &Counters::requests},
    Row{"requests_refused", &Counters::requests_refused},
    Row{"trace_dropped", &Counters::trace_dropped},
    Row{"fds", &Counters::fds},
    Row{"memory_kib", &Counters::memory_kib},
    Row{"spin_us", &Counters::spin_us},
};

}  // namespace

std::string counters_as_lines(const Counters& counters) {
    std::string text;
    for (const auto& [name, member] : kRows)
        text += std::string(name) + ' ' + std::to_string(counters.*member) + '\n';
    return text;
}

std::string counters_as_json(const Counters& counters) {
    std::string text = "{";
    for (const auto& [name, member] : kRows) {
        if (text.size() > 1) text += ", ";
        text += '"' + std::string(name) + "\": " + std::to_string(counters.*member);
    }
    return text + "}\n";
}

}  // namespace smbdirect::engine
