// The places where the readiness protocols can be got wrong, as compile-time switches. Production code
// instantiates the protocol with Correct only; the stress test also with each wrong variant and asserts that
// it is caught.
#pragma once

namespace smbdirect::session {

enum class Drain { counted, clear_then_all, all_then_clear };

struct Correct {
    // R, consumer: takes exactly the counted tokens.
    static constexpr Drain token_drain = Drain::counted;
    // R, consumer: receives all that it owes before it returns; else late tokens cause a spurious wake-up.
    static constexpr bool waits_for_owed = true;
    // R, producer: takes a count back, and sends nothing, when the ring was drained meanwhile; else a
    // spurious wake-up.
    static constexpr bool takes_back = true;
    // R, producer: every add has its send; else a lost wake-up.
    static constexpr bool every_add_has_its_send = true;
    // W, engine: takes exactly the bytes of one stuffing for each 1->0 of `stuffed`.
    static constexpr Drain stuffing_drain = Drain::counted;
    // R, sweep: looks whether tokens are in A before it looks how many are counted; else a consumer between
    // the two looks is taken for a stranger.
    static constexpr bool looks_at_tokens_first = true;
    // Between two steps that another process may get in between: the stress test loses time here.
    static void step() {}
};

}  // namespace smbdirect::session
