// The one line on stderr of a connect() that had to be SMBDIRECT and could not be (DESIGN D7): the errno
// alone would not say what to do about it. SMBDIRECT_QUIET=1 keeps it off.
#pragma once

#include "base/reasons.hpp"
#include "endpoint.hpp"

namespace smbdirect::preload {

struct Attachment;

[[gnu::cold]] void complain(const Endpoint& peer, Reason reason, int error);
// Once for a converted connection that failed; nothing for any other.
[[gnu::cold]] void complain_once(Attachment&, int error);

}  // namespace smbdirect::preload
