#include "fabric/address.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <cstddef>
#include <cstring>

namespace smbdirect::fabric {
namespace {

template <class T>
T as(const sockaddr_storage& address) {
    T out;
    std::memcpy(&out, &address, sizeof out);
    return out;
}

// Every address as IPv6, IPv4 mapped.
in6_addr unified(const sockaddr_storage& address) {
    if (address.ss_family == AF_INET6) return as<sockaddr_in6>(address).sin6_addr;
    in6_addr out{};
    if (address.ss_family == AF_INET) {
        out.s6_addr[10] = out.s6_addr[11] = 0xff;
        std::memcpy(&out.s6_addr[12], &reinterpret_cast<const sockaddr_in&>(address).sin_addr, 4);
    }
    return out;
}

}  // namespace

sockaddr_storage address_from(const sockaddr* address) {
    sockaddr_storage out{};
    std::memcpy(&out, address, address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
    return out;
}

std::string text_of(const sockaddr_storage& address) {
    char text[INET6_ADDRSTRLEN] = "";
    const std::string port = ':' + std::to_string(port_of(address));
    if (address.ss_family == AF_INET) {
        const in_addr host = as<sockaddr_in>(address).sin_addr;
        return inet_ntop(AF_INET, &host, text, sizeof text) + port;
    }
    if (address.ss_family != AF_INET6) return "no address";
    const in6_addr host = as<sockaddr_in6>(address).sin6_addr;
    return '[' + std::string(inet_ntop(AF_INET6, &host, text, sizeof text)) + ']' + port;
}

socklen_t address_size(const sockaddr_storage& address) {
    return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

uint16_t port_of(const sockaddr_storage& address) {
    if (address.ss_family == AF_INET6) return ntohs(as<sockaddr_in6>(address).sin6_port);
    return address.ss_family == AF_INET ? ntohs(as<sockaddr_in>(address).sin_port) : 0;
}

void set_port(sockaddr_storage& address, uint16_t port) {
    // Both families have the port at the same place.
    static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
    const uint16_t wire = htons(port);
    std::memcpy(reinterpret_cast<char*>(&address) + offsetof(sockaddr_in, sin_port), &wire, sizeof wire);
}

bool is_any(const sockaddr_storage& address) {
    const in6_addr ip = unified(address);
    if (IN6_IS_ADDR_V4MAPPED(&ip)) return ip.s6_addr32[3] == 0;
    return IN6_IS_ADDR_UNSPECIFIED(&ip);
}

bool is_loopback(const sockaddr_storage& address) {
    const in6_addr ip = unified(address);
    if (IN6_IS_ADDR_V4MAPPED(&ip)) return ip.s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(&ip);
}

bool same_host(const sockaddr_storage& a, const sockaddr_storage& b) {
    const in6_addr left = unified(a), right = unified(b);
    return std::memcmp(&left, &right, sizeof left) == 0;
}

bool same_address(const sockaddr_storage& a, const sockaddr_storage& b) {
    const auto scope = [](const sockaddr_storage& address) {
        return address.ss_family == AF_INET6 ? as<sockaddr_in6>(address).sin6_scope_id : 0;
    };
    return same_host(a, b) && scope(a) == scope(b);
}

bool covers(const sockaddr_storage& wanted, bool v6_only, const sockaddr_storage& address) {
    if (!is_any(wanted)) return same_host(wanted, address);
    return wanted.ss_family == address.ss_family || (wanted.ss_family == AF_INET6 && !v6_only);
}

std::vector<sockaddr_storage> host_addresses() {
    std::vector<sockaddr_storage> out;
    ifaddrs* list = nullptr;
    if (getifaddrs(&list) != 0) return out;
    for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
        if (!entry->ifa_addr || !(entry->ifa_flags & IFF_UP)) continue;
        const int family = entry->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) continue;
        sockaddr_storage address{};
        std::memcpy(&address, entry->ifa_addr,
                    family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
        out.push_back(address);
    }
    freeifaddrs(list);
    return out;
}

}  // namespace smbdirect::fabric
