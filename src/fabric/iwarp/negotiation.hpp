// What the two MPA frames agree on. Pure decisions: RFC 5044 7.1, RFC 6581, and what siw and RNICs make of
// them.
#pragma once

#include <expected>
#include <optional>

#include "base/result.hpp"
#include "wire/ddp.hpp"
#include "wire/mpa.hpp"

namespace smbdirect::fabric::iwarp {

enum class Rtr : uint8_t {
    none,
    write,
    read
};  // the ready-to-receive message of RFC 6581 9: the initiator's first

struct Wishes {
    bool crc = true;
    uint8_t ird = 32, ord = 8;
};

struct Agreement {
    bool crc = false;
    uint8_t ird = 0, ord = 0;  // ours
    Rtr rtr = Rtr::none;       // initiator: to be sent
};

// Initiator. `revision` 2, or 1 after a peer closed on 2.
wire::MpaFrame make_request(const Wishes& wishes, uint8_t revision, std::span<const std::byte> private_data);

struct Refusal {
    Error error;
    std::optional<wire::Violation> terminate;  // to be sent before closing
};
std::expected<Agreement, Refusal> judge_reply(const wire::MpaFrame& reply, const Wishes& wishes,
                                              uint8_t revision);

// Responder.
enum class Verdict : uint8_t {
    acceptable,
    reject,  // answer with make_rejection(), then close
    close,   // a revision that we cannot answer in
};
Verdict judge_request(const wire::MpaFrame& request);

struct Answer {
    wire::MpaFrame reply;
    Agreement agreement;
};
Answer make_reply(const wire::MpaFrame& request, const Wishes& wishes,
                  std::span<const std::byte> private_data);
wire::MpaFrame make_rejection(const wire::MpaFrame& request, std::span<const std::byte> private_data);

}  // namespace smbdirect::fabric::iwarp
