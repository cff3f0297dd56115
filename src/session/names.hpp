// Abstract AF_UNIX names: the meeting place of library and engine, and the names by which A and B are
// recognised. Abstract names belong to the network namespace, which is what we want, and to whoever binds
// them first, so the owner's uid is always checked (SO_PEERCRED): root or oneself.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <cstdint>

namespace smbdirect::session {

struct Name {
    sockaddr_un address{};
    socklen_t length = 0;
};

// SMBDIRECT_SOCKET in the environment overrides both. A name of at most 90 bytes.
Name meeting_name_system();         // "smbdirect/system"
Name meeting_name_user(uid_t uid);  // "smbdirect/uid/<uid>/<network namespace cookie>"
Name meeting_name_override(const char* name);

// Ends of a mirror pair: "smbdirect/c/<engine id>/<connection id>/a" and ".../b" (hexadecimal).
Name mirror_name(uint64_t engine_id, uint64_t connection_id, char end);
// AF_UNIX listener of a listener that is SMBDIRECT only: "smbdirect/l/<engine id>/<listener id>".
Name listener_name(uint64_t engine_id, uint64_t listener_id);

// True if this is a name of mirror_name(): fills what is not null.
bool parse_mirror_name(const sockaddr_un&, socklen_t length, uint64_t* engine_id, uint64_t* connection_id,
                       char* end);
bool parse_listener_name(const sockaddr_un&, socklen_t length, uint64_t* engine_id, uint64_t* listener_id);

// Where the engine knocks from on a listener beside TCP, over IPv4: 127.83.77.66 ("SMB"), easy to tell in a
// capture.
inline constexpr uint32_t kKnockSource = 0x7f534d42;  // host byte order

uint64_t network_namespace_cookie();  // of a socket made now; 0 where the kernel does not tell

}  // namespace smbdirect::session
