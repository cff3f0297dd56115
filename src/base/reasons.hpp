// The one table of numbered reasons: why a connection stayed on TCP, failed or ended. Shown in traces and by
// the tools, and printed into the documentation. Numbers are stable for ever: append, never renumber.
#pragma once

#include <cstdint>

namespace smbdirect {

enum class Reason : uint16_t {
#define SMBDIRECT_REASON(number, name, sentence) name = number,
#include "base/reasons.def"
#undef SMBDIRECT_REASON
};

constexpr const char* reason_name(Reason reason) {
    switch (reason) {
#define SMBDIRECT_REASON(number, name, sentence) \
    case Reason::name:                           \
        return #name;
#include "base/reasons.def"
#undef SMBDIRECT_REASON
    }
    return "unknown";
}

// A sentence for a person: what happened and, where it can be said, what to do.
constexpr const char* reason_sentence(Reason reason) {
    switch (reason) {
#define SMBDIRECT_REASON(number, name, sentence) \
    case Reason::name:                           \
        return sentence;
#include "base/reasons.def"
#undef SMBDIRECT_REASON
    }
    return "unknown reason";
}

}  // namespace smbdirect
