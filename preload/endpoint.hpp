// An IP address and port, with IPv4-mapped IPv6 addresses brought to IPv4, and the ways back to a sockaddr.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace smbdirect::preload {

struct Endpoint {
    sa_family_t family = 0;    // AF_INET or AF_INET6
    uint8_t address[16] = {};  // network byte order
    uint16_t port = 0;         // host byte order
    uint32_t scope = 0;

    unsigned bits() const { return family == AF_INET ? 32 : 128; }
};

// False if it is neither, or too short. 24 bytes are enough for IPv6, as in the kernel.
inline bool endpoint_of(const sockaddr* address, socklen_t length, Endpoint* endpoint) {
    constexpr socklen_t kShortV6 = 24;
    if (!address || length < sizeof(sa_family_t)) return false;
    *endpoint = {};
    if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
        sockaddr_in v4;
        std::memcpy(&v4, address, sizeof v4);
        endpoint->family = AF_INET;
        endpoint->port = ntohs(v4.sin_port);
        std::memcpy(endpoint->address, &v4.sin_addr, 4);
        return true;
    }
    if (address->sa_family != AF_INET6 || length < kShortV6) return false;
    sockaddr_in6 v6{};
    std::memcpy(&v6, address, length < sizeof v6 ? length : sizeof v6);
    endpoint->port = ntohs(v6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
        endpoint->family = AF_INET;
        std::memcpy(endpoint->address, v6.sin6_addr.s6_addr + 12, 4);
    } else {
        endpoint->family = AF_INET6;
        endpoint->scope = v6.sin6_scope_id;
        std::memcpy(endpoint->address, &v6.sin6_addr, 16);
    }
    return true;
}

// As a socket of family `domain` shows it: IPv4 is mapped on an IPv6 socket. Gives the length.
inline socklen_t to_sockaddr(const Endpoint& endpoint, int domain, sockaddr_storage* out) {
    std::memset(out, 0, sizeof *out);
    if (endpoint.family == AF_INET && domain != AF_INET6) {
        auto* v4 = reinterpret_cast<sockaddr_in*>(out);
        v4->sin_family = AF_INET;
        v4->sin_port = htons(endpoint.port);
        std::memcpy(&v4->sin_addr, endpoint.address, 4);
        return sizeof *v4;
    }
    auto* v6 = reinterpret_cast<sockaddr_in6*>(out);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(endpoint.port);
    if (endpoint.family == AF_INET) {
        v6->sin6_addr.s6_addr[10] = v6->sin6_addr.s6_addr[11] = 0xff;
        std::memcpy(v6->sin6_addr.s6_addr + 12, endpoint.address, 4);
    } else {
        std::memcpy(&v6->sin6_addr, endpoint.address, 16);
        v6->sin6_scope_id = endpoint.scope;
    }
    return sizeof *v6;
}

// For people: 192.0.2.1:445, [2001:db8::1]:445.
inline void describe(const Endpoint& endpoint, char (&text)[64]) {
    char address[INET6_ADDRSTRLEN] = "?";
    inet_ntop(endpoint.family, endpoint.address, address, sizeof address);
    snprintf(text, sizeof text, endpoint.family == AF_INET6 ? "[%s]:%u" : "%s:%u", address, endpoint.port);
}

}  // namespace smbdirect::preload
