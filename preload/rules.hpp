// The rules that say which sockets of a program become SMBDIRECT. One a line or between semicolons:
//
//     listen|connect [program=GLOB[,GLOB...]] [address=ADDRESS[/BITS]] [port=N[-M]]  tcp | also | only |
//     prefer | require
//                    [fabric=auto|iwarp|memory|verbs] [rdma_port=N] [timeout=MS]
//
// `#` begins a comment; words may come in any order after the first. The first rule that matches decides.
// listen: tcp (stay), also (beside TCP), only. connect: tcp, prefer (fall back to TCP), require (fail
// instead).
#pragma once

#include <string_view>

#include "endpoint.hpp"
#include "session/messages.hpp"

namespace smbdirect::preload {

enum class Direction : uint8_t { listen, connect };
enum class Verdict : uint8_t { tcp, also, only, prefer, require };

struct Rule {
    Direction direction = Direction::connect;
    Verdict verdict = Verdict::tcp;
    sa_family_t family = 0;  // of address; 0: any
    uint8_t bits = 0;        // of address that count
    uint8_t address[16] = {};
    uint16_t first_port = 0, last_port = 65535;
    uint16_t rdma_port = 0;
    session::FabricChoice fabric = session::FabricChoice::automatic;
    uint32_t timeout_ms = 0;  // 0: not named
    uint16_t line = 0;        // counting statements that stand on lines of their own; for the trace
    char program[96] = {};    // globs, separated by commas; empty: any

    bool matches(Direction, std::string_view program_name, const Endpoint&) const;
};

enum class Parsed { rule, nothing, mistake };
// One statement. `what` says what is wrong with it.
Parsed parse_rule(std::string_view statement, Rule* rule, const char** what);

bool glob_matches(std::string_view glob, std::string_view text);

class RuleSet {
  public:
    static constexpr unsigned kMax = 128;

    // Appends the rules of a text; a statement that cannot be understood is reported and left out.
    template <class Mistake>  // (unsigned line, std::string_view statement, const char* what)
    void add(std::string_view text, Mistake mistake) {
        unsigned line = 1;
        while (!text.empty()) {
            const size_t end = end_of_statement(text);
            const std::string_view statement(text.data(), end);
            const char* what = "";
            Rule rule;
            const Parsed parsed = parse_rule(statement, &rule, &what);
            rule.line = static_cast<uint16_t>(line);
            if (parsed == Parsed::mistake)
                mistake(line, statement, what);
            else if (parsed == Parsed::rule && count_ == kMax)
                mistake(line, statement, "too many rules");
            else if (parsed == Parsed::rule)
                rules_[count_++] = rule;
            if (end < text.size() && text[end] == '\n') ++line;
            text.remove_prefix(end < text.size() ? end + 1 : end);
        }
    }
    const Rule* find(Direction, std::string_view program, const Endpoint&) const;
    unsigned size() const { return count_; }
    void clear() { count_ = 0; }

  private:
    static size_t end_of_statement(std::string_view text);

    Rule rules_[kMax];
    unsigned count_ = 0;
};

}  // namespace smbdirect::preload
