#include "options.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "process.hpp"
#include "real.hpp"
#include "session/readiness.hpp"
#include "user_memory.hpp"

namespace smbdirect::preload {
namespace {

using session::ConnectionState;
using session::SocketOptions;
using Value = std::atomic<int32_t> SocketOptions::*;

// Options that are one int and mean nothing but themselves.
struct Plain {
    int level, option;
    Value value;
};
constexpr Plain kPlain[] = {
    {SOL_SOCKET, SO_KEEPALIVE, &SocketOptions::keepalive},
    {SOL_SOCKET, SO_REUSEADDR, &SocketOptions::reuse_address},
    {SOL_SOCKET, SO_REUSEPORT, &SocketOptions::reuse_port},
    {SOL_SOCKET, SO_PRIORITY, &SocketOptions::priority},
    {SOL_SOCKET, SO_RCVLOWAT, &SocketOptions::receive_low_water},
    {SOL_SOCKET, SO_RCVBUF, &SocketOptions::receive_buffer},
    {SOL_SOCKET, SO_SNDBUF, &SocketOptions::send_buffer},
    {IPPROTO_TCP, TCP_NODELAY, &SocketOptions::no_delay},
    {IPPROTO_TCP, TCP_CORK, &SocketOptions::cork},
    {IPPROTO_TCP, TCP_QUICKACK, &SocketOptions::quick_ack},
    {IPPROTO_TCP, TCP_KEEPIDLE, &SocketOptions::keep_idle},
    {IPPROTO_TCP, TCP_KEEPINTVL, &SocketOptions::keep_interval},
    {IPPROTO_TCP, TCP_KEEPCNT, &SocketOptions::keep_count},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, &SocketOptions::user_timeout},
    {IPPROTO_IP, IP_TOS, &SocketOptions::type_of_service},
    {IPPROTO_IPV6, IPV6_TCLASS, &SocketOptions::type_of_service},
    {IPPROTO_IPV6, IPV6_V6ONLY, &SocketOptions::v6_only},
};

const Plain* find_plain(int level, int option) {
    for (const Plain& one : kPlain)
        if (one.level == level && one.option == option) return &one;
    return nullptr;
}

bool is_boolean(int level, int option) {
    return (level == SOL_SOCKET &&
            (option == SO_KEEPALIVE || option == SO_REUSEADDR || option == SO_REUSEPORT)) ||
           (level == IPPROTO_TCP &&
            (option == TCP_NODELAY || option == TCP_CORK || option == TCP_QUICKACK)) ||
           (level == IPPROTO_IPV6 && option == IPV6_V6ONLY);
}

// What Linux refuses for the TCP_KEEP* family.
bool out_of_range(int level, int option, int value) {
    if (level != IPPROTO_TCP) return false;
    switch (option) {
        case TCP_KEEPIDLE:
        case TCP_KEEPINTVL:
            return value < 1 || value > 32767;
        case TCP_KEEPCNT:
            return value < 1 || value > 127;
        case TCP_USER_TIMEOUT:
            return value < 0;
        default:
            return false;
    }
}

int32_t as_kept(int level, int option, int value) {
    if (is_boolean(level, option)) return value != 0;
    if (level == SOL_SOCKET && (option == SO_SNDBUF || option == SO_RCVBUF)) {
        // The kernel shows twice what was asked for, within limits.
        constexpr int kLeastSend = 4608, kLeastReceive = 2304, kMost = 1 << 29;
        return std::max(std::clamp(value, 0, kMost) * 2, option == SO_SNDBUF ? kLeastSend : kLeastReceive);
    }
    if (level == SOL_SOCKET && option == SO_RCVLOWAT) return value == 0 ? 1 : value;
    return value;
}

int64_t to_microseconds(const timeval& t) { return t.tv_sec * 1'000'000LL + t.tv_usec; }

int copy_out(const void* from, size_t size, void* value, socklen_t* length) {
    if (!can_write(length, sizeof *length)) return errno = EFAULT, -1;
    if (static_cast<int>(*length) < 0) return errno = EINVAL, -1;
    const size_t copied = std::min<size_t>(*length, size);
    if (!can_write(value, copied)) return errno = EFAULT, -1;
    std::memcpy(value, from, copied);
    *length = static_cast<socklen_t>(copied);
    return 0;
}
int copy_out(int number, void* value, socklen_t* length) {
    return copy_out(&number, sizeof number, value, length);
}

// smbd with multichannel drops a client whose connection does not answer this.
int get_tcp_info(Attachment& attachment, void* value, socklen_t* length) {
    tcp_info info{};
    info.tcpi_state = static_cast<uint8_t>(tcp_state(attachment));
    info.tcpi_rto = 200'000;  // us; Linux's least
    info.tcpi_ato = 40'000;
    info.tcpi_snd_mss = info.tcpi_rcv_mss = info.tcpi_advmss = 65483;  // of loopback
    info.tcpi_pmtu = 65535;
    info.tcpi_rtt = 100;
    info.tcpi_rttvar = 50;
    info.tcpi_snd_cwnd = 10;
    return copy_out(&info, sizeof info, value, length);
}

int get_socket_level(Attachment& attachment, int fd, int option, void* value, socklen_t* length) {
    SocketOptions& options = attachment.socket_options();
    switch (option) {
        case SO_ERROR:
            return copy_out(
                attachment.kind == Kind::connection ? session::take_error(attachment.view, fd) : 0, value,
                length);
        case SO_TYPE:
            return copy_out(SOCK_STREAM, value, length);
        case SO_DOMAIN:
            return copy_out(domain_of(attachment), value, length);
        case SO_PROTOCOL:
            return copy_out(static_cast<int>(attachment.face), value, length);
        case SO_LINGER: {
            const linger answer{options.linger_on, options.linger_seconds};
            return copy_out(&answer, sizeof answer, value, length);
        }
        case SO_PEERCRED: {
            const ucred nobody{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
            return copy_out(&nobody, sizeof nobody, value, length);
        }
        case SO_RCVTIMEO:
        case SO_SNDTIMEO: {
            const int64_t us = option == SO_RCVTIMEO ? options.receive_timeout_us : options.send_timeout_us;
            const timeval answer{us / 1'000'000, us % 1'000'000};
            return copy_out(&answer, sizeof answer, value, length);
        }
        case SO_PASSCRED:
        case SO_PEERSEC:
            return errno = ENOPROTOOPT, -1;
        default:
            return real::getsockopt(fd, SOL_SOCKET, option, value, length);
    }
}

int get_tcp_level(Attachment& attachment, int option, void* value, socklen_t* length) {
    switch (option) {
        case TCP_INFO:
            return get_tcp_info(attachment, value, length);
        case TCP_MAXSEG:
            return copy_out(65483, value, length);
        case TCP_SYNCNT:
            return copy_out(6, value, length);
        case TCP_LINGER2:
            return copy_out(60, value, length);
        case TCP_ULP:
            return copy_out("", 0, value, length);
        case TCP_CONGESTION:
            return copy_out("cubic\0\0\0\0\0\0\0\0\0\0", 16, value, length);
        case TCP_DEFER_ACCEPT:
        case TCP_WINDOW_CLAMP:
        case TCP_THIN_LINEAR_TIMEOUTS:
        case TCP_THIN_DUPACK:
        case TCP_NOTSENT_LOWAT:
        case TCP_FASTOPEN:
        case TCP_FASTOPEN_CONNECT:
        case TCP_TIMESTAMP:
        case TCP_SAVE_SYN:
            return copy_out(0, value, length);
        default:
            return errno = ENOPROTOOPT, -1;
    }
}

int set_socket_level(Attachment& attachment, int fd, int option, const void* value, socklen_t length) {
    SocketOptions& options = attachment.socket_options();
    switch (option) {
        case SO_LINGER: {
            linger wish;
            if (length < sizeof wish) return errno = EINVAL, -1;
            std::memcpy(&wish, value, sizeof wish);
            options.linger_seconds = wish.l_linger;
            options.linger_on = wish.l_onoff != 0;
            return 0;
        }
        case SO_RCVTIMEO:
        case SO_SNDTIMEO: {
            timeval wish;
            if (length < sizeof wish) return errno = EINVAL, -1;
            std::memcpy(&wish, value, sizeof wish);
            if (wish.tv_usec < 0 || wish.tv_usec >= 1'000'000) return errno = EDOM, -1;
            if (wish.tv_sec < 0) wish = {};  // as the kernel: no waiting, which for us is none either
            (option == SO_RCVTIMEO ? options.receive_timeout_us : options.send_timeout_us) =
                to_microseconds(wish);
            return option == SO_RCVTIMEO ? real::setsockopt(fd, SOL_SOCKET, option, value, length) : 0;
        }
        case SO_SNDBUFFORCE:
            return set_option(attachment, fd, SOL_SOCKET, SO_SNDBUF, value, length);
        case SO_RCVBUFFORCE:
            return set_option(attachment, fd, SOL_SOCKET, SO_RCVBUF, value, length);
        case SO_PASSCRED:
        case SO_PASSSEC:
            return errno = EOPNOTSUPP, -1;
        case SO_TYPE:
        case SO_PROTOCOL:
        case SO_DOMAIN:
        case SO_ERROR:
            return errno = ENOPROTOOPT, -1;
        // What would change the mirror's own working or show its bytes is taken and forgotten.
        case SO_TIMESTAMP:
        case SO_TIMESTAMPNS:
        case SO_TIMESTAMPING:
        case SO_ZEROCOPY:
        case SO_ATTACH_FILTER:
        case SO_ATTACH_BPF:
        case SO_DETACH_FILTER:
        case SO_BINDTODEVICE:
        case SO_PEEK_OFF:
        case SO_OOBINLINE:
        case SO_MARK:
        case SO_BUSY_POLL:
        case SO_INCOMING_CPU:
        case SO_MAX_PACING_RATE:
            return 0;
        default:
            return real::setsockopt(fd, SOL_SOCKET, option, value, length);
    }
}

int set_tcp_level(int option) {
    switch (option) {
        case TCP_MAXSEG:
        case TCP_SYNCNT:
        case TCP_LINGER2:
        case TCP_DEFER_ACCEPT:
        case TCP_WINDOW_CLAMP:
        case TCP_CONGESTION:
        case TCP_THIN_LINEAR_TIMEOUTS:
        case TCP_THIN_DUPACK:
        case TCP_NOTSENT_LOWAT:
        case TCP_FASTOPEN:
        case TCP_FASTOPEN_CONNECT:
            return 0;
        default:
            return errno = ENOPROTOOPT, -1;  // kernel TLS (TCP_ULP) among them
    }
}

}  // namespace

int tcp_state(const Attachment& attachment) {
    if (attachment.kind == Kind::only_listener) return TCP_LISTEN;
    if (attachment.kind != Kind::connection) return TCP_CLOSE;
    const auto& memory = attachment.memory();
    switch (memory.state.load()) {
        case ConnectionState::connecting:
            return TCP_SYN_SENT;
        case ConnectionState::failed:
            return TCP_CLOSE;
        case ConnectionState::established:
        case ConnectionState::ended:
            break;
    }
    const bool shut = memory.shutdown.load() & session::shutdown_write;
    switch (memory.end.load()) {
        case session::End::none:
            return shut ? TCP_FIN_WAIT2 : TCP_ESTABLISHED;
        case session::End::orderly:
            if (!shut) return TCP_CLOSE_WAIT;
            return session::stream_unsent(attachment.view) ? TCP_LAST_ACK : TCP_CLOSE;
        case session::End::reset:
            break;
    }
    return TCP_CLOSE;
}

int domain_of(Attachment& attachment) {
    const int domain = attachment.socket_options().domain;
    if (domain) return domain;
    return attachment.kind == Kind::connection ? attachment.memory().local.ss_family
                                               : attachment.local.ss_family;
}

int set_option(Attachment& attachment, int fd, int level, int option, const void* value, socklen_t length) {
    if (attachment.explicit_face()) return settings().accept_options ? 0 : (errno = EOPNOTSUPP, -1);
    if (static_cast<int>(length) < 0) return errno = EINVAL, -1;
    if (!can_read(value, length)) return errno = EFAULT, -1;
    if (const Plain* plain = find_plain(level, option)) {
        int wish = 0;
        const bool one_byte = level == IPPROTO_IP && length >= 1 && length < sizeof wish;
        if (length < sizeof wish && !one_byte) return errno = EINVAL, -1;
        std::memcpy(&wish, value, one_byte ? 1 : sizeof wish);
        if (out_of_range(level, option, wish)) return errno = EINVAL, -1;
        attachment.socket_options().*(plain->value) = as_kept(level, option, wish);
        return 0;
    }
    switch (level) {
        case SOL_SOCKET:
            return set_socket_level(attachment, fd, option, value, length);
        case IPPROTO_TCP:
            return set_tcp_level(option);
        case IPPROTO_IP:
        case IPPROTO_IPV6:
            return 0;
        default:
            return errno = ENOPROTOOPT, -1;
    }
}

int get_option(Attachment& attachment, int fd, int level, int option, void* value, socklen_t* length) {
    if (attachment.explicit_face() && level != SOL_SOCKET) return errno = EOPNOTSUPP, -1;
    if (const Plain* plain = find_plain(level, option))
        return copy_out(attachment.socket_options().*(plain->value), value, length);
    switch (level) {
        case SOL_SOCKET:
            return get_socket_level(attachment, fd, option, value, length);
        case IPPROTO_TCP:
            return get_tcp_level(attachment, option, value, length);
        case IPPROTO_IP:
            return copy_out(option == IP_TTL ? 64 : 0, value, length);
        case IPPROTO_IPV6:
            return copy_out(option == IPV6_UNICAST_HOPS ? 64 : 0, value, length);
        default:
            return errno = EOPNOTSUPP, -1;
    }
}

void capture_options(int tcp_socket, SocketOptions* to) {
    const int saved = errno;
    socklen_t length;
    int domain = 0;
    length = sizeof domain;
    real::getsockopt(tcp_socket, SOL_SOCKET, SO_DOMAIN, &domain, &length);
    to->domain = domain;
    for (const Plain& one : kPlain) {
        if ((one.level == IPPROTO_IPV6) && domain != AF_INET6) continue;
        int value = 0;
        length = sizeof value;
        if (real::getsockopt(tcp_socket, one.level, one.option, &value, &length) == 0)
            to->*(one.value) = value;
    }
    linger lingering{};
    length = sizeof lingering;
    if (real::getsockopt(tcp_socket, SOL_SOCKET, SO_LINGER, &lingering, &length) == 0) {
        to->linger_on = lingering.l_onoff;
        to->linger_seconds = lingering.l_linger;
    }
    timeval time{};
    length = sizeof time;
    if (real::getsockopt(tcp_socket, SOL_SOCKET, SO_RCVTIMEO, &time, &length) == 0)
        to->receive_timeout_us = to_microseconds(time);
    length = sizeof time;
    if (real::getsockopt(tcp_socket, SOL_SOCKET, SO_SNDTIMEO, &time, &length) == 0)
        to->send_timeout_us = to_microseconds(time);
    errno = saved;
}

void copy_options(const SocketOptions& from, SocketOptions* to) {
    for (const Plain& one : kPlain) to->*(one.value) = (from.*(one.value)).load();
    to->domain = from.domain.load();
    to->linger_on = from.linger_on.load();
    to->linger_seconds = from.linger_seconds.load();
    to->receive_timeout_us = from.receive_timeout_us.load();
    to->send_timeout_us = from.send_timeout_us.load();
}

void apply_options(const SocketOptions& from, int tcp_socket) {
    const int saved = errno;
    for (const Plain& one : kPlain) {
        // Buffers follow the kernel's own tuning again.
        if (one.level == SOL_SOCKET && (one.option == SO_RCVBUF || one.option == SO_SNDBUF)) continue;
        const int value = from.*(one.value);
        if (value) real::setsockopt(tcp_socket, one.level, one.option, &value, sizeof value);
    }
    const linger lingering{from.linger_on, from.linger_seconds};
    real::setsockopt(tcp_socket, SOL_SOCKET, SO_LINGER, &lingering, sizeof lingering);
    const int64_t us = from.send_timeout_us;
    const timeval time{us / 1'000'000, us % 1'000'000};
    real::setsockopt(tcp_socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    apply_to_mirror(from, tcp_socket);
    errno = saved;
}

void apply_to_mirror(const SocketOptions& from, int a) {
    const int64_t us = from.receive_timeout_us;
    if (us == 0) return;
    const timeval time{us / 1'000'000, us % 1'000'000};
    real::setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
}

}  // namespace smbdirect::preload
