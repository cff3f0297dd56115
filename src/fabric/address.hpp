// Socket addresses, as far as the fabrics and the engine look into them.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace smbdirect::fabric {

sockaddr_storage address_from(const sockaddr* address);  // IPv4 or IPv6
std::string text_of(const sockaddr_storage& address);    // 192.0.2.1:445 or [2001:db8::1]:445
socklen_t address_size(const sockaddr_storage& address);
uint16_t port_of(const sockaddr_storage& address);
void set_port(sockaddr_storage& address, uint16_t port);
bool is_any(const sockaddr_storage& address);
bool is_loopback(const sockaddr_storage& address);
// The same host address; an IPv4-mapped IPv6 address equals its IPv4 one. Ports do not matter.
bool same_host(const sockaddr_storage& a, const sockaddr_storage& b);
// The same, and the scope of a link-local one as well.
bool same_address(const sockaddr_storage& a, const sockaddr_storage& b);
// Whether a socket bound to `wanted` serves `address`: the same one, or any of its family, or of both.
bool covers(const sockaddr_storage& wanted, bool v6_only, const sockaddr_storage& address);
// Every unicast address of the interfaces that are up, loopback included.
std::vector<sockaddr_storage> host_addresses();

}  // namespace smbdirect::fabric
