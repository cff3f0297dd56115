// Errors as values. An Error carries what a socket call would answer (errno) and a numbered reason that a
// person can act on (base/reasons.hpp). No strings, no allocation, no exceptions.
#pragma once

#include <cerrno>
#include <expected>

#include "base/reasons.hpp"

namespace smbdirect {

struct Error {
    Reason reason = Reason::none;
    int errnum = 0;  // an errno value, positive

    friend bool operator==(const Error&, const Error&) = default;
};

template <class T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(Reason reason, int errnum) {
    return std::unexpected(Error{reason, errnum});
}
// The errno of the call that just failed.
inline std::unexpected<Error> fail(Reason reason) { return std::unexpected(Error{reason, errno}); }

}  // namespace smbdirect
