// What a driver says in the trace of its program. Called only while somebody traces, except for trace_line's
// guard.
#include <fmt/format.h>

#include "engine/driver.hpp"

namespace smbdirect::engine {

void Driver::trace_line(const char* what, Error error) {
    if (!context_.trace->active()) return;
    const char* detail = core_ && core_->termination() ? core_->termination_detail() : "";
    if (error.errnum || error.reason != Reason::none)
        context_.trace->write(
            id_, fmt::format("connection {}: {}{}{}", what, in_words(error), *detail ? "; " : "", detail),
            error.errnum != 0);
    else
        context_.trace->write(id_, fmt::format("connection {}", what));
}

void Driver::trace_violation() {
    if (context_.trace->active())
        context_.trace->write(
            id_, fmt::format("the peer's message is refused: {}", core_->termination_detail()), true);
}

void Driver::trace_negotiated() {
    if (!context_.trace->active()) return;
    const auto& n = core_->negotiated();
    context_.trace->write(
        id_,
        fmt::format("negotiated version=0x{:04x} role={} fabric={} peer={} MaxSendSize={} MaxReceiveSize={} "
                    "MaxFragmentedSendSize={} MaxFragmentedReceiveSize={} MaxReadWriteSize={} SendCredits={} "
                    "ReceiveCreditTarget={} receives={} keepalive_ms={}",
                    n.version, passive_ ? "passive" : "active", endpoint_->fabric_name(),
                    own_kind_ ? "own-kind" : "stranger", n.max_send_size, n.max_receive_size,
                    n.max_fragmented_send_size, n.max_fragmented_receive_size, n.max_read_write_size,
                    core_->send_credits(), core_->receive_credit_target(), core_->receives_outstanding(),
                    core_settings_.keepalive_interval / 1'000'000));
}

void Driver::trace_received(const connection::Delivery& d, uint32_t length) {
    context_.trace->write(
        id_, fmt::format("in  length={} DataLength={} RemainingDataLength={} CreditsGranted={} Flags={} "
                         "SendCredits={} receives={}",
                         length, d.length, d.remaining_data_length, d.credits_granted, d.flags,
                         core_->send_credits(), core_->receives_outstanding()));
}

void Driver::trace_sent(const connection::OutgoingMessage& m) {
    context_.trace->write(
        id_, fmt::format("out length={} DataLength={} RemainingDataLength={} CreditsGranted={} Flags={} "
                         "SendCredits={} receives={}",
                         m.header.size() + m.payload_length, m.payload_length, m.remaining_data_length,
                         m.credits_granted, m.flags, core_->send_credits(), core_->receives_outstanding()));
}

void Driver::trace_channel(const smb2::TranslatedRequest& m) {
    uint64_t fetched = 0;
    for (const auto& fetch : m.fetches) fetched += fetch.length;
    context_.trace->write(id_,
                          fmt::format("channel: READ={} WRITE={} to_fetch={} descriptors={} refused={}{}{}",
                                      m.reads, m.writes, fetched, m.sources.size(), m.refused,
                                      m.refused ? ", since " : "", m.refused ? m.refusal : ""),
                          m.refused != 0);
}

void Driver::trace_unused(smb2::Unused why) {
    static constexpr std::array<const char*, smb2::kUnusedReasons> kRemedies = {
        "",
        "the session is signed: unless signing is required (server signing = auto or disabled; for a client, "
        "client "
        "signing = auto; for cifs.ko, no sign and no sec=...i), they would go by RDMA",
        "the session or share is encrypted: without (smb encrypt = off or auto; for cifs.ko, no seal), they "
        "would go by "
        "RDMA",
        "the dialect is below 3.0: with SMB3 (server max protocol, client max protocol; for cifs.ko, "
        "vers=3.1.1), they "
        "would go by RDMA",
    };
    context_.trace->write(id_, fmt::format("channel: large transfers go inline, since {}",
                                           kRemedies[static_cast<size_t>(why)]));
}

void Driver::trace_rdma(const char* what, const smb2::Descriptor& remote) {
    context_.trace->write(id_, fmt::format("channel: {} length={} token=0x{:08x} offset=0x{:x}", what,
                                           remote.length, remote.token, remote.offset));
}

void Driver::trace_client_channel(std::span<const smb2::Descriptor> buffer) {
    context_.trace->write(
        id_, fmt::format("channel: {} of {} bytes goes by channel, descriptors={} token=0x{:08x}",
                         stage_ == Stage::channel_read ? "READ" : "WRITE", client_amount_, buffer.size(),
                         buffer.empty() ? 0 : buffer[0].token));
}

void Driver::trace_stall() {
    context_.trace->write(id_, fmt::format("stall: SendCredits={}, waiting for the peer to grant credits",
                                           core_->send_credits()));
}

}  // namespace smbdirect::engine
