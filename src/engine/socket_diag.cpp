#include "engine/socket_diag.hpp"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <array>
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

}  // namespace

bool tcp_listener_exists(const sockaddr_storage& address, uint64_t cookie) {
    int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink < 0) return true;
    timeval limit{1, 0};
    setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    Answer answer = Answer::unknown;
    if (send_request(netlink, address.ss_family)) do {
            answer = read_answer(netlink, cookie);
        } while (answer == Answer::more);
    close(netlink);
    return answer != Answer::absent;
}

}  // namespace smbdirect::engine
