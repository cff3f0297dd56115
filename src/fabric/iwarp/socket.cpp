#include "fabric/iwarp/socket.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>

#include "fabric/address.hpp"
#include "wire/ddp.hpp"

namespace smbdirect::fabric::iwarp {
namespace {

constexpr uint32_t least_mulpdu = 128;  // RFC 5044 4.5

void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

}  // namespace

void Socket::close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

void Socket::reset() {
    if (fd_ < 0) return;
    const linger abrupt{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
    close();
}

Socket open_socket(int family) {
    return Socket(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
}

void tune_buffers(int fd, const Settings& settings) {
    if (settings.send_buffer) set(fd, SOL_SOCKET, SO_SNDBUF, settings.send_buffer);
    if (settings.receive_buffer) set(fd, SOL_SOCKET, SO_RCVBUF, settings.receive_buffer);
}

void tune_connection(int fd, const Settings& settings) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (settings.user_timeout_ms)
        set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(settings.user_timeout_ms));
    if (settings.keepalive_idle_s) {
        set(fd, IPPROTO_TCP, TCP_KEEPIDLE, settings.keepalive_idle_s);
        set(fd, IPPROTO_TCP, TCP_KEEPINTVL, settings.keepalive_interval_s);
        set(fd, IPPROTO_TCP, TCP_KEEPCNT, settings.keepalive_probes);
        set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    }
}

sockaddr_storage local_address_of(int fd) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    return address;
}

sockaddr_storage remote_address_of(int fd) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size);
    return address;
}

int pending_error(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

uint32_t mulpdu_of_path(int fd) {
    int segment = 0;
    socklen_t size = sizeof segment;
    if (getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, &size) != 0 || segment <= 0) segment = 536;
    const auto emss = static_cast<uint32_t>(segment);
    return std::clamp(emss - std::min(emss, 6 + emss % 4), least_mulpdu, wire::max_mulpdu);
}

bool wants_crc(int fd, const Settings& settings) {
    if (settings.crc != Crc::automatic) return settings.crc == Crc::on;
    const auto local = local_address_of(fd), remote = remote_address_of(fd);
    return !is_loopback(remote) && !same_host(local, remote);
}

Error connect_error(int errnum) {
    switch (errnum) {
        case ECONNREFUSED:
            return {Reason::connect_refused, ECONNREFUSED};
        case ETIMEDOUT:
            return {Reason::connect_timeout, ETIMEDOUT};
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EHOSTDOWN:
        case ENETDOWN:
        case EACCES:  // a route that says prohibited
        case EPERM:   // a firewall here
            return {Reason::connect_unreachable, errnum};
        case EADDRINUSE:
        case EADDRNOTAVAIL:
            return {Reason::local_port_or_address, errnum};
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return {Reason::engine_resources, errnum};
        case ECONNRESET:
        case EPIPE:
            return {Reason::peer_not_iwarp, ECONNRESET};
        default:
            return {Reason::transport_error, errnum};
    }
}

Error stream_error(int errnum) {
    switch (errnum) {
        case ECONNRESET:
        case EPIPE:
            return {Reason::peer_reset, ECONNRESET};
        case ETIMEDOUT:
            return {Reason::keepalive_timeout, ETIMEDOUT};
        default:
            return {Reason::transport_error, errnum};
    }
}

}  // namespace smbdirect::fabric::iwarp
