// The rules in force in this process: SMBDIRECT_RULES, then the rules file, then the defaults.
#pragma once

#include "rules.hpp"

namespace smbdirect::preload {

// Null where the socket shall stay TCP.
const Rule* rule_for_connect(const Endpoint& remote);
const Rule* rule_for_listen(const Endpoint& local);
// Port 139 of an address whose port 445 must be SMBDIRECT.
bool netbios_is_refused(const Endpoint& remote);

inline constexpr uint32_t kPreferTimeoutMs = 2000;

}  // namespace smbdirect::preload
