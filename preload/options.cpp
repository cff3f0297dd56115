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
    {IPPROTO_IPV6, IPV6_V6ONLY, &SocketOptions::v6_only},
};

const Plain* find_plain(int level, int option) {
    for (const Plain& one : kPlain)
        if (one.level == level && one.option == option) return &one;
    return nullptr;
}

// What changes nothing here: kept for whoever asks.
struct Name {
    int level, option;
};
constexpr Name kOthers[] = {
    {SOL_SOCKET, SO_OOBINLINE},
    {SOL_SOCKET, SO_BROADCAST},
    {SOL_SOCKET, SO_DONTROUTE},
    {SOL_SOCKET, SO_TIMESTAMP},
    {SOL_SOCKET, SO_ZEROCOPY},
    {SOL_SOCKET, SO_RXQ_OVFL},
    {SOL_SOCKET, SO_MARK},
    {SOL_SOCKET, SO_NO_CHECK},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE},
    {SOL_SOCKET, SO_BUSY_POLL},
    {IPPROTO_TCP, TCP_SYNCNT},
    {IPPROTO_TCP, TCP_LINGER2},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS},
    {IPPROTO_TCP, TCP_SAVE_SYN},
    {IPPROTO_TCP, TCP_INQ},
    {IPPROTO_TCP, TCP_TX_DELAY},
    {IPPROTO_IP, IP_TOS},
    {IPPROTO_IP, IP_TTL},
    {IPPROTO_IP, IP_MTU_DISCOVER},
    {IPPROTO_IP, IP_RECVERR},
    {IPPROTO_IP, IP_MINTTL},
    {IPPROTO_IP, IP_FREEBIND},
    {IPPROTO_IP, IP_PKTINFO},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    {IPPROTO_IPV6, IPV6_TCLASS},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    {IPPROTO_IPV6, IPV6_DONTFRAG},
};
static_assert(std::size(kOthers) <= SocketOptions::kOthers);

int find_other(int level, int option) {
    for (size_t i = 0; i < std::size(kOthers); ++i)
        if (kOthers[i].level == level && kOthers[i].option == option) return static_cast<int>(i);
    return -1;
}

bool other_is_set(const SocketOptions& options, int index) {
    return options.other_is_set.load() >> index & 1;
}

void keep_other(SocketOptions& options, int index, int32_t value) {
    options.other[index] = value;
    options.other_is_set.fetch_or(uint32_t{1} << index);
}

// A TCP socket of the same family, fresh from the kernel: it says what an option of TCP takes and gives.
class StandIn {
  public:
    explicit StandIn(Attachment& attachment)
        : fd_(real::socket(domain_of(attachment), SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
    ~StandIn() {
        const int saved = errno;
        if (fd_ >= 0) raw(SYS_close, fd_);
        errno = saved;
    }
    StandIn(const StandIn&) = delete;
    StandIn& operator=(const StandIn&) = delete;
    int set(int level, int option, const void* value, socklen_t length) const {
        return real::setsockopt(fd_, level, option, value, length);
    }
    int get(int level, int option, void* value, socklen_t* length) const {
        return real::getsockopt(fd_, level, option, value, length);
    }
    // What became of it: the kernel rounds, clamps and makes 1 of 5.
    template <class Value>
    bool get(int level, int option, Value* value) const {
        socklen_t length = sizeof *value;
        return get(level, option, value, &length) == 0 && length == sizeof *value;
    }

  private:
    int fd_;
};

int set_as_tcp_does(Attachment& attachment, int level, int option, const void* value, socklen_t length) {
    const StandIn tcp(attachment);
    if (const int result = tcp.set(level, option, value, length)) return result;
    const int index = find_other(level, option);
    int32_t kept = 0;
    if (index >= 0 && tcp.get(level, option, &kept)) keep_other(attachment.socket_options(), index, kept);
    return 0;
}

int get_as_tcp_does(Attachment& attachment, int level, int option, void* value, socklen_t* length) {
    const StandIn tcp(attachment);
    const SocketOptions& options = attachment.socket_options();
    if (const int index = find_other(level, option); index >= 0 && other_is_set(options, index)) {
        const int32_t kept = options.other[index];
        tcp.set(level, option, &kept, sizeof kept);
    }
    return tcp.get(level, option, value, length);
}

bool is_boolean(int option) { return option == TCP_NODELAY || option == TCP_CORK || option == TCP_QUICKACK; }

// What Linux refuses for the TCP_KEEP* family.
bool out_of_range(int option, int value) {
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

// Some programs set these for every message: without a system call.
int set_plain_of_tcp(Attachment& attachment, const Plain& plain, const void* value, socklen_t length) {
    int wish = 0;
    if (length < sizeof wish) return errno = EINVAL, -1;
    std::memcpy(&wish, value, sizeof wish);
    if (out_of_range(plain.option, wish)) return errno = EINVAL, -1;
    attachment.socket_options().*(plain.value) = is_boolean(plain.option) ? wish != 0 : wish;
    return 0;
}

int set_plain_of_socket(Attachment& attachment, const Plain& plain, const void* value, socklen_t length) {
    const StandIn tcp(attachment);
    int32_t kept = 0;
    if (const int result = tcp.set(plain.level, plain.option, value, length)) return result;
    if (tcp.get(plain.level, plain.option, &kept)) attachment.socket_options().*(plain.value) = kept;
    return 0;
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
        case SO_ACCEPTCONN:
            return real::getsockopt(fd, SOL_SOCKET, option, value, length);
        default:
            return get_as_tcp_does(attachment, SOL_SOCKET, option, value, length);
    }
}

int get_tcp_level(Attachment& attachment, int option, void* value, socklen_t* length) {
    switch (option) {
        case TCP_INFO:
            return get_tcp_info(attachment, value, length);
        case TCP_MAXSEG:
            return copy_out(65483, value, length);
        default:
            return get_as_tcp_does(attachment, IPPROTO_TCP, option, value, length);
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
            const StandIn tcp(attachment);
            timeval kept;
            if (const int result = tcp.set(SOL_SOCKET, option, value, length)) return result;
            if (!tcp.get(SOL_SOCKET, option, &kept)) return -1;
            (option == SO_RCVTIMEO ? options.receive_timeout_us : options.send_timeout_us) =
                to_microseconds(kept);
            return option == SO_RCVTIMEO ? real::setsockopt(fd, SOL_SOCKET, option, value, length) : 0;
        }
        case SO_SNDBUFFORCE:
            return set_option(attachment, fd, SOL_SOCKET, SO_SNDBUF, value, length);
        case SO_RCVBUFFORCE:
            return set_option(attachment, fd, SOL_SOCKET, SO_RCVBUF, value, length);
        default:
            return set_as_tcp_does(attachment, SOL_SOCKET, option, value, length);
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
    const uint32_t shutdown = memory.shutdown.load();
    const bool shut = shutdown & session::shutdown_write;
    switch (memory.end.load()) {
        case session::End::none:
            return shut ? TCP_FIN_WAIT2 : TCP_ESTABLISHED;
        case session::End::orderly:
            if (!shut) return TCP_CLOSE_WAIT;
            // Where there is no half-close, the end that follows our own is the wire's: the peer may not have
            // said a word.
            if (!(shutdown & session::shutdown_after_end))
                return !memory.half_close.load() || (shutdown & session::shutdown_read) ? TCP_FIN_WAIT2
                       : session::stream_unsent(attachment.view)                        ? TCP_CLOSING
                                                                                        : TCP_CLOSE;
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
    const Plain* plain = find_plain(level, option);
    if (plain && option == IPV6_V6ONLY && level == IPPROTO_IPV6 && domain_of(attachment) == AF_INET6)
        return errno = EINVAL, -1;  // too late: the socket has an address
    if (plain && level == IPPROTO_TCP) return set_plain_of_tcp(attachment, *plain, value, length);
    if (plain && level == SOL_SOCKET) return set_plain_of_socket(attachment, *plain, value, length);
    if (level == SOL_SOCKET) return set_socket_level(attachment, fd, option, value, length);
    // Kernel TLS would encrypt the mirror's bytes: as where its module is missing.
    if (level == IPPROTO_TCP && option == TCP_ULP) return errno = length ? ENOENT : EINVAL, -1;
    return set_as_tcp_does(attachment, level, option, value, length);
}

int get_option(Attachment& attachment, int fd, int level, int option, void* value, socklen_t* length) {
    if (attachment.explicit_face() && level != SOL_SOCKET) return errno = EOPNOTSUPP, -1;
    const Plain* plain = find_plain(level, option);
    if (plain && (level != IPPROTO_IPV6 || domain_of(attachment) == AF_INET6))
        return copy_out(attachment.socket_options().*(plain->value), value, length);
    if (level == SOL_SOCKET) return get_socket_level(attachment, fd, option, value, length);
    if (level == IPPROTO_TCP) return get_tcp_level(attachment, option, value, length);
    return get_as_tcp_does(attachment, level, option, value, length);
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
    for (size_t i = 0; i < std::size(kOthers); ++i) {
        if (kOthers[i].level == IPPROTO_IPV6 && domain != AF_INET6) continue;
        int value = 0;
        length = sizeof value;
        if (real::getsockopt(tcp_socket, kOthers[i].level, kOthers[i].option, &value, &length) == 0)
            keep_other(*to, static_cast<int>(i), value);
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
    for (size_t i = 0; i < std::size(kOthers); ++i) to->other[i] = from.other[i].load();
    to->other_is_set = from.other_is_set.load();
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
    for (size_t i = 0; i < std::size(kOthers); ++i) {
        const int value = from.other[i];
        if (other_is_set(from, static_cast<int>(i)))
            real::setsockopt(tcp_socket, kOthers[i].level, kOthers[i].option, &value, sizeof value);
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
