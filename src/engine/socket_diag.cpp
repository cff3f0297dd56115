#include "engine/socket_diag.hpp"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

namespace smbdirect::engine {
namespace {

struct DumpRequest {
    nlmsghdr header;
    inet_diag_req_v2 request;
};

bool send_request(int netlink, int family) {
    DumpRequest message{};
    message.header.nlmsg_len = sizeof message;
    message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.request.sdiag_family = static_cast<uint8_t>(family);
    message.request.sdiag_protocol = IPPROTO_TCP;
    message.request.idiag_states = 1u << TCP_LISTEN;
    return send(netlink, &message, sizeof message, 0) == sizeof message;
}

enum class Answer { found, absent, more, unknown };

Answer read_answer(int netlink, uint64_t cookie) {
    alignas(nlmsghdr) std::array<char, 16384> buffer;
    ssize_t length = recv(netlink, buffer.data(), buffer.size(), 0);
    if (length <= 0) return Answer::unknown;
    auto remaining = static_cast<unsigned>(length);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, remaining);
         header = NLMSG_NEXT(header, remaining)) {
        if (header->nlmsg_type == NLMSG_DONE) return Answer::absent;
        if (header->nlmsg_type == NLMSG_ERROR) return Answer::unknown;
        const auto* socket = static_cast<const inet_diag_msg*>(NLMSG_DATA(header));
        const uint64_t its = uint64_t{socket->id.idiag_cookie[1]} << 32 | socket->id.idiag_cookie[0];
        if (its == cookie) return Answer::found;
    }
    return Answer::more;
}

// Where the kernel has no inet_diag: any listener of the port in /proc/net/tcp. Columns: "sl local:port
// remote:port st".
Answer read_proc(const sockaddr_storage& address) {
    FILE* file = std::fopen(address.ss_family == AF_INET6 ? "/proc/net/tcp6" : "/proc/net/tcp", "re");
    if (!file) return Answer::unknown;
    const unsigned wanted = ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
    char line[512];
    Answer answer = Answer::absent;
    while (std::fgets(line, sizeof line, file)) {
        unsigned port = 0, state = 0;
        if (std::sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x", &port, &state) != 2) continue;
        if (port == wanted && state == TCP_LISTEN) answer = Answer::found;
    }
    std::fclose(file);
    return answer;
}

}  // namespace

bool tcp_listener_exists(const sockaddr_storage& address, uint64_t cookie) {
    Answer answer = Answer::unknown;
    const int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink >= 0) {
        timeval limit{1, 0};
        setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (send_request(netlink, address.ss_family)) do {
                answer = read_answer(netlink, cookie);
            } while (answer == Answer::more);
        close(netlink);
    }
    if (answer == Answer::unknown) answer = read_proc(address);
    return answer != Answer::absent;
}

}  // namespace smbdirect::engine
