#include "rules.hpp"

#include <arpa/inet.h>

#include <charconv>
#include <cstring>

namespace smbdirect::preload {
namespace {

// substr() would bring in the exceptions of libstdc++, and with them an allocation when the library is
// loaded.
std::string_view part(std::string_view text, size_t from, size_t count = std::string_view::npos) {
    if (from > text.size()) from = text.size();
    return {text.data() + from, count < text.size() - from ? count : text.size() - from};
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

std::string_view next_word(std::string_view* text) {
    while (!text->empty() && is_space(text->front())) text->remove_prefix(1);
    size_t length = 0;
    while (length < text->size() && !is_space((*text)[length]) && (*text)[length] != '#') ++length;
    const std::string_view word = part(*text, 0, length);
    text->remove_prefix(length);
    return word;
}

template <class Number>
bool parse_number(std::string_view text, Number* number, uint64_t least, uint64_t most) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
        return false;
    *number = static_cast<Number>(value);
    return true;
}

bool parse_ports(std::string_view text, Rule* rule) {
    const size_t dash = text.find('-');
    if (!parse_number(part(text, 0, dash), &rule->first_port, 0, 65535)) return false;
    if (dash == text.npos) {
        rule->last_port = rule->first_port;
        return true;
    }
    return parse_number(part(text, dash + 1), &rule->last_port, rule->first_port, 65535);
}

bool parse_address(std::string_view text, Rule* rule) {
    char copy[INET6_ADDRSTRLEN];
    const size_t slash = text.find('/');
    std::string_view address = part(text, 0, slash);
    if (address.size() >= 2 && address.front() == '[' && address.back() == ']')
        address = part(address, 1, address.size() - 2);
    if (address.size() >= sizeof copy) return false;
    std::memcpy(copy, address.data(), address.size());
    copy[address.size()] = 0;
    if (inet_pton(AF_INET, copy, rule->address) == 1)
        rule->family = AF_INET;
    else if (inet_pton(AF_INET6, copy, rule->address) == 1)
        rule->family = AF_INET6;
    else
        return false;
    const unsigned all = rule->family == AF_INET ? 32 : 128;
    rule->bits = static_cast<uint8_t>(all);
    return slash == text.npos || parse_number(part(text, slash + 1), &rule->bits, 0, all);
}

bool parse_fabric(std::string_view text, Rule* rule) {
    constexpr struct {
        std::string_view name;
        session::FabricChoice choice;
    } choices[] = {{"auto", session::FabricChoice::automatic},
                   {"iwarp", session::FabricChoice::iwarp},
                   {"memory", session::FabricChoice::memory},
                   {"verbs", session::FabricChoice::verbs}};
    for (const auto& [name, choice] : choices) {
        if (text != name) continue;
        rule->fabric = choice;
        return true;
    }
    return false;
}

bool parse_program(std::string_view text, Rule* rule) {
    if (text.empty() || text.size() >= sizeof rule->program) return false;
    std::memcpy(rule->program, text.data(), text.size());
    rule->program[text.size()] = 0;
    return true;
}

// name=value. Null if it is right, else what is wrong.
const char* parse_setting(std::string_view name, std::string_view value, Rule* rule) {
    if (name == "program")
        return parse_program(value, rule) ? nullptr
                                          : "program= wants a name or pattern of at most 95 characters";
    if (name == "address")
        return parse_address(value, rule) ? nullptr
                                          : "address= wants an IPv4 or IPv6 address, or one with /BITS";
    if (name == "port") return parse_ports(value, rule) ? nullptr : "port= wants a number or a range N-M";
    if (name == "fabric")
        return parse_fabric(value, rule) ? nullptr : "fabric= is auto, iwarp, memory or verbs";
    if (name == "rdma_port")
        return parse_number(value, &rule->rdma_port, 1, 65535) ? nullptr : "rdma_port= wants a port number";
    if (name == "timeout")
        return parse_number(value, &rule->timeout_ms, 1, 3'600'000) ? nullptr : "timeout= wants milliseconds";
    return "there is no setting of that name";
}

bool parse_verdict(std::string_view word, Rule* rule) {
    constexpr struct {
        std::string_view name;
        Verdict verdict;
    } verdicts[] = {{"tcp", Verdict::tcp},
                    {"also", Verdict::also},
                    {"only", Verdict::only},
                    {"prefer", Verdict::prefer},
                    {"require", Verdict::require}};
    for (const auto& [name, verdict] : verdicts) {
        if (word != name) continue;
        const bool for_listen = verdict == Verdict::also || verdict == Verdict::only;
        if (verdict != Verdict::tcp && for_listen != (rule->direction == Direction::listen)) return false;
        rule->verdict = verdict;
        return true;
    }
    return false;
}

bool same_bits(const uint8_t* a, const uint8_t* b, unsigned bits) {
    if (std::memcmp(a, b, bits / 8) != 0) return false;
    const unsigned rest = bits % 8;
    return rest == 0 || (a[bits / 8] >> (8 - rest)) == (b[bits / 8] >> (8 - rest));
}

}  // namespace

Parsed parse_rule(std::string_view statement, Rule* rule, const char** what) {
    *rule = {};
    std::string_view word = next_word(&statement);
    if (word.empty()) return Parsed::nothing;
    if (word == "listen")
        rule->direction = Direction::listen;
    else if (word == "connect")
        rule->direction = Direction::connect;
    else
        return *what = "a rule begins with listen or connect", Parsed::mistake;

    bool decided = false;
    while (!(word = next_word(&statement)).empty()) {
        const size_t equals = word.find('=');
        if (equals != word.npos) {
            *what = parse_setting(part(word, 0, equals), part(word, equals + 1), rule);
            if (*what) return Parsed::mistake;
        } else if (decided) {
            return *what = "a rule has one verdict", Parsed::mistake;
        } else if (!parse_verdict(word, rule)) {
            *what = rule->direction == Direction::listen
                        ? "the verdict of a listen rule is tcp, also or only"
                        : "the verdict of a connect rule is tcp, prefer or require";
            return Parsed::mistake;
        } else {
            decided = true;
        }
    }
    if (!decided) return *what = "the verdict is missing", Parsed::mistake;
    return Parsed::rule;
}

bool glob_matches(std::string_view glob, std::string_view text) {
    size_t g = 0, t = 0, star = glob.npos, retry = 0;
    while (t < text.size()) {
        if (g < glob.size() && (glob[g] == '?' || (glob[g] != '*' && glob[g] == text[t]))) {
            ++g, ++t;
        } else if (g < glob.size() && glob[g] == '*') {
            star = g++;
            retry = t;
        } else if (star != glob.npos) {
            g = star + 1;
            t = ++retry;
        } else {
            return false;
        }
    }
    while (g < glob.size() && glob[g] == '*') ++g;
    return g == glob.size();
}

bool Rule::matches(Direction wanted, std::string_view program_name, const Endpoint& endpoint) const {
    if (direction != wanted || endpoint.port < first_port || endpoint.port > last_port) return false;
    if (family && (family != endpoint.family || !same_bits(address, endpoint.address, bits))) return false;
    std::string_view globs = program;
    if (globs.empty()) return true;
    while (!globs.empty()) {
        const size_t comma = globs.find(',');
        if (glob_matches(part(globs, 0, comma), program_name)) return true;
        globs.remove_prefix(comma == globs.npos ? globs.size() : comma + 1);
    }
    return false;
}

const Rule* RuleSet::find(Direction direction, std::string_view program, const Endpoint& endpoint) const {
    for (unsigned i = 0; i < count_; ++i)
        if (rules_[i].matches(direction, program, endpoint)) return &rules_[i];
    return nullptr;
}

// A comment goes on to the end of its line, over semicolons.
size_t RuleSet::end_of_statement(std::string_view text) {
    bool comment = false;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\n' || (text[i] == ';' && !comment)) return i;
        if (text[i] == '#') comment = true;
    }
    return text.size();
}

}  // namespace smbdirect::preload
