#include "fabric/iwarp/negotiation.hpp"

#include <algorithm>

namespace smbdirect::fabric::iwarp {
namespace {

// A responder may want more reads served than we offered. RFC 6581 9.1 lets us end it; siw, like us, serves
// more as long as it can.
constexpr uint16_t most_inbound_reads = 128;

uint8_t least(uint8_t own, uint16_t peer) {
    return peer == wire::mpa_no_negotiation ? own : static_cast<uint8_t>(std::min<uint16_t>(own, peer));
}

}  // namespace

wire::MpaFrame make_request(const Wishes& wishes, uint8_t revision, std::span<const std::byte> private_data) {
    wire::MpaFrame request;
    request.kind = wire::MpaKind::request;
    request.revision = revision;
    request.crc = wishes.crc;
    request.private_data = private_data;
    if (revision >= 2) {
        // irdma refuses revision 2 without A and one of C, D; so all of it is always offered.
        request.enhanced = request.peer_to_peer = request.rtr_write = request.rtr_read = true;
        request.ird = wishes.ird;
        request.ord = std::max<uint8_t>(wishes.ord, 1);  // a Read as ready-to-receive needs one
    }
    return request;
}

std::expected<Agreement, Refusal> judge_reply(const wire::MpaFrame& reply, const Wishes& wishes,
                                              uint8_t revision) {
    const auto refuse = [](Reason reason, int errnum, std::optional<wire::Violation> terminate = {}) {
        return std::unexpected(Refusal{{reason, errnum}, terminate});
    };
    if (reply.reject) return refuse(Reason::peer_rejected, ECONNREFUSED);
    // RFC 5044 7.1.1: M asks us for markers in what we send, and that we cannot.
    if (reply.markers) return refuse(Reason::mpa_negotiation, ECONNREFUSED, wire::violation::mpa_bad_frame);
    if (reply.revision > revision) {
        return refuse(Reason::mpa_negotiation, ECONNREFUSED, wire::violation::mpa_bad_frame);
    }
    Agreement agreement{.crc = wishes.crc || reply.crc, .ird = wishes.ird, .ord = wishes.ord};
    if (!reply.enhanced) return agreement;  // revision 1, or RFC 6581 6: a frame without S equals it

    agreement.ord = least(wishes.ord, reply.ird);
    if (reply.ord != wire::mpa_no_negotiation && reply.ord > wishes.ird) {
        if (reply.ord > most_inbound_reads) {
            return refuse(Reason::mpa_negotiation, ECONNREFUSED, wire::violation::mpa_ird);
        }
        agreement.ird = static_cast<uint8_t>(reply.ord);
    }
    if (reply.peer_to_peer) {
        if (!reply.rtr_write && !reply.rtr_read) {
            return refuse(Reason::mpa_negotiation, ECONNREFUSED, wire::violation::mpa_no_rtr);
        }
        agreement.rtr = reply.rtr_write ? Rtr::write : Rtr::read;
    }
    return agreement;
}

Verdict judge_request(const wire::MpaFrame& request) {
    if (request.revision > 2) return Verdict::close;
    if (request.markers) return Verdict::reject;
    return Verdict::acceptable;
}

Answer make_reply(const wire::MpaFrame& request, const Wishes& wishes,
                  std::span<const std::byte> private_data) {
    Answer answer;
    wire::MpaFrame& reply = answer.reply;
    Agreement& agreement = answer.agreement;
    reply.kind = wire::MpaKind::reply;
    reply.revision = request.revision;  // RFC 6581 6: answered in kind
    reply.crc = agreement.crc = request.crc || wishes.crc;
    reply.private_data = private_data;
    agreement.ird = wishes.ird;
    agreement.ord = wishes.ord;
    if (!request.enhanced) return answer;

    reply.enhanced = true;
    if (request.peer_to_peer) {
        reply.peer_to_peer = true;
        // A zero-length Write where offered; also where nothing that we can was (RFC 6581 9.2: set one that
        // we support).
        reply.rtr_read = request.rtr_read && !request.rtr_write;
        reply.rtr_write = !reply.rtr_read;
    }
    agreement.ord = least(wishes.ord, request.ird);
    agreement.ird = least(wishes.ird, request.ord);
    if (reply.rtr_read || wishes.ird) agreement.ird = std::max<uint8_t>(agreement.ird, 1);
    // RFC 6581 9.1: "do not negotiate" is mirrored.
    reply.ird = request.ord == wire::mpa_no_negotiation ? wire::mpa_no_negotiation : agreement.ird;
    reply.ord = request.ird == wire::mpa_no_negotiation ? wire::mpa_no_negotiation : agreement.ord;
    return answer;
}

wire::MpaFrame make_rejection(const wire::MpaFrame& request, std::span<const std::byte> private_data) {
    wire::MpaFrame reply;
    reply.kind = wire::MpaKind::reply;
    reply.revision = request.revision;
    reply.crc = request.crc;
    reply.reject = true;
    // siw strips the words' four bytes of a rejection's private data whenever it asked in revision 2.
    reply.enhanced = request.enhanced;
    reply.private_data = private_data;
    return reply;
}

}  // namespace smbdirect::fabric::iwarp
