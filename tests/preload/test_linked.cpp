// The whole library, linked, against a real engine process: for the sanitizers, and for what Python cannot
// call.
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "linked.hpp"
#include "smbdirect/smbdirect.h"
#include "support/catch.hpp"

namespace {

uint16_t free_port() {
    for (uint16_t port = 15000 + static_cast<uint16_t>(getpid() % 5000);; ++port) {
        bool free = true;
        for (uint16_t p : {port, static_cast<uint16_t>(port + 5000)}) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            sockaddr_in any{AF_INET, htons(p), {}, {}};
            free = free && bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0;
            close(fd);
        }
        if (free) return port;
    }
}

// Before anything of the library has looked at its environment.
const uint16_t tcp_port = [] {
    const uint16_t port = free_port();
    const std::string p = std::to_string(port), q = std::to_string(port + 1);
    setenv("SMBDIRECT_SOCKET", ("smbdirect-linked-" + std::to_string(getpid())).c_str(), 1);
    setenv("SMBDIRECT_IDLE_EXIT", "5", 1);
    setenv(
        "SMBDIRECT_RULES",
        ("listen port=" + p + " also; listen port=" + q + " only; connect port=" + p + "-" + q + " require")
            .c_str(),
        1);
    return port;
}();
const uint16_t only_port = tcp_port + 1;
const uint16_t explicit_port = tcp_port + 2;

sockaddr_in loopback(uint16_t port) { return {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {}}; }
const sockaddr* plain(const sockaddr_in& address) { return reinterpret_cast<const sockaddr*>(&address); }

struct Pair {
    int client = -1, server = -1;
    ~Pair() {
        if (client >= 0) smbdirect_close(client);
        if (server >= 0) smbdirect_close(server);
    }
};

int make_listener(uint16_t port, int protocol = 0) {
    int fd = smbdirect_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol);
    REQUIRE(fd >= 0);
    const int on = 1;
    if (protocol == 0) REQUIRE(smbdirect_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    const auto address = loopback(port);
    REQUIRE(smbdirect_bind(fd, plain(address), sizeof address) == 0);
    REQUIRE(smbdirect_listen(fd, 20) == 0);
    return fd;
}

int connect_to(uint16_t port, int protocol = 0) {
    int fd = smbdirect_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol);
    const auto address = loopback(port);
    if (smbdirect_connect(fd, plain(address), sizeof address) == 0) return fd;
    smbdirect_close(fd);
    return -1;
}

void make_pair(uint16_t port, Pair* pair, int protocol = 0) {
    int listener = make_listener(port, protocol);
    pair->client = connect_to(port, protocol);
    REQUIRE(pair->client >= 0);
    pair->server = smbdirect_accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    REQUIRE(pair->server >= 0);
    smbdirect_close(listener);
}

std::string message(size_t size, char byte = 'x') {
    const uint32_t length = htobe32(static_cast<uint32_t>(size));
    return std::string(reinterpret_cast<const char*>(&length), 4) + std::string(size, byte);
}

std::string receive(int fd, size_t size) {
    std::string data(size, 0);
    const ssize_t got = smbdirect_recv(fd, data.data(), size, MSG_WAITALL);
    data.resize(got < 0 ? 0 : static_cast<size_t>(got));
    return data;
}

// Echoes whole messages until the end.
void echo(int fd) {
    for (;;) {
        std::string header = receive(fd, 4);
        if (header.size() < 4) break;
        uint32_t length;
        std::memcpy(&length, header.data(), 4);
        std::string data = header + receive(fd, be32toh(length));
        for (size_t sent = 0; sent < data.size();) {
            const ssize_t n = smbdirect_send(fd, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
            if (n <= 0) break;
            sent += static_cast<size_t>(n);
        }
    }
    smbdirect_close(fd);
}

int protocol_of(int fd) {
    int value = -1;
    socklen_t length = sizeof value;
    smbdirect_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &length);
    return value;
}

}  // namespace

TEST_CASE("linked: many clients, threads on both sides") {
    int listener = make_listener(tcp_port);
    constexpr int kClients = 6;
    std::thread server([&] {
        std::vector<std::thread> workers;
        for (int i = 0; i < kClients; ++i) {
            sockaddr_in peer{};
            socklen_t length = sizeof peer;
            int fd = smbdirect_accept(listener, reinterpret_cast<sockaddr*>(&peer), &length);
            if (fd >= 0) workers.emplace_back(echo, fd);
        }
        for (auto& w : workers) w.join();
    });
    std::atomic<int> right{0};
    std::vector<std::thread> clients;
    for (int i = 0; i < kClients; ++i)
        clients.emplace_back([&, i] {
            std::mt19937 random(static_cast<unsigned>(i));
            int fd = connect_to(tcp_port);
            if (fd < 0) return;
            bool same = true;
            for (int round = 0; round < 40 && same; ++round) {
                const std::string out = message(random() % (round % 10 == 0 ? 2'000'000 : 3000),
                                                static_cast<char>('a' + round % 26));
                std::thread writer([&] {
                    for (size_t sent = 0; sent < out.size();) {
                        const ssize_t n = smbdirect_write(fd, out.data() + sent, out.size() - sent);
                        if (n <= 0) break;
                        sent += static_cast<size_t>(n);
                    }
                });
                same = receive(fd, out.size()) == out;
                writer.join();
            }
            smbdirect_close(fd);
            right += same;
        });
    for (auto& c : clients) c.join();
    server.join();
    smbdirect_close(listener);
    CHECK(right == kClients);
}

TEST_CASE("linked: sendmmsg, recvmmsg, dup, close_range") {
    Pair pair;
    make_pair(tcp_port, &pair);
    std::string first = message(10, 'a'), second = message(20, 'b');
    iovec out[2] = {{first.data(), first.size()}, {second.data(), second.size()}};
    mmsghdr messages[2] = {};
    for (int i = 0; i < 2; ++i) messages[i].msg_hdr.msg_iov = out + i, messages[i].msg_hdr.msg_iovlen = 1;
    REQUIRE(smbdirect_sendmmsg(pair.client, messages, 2, 0) == 2);
    CHECK(messages[0].msg_len == 14);
    CHECK(messages[1].msg_len == 24);
    char a[14], b[24];
    iovec in[2] = {{a, sizeof a}, {b, sizeof b}};
    for (int i = 0; i < 2; ++i) messages[i].msg_hdr.msg_iov = in + i;
    REQUIRE(smbdirect_recvmmsg(pair.server, messages, 2, MSG_WAITALL, nullptr) == 2);
    CHECK(std::string(b, 24) == second);

    const int high = smbdirect_fcntl(pair.server, F_DUPFD_CLOEXEC, 300);
    REQUIRE(high >= 300);
    REQUIRE(smbdirect_dup2(pair.server, 310) == 310);
    smbdirect_close(pair.server);
    pair.server = -1;
    REQUIRE(smbdirect_send(pair.client, first.data(), first.size(), 0) == 14);
    CHECK(receive(high, 7).size() == 7);
    CHECK(receive(310, 7).size() == 7);
    REQUIRE(smbdirect_close_range(300, 320, 0) == 0);
    char byte;
    CHECK(smbdirect_recv(pair.client, &byte, 1, 0) == 0);
    CHECK(smbdirect_recv(310, &byte, 1, 0) == -1);
    CHECK(errno == EBADF);
}

TEST_CASE("linked: a listener that is SMBDIRECT only") {
    Pair pair;
    make_pair(only_port, &pair);
    CHECK(protocol_of(pair.server) == IPPROTO_TCP);
    sockaddr_in name{};
    socklen_t length = sizeof name;
    REQUIRE(smbdirect_getsockname(pair.server, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    CHECK(name.sin_port == htons(only_port));
    const std::string out = message(100'000);
    REQUIRE(smbdirect_send(pair.client, out.data(), out.size(), 0) == static_cast<ssize_t>(out.size()));
    CHECK(receive(pair.server, out.size()) == out);
    // No TCP there.
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    const auto address = loopback(only_port);
    CHECK(connect(tcp, plain(address), sizeof address) == -1);
    close(tcp);
}

TEST_CASE("linked: a listener that is SMBDIRECT only, in a process that did not make it") {
    const bool is_explicit = GENERATE(false, true);
    const int protocol = is_explicit ? IPPROTO_SMBDIRECT : 0;
    const uint16_t port = is_explicit ? explicit_port + 1 : only_port;
    const int listener = make_listener(port, protocol);
    const int taken_over = dup(listener);  // past the library: as after exec, and by SCM_RIGHTS
    sockaddr_in name{};
    socklen_t length = sizeof name;
    REQUIRE(smbdirect_getsockname(taken_over, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    CHECK(name.sin_family == AF_INET);
    CHECK(name.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(name.sin_port == htons(port));
    CHECK(protocol_of(taken_over) == (is_explicit ? IPPROTO_SMBDIRECT : IPPROTO_TCP));
    Pair pair;
    pair.client = connect_to(port, protocol);
    REQUIRE(pair.client >= 0);
    pair.server = smbdirect_accept(taken_over, nullptr, nullptr);
    REQUIRE(pair.server >= 0);
    CHECK(protocol_of(pair.server) == protocol_of(taken_over));
    smbdirect_close(taken_over);
    smbdirect_close(listener);
}

namespace {

ssize_t send_with_control(int fd, const std::string& data, int level, int type, size_t size, int copies = 1) {
    alignas(cmsghdr) char control[2 * CMSG_SPACE(16)] = {};
    iovec piece{const_cast<char*>(data.data()), data.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = static_cast<size_t>(copies) * CMSG_SPACE(size);
    const uint32_t token = 0x1234;
    for (auto* one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
        std::memcpy(CMSG_DATA(one), &token, sizeof token);
        one->cmsg_level = level;
        one->cmsg_type = type;
        one->cmsg_len = CMSG_LEN(size);
    }
    return smbdirect_sendmsg(fd, &message, 0);
}

// Those that must be refused, with nothing sent (kernel-series.md section 5).
void check_control_messages(int fd, const std::string& data) {
    const int type = static_cast<int>(SMBDIRECT_CMSG_REMOTE_INVALIDATE);
    CHECK(send_with_control(fd, data, SOL_SOCKET, type, 4) == -1);
    CHECK(errno == EINVAL);
    CHECK(send_with_control(fd, data, SOL_SMBDIRECT, type + 1, 4) == -1);
    CHECK(errno == EINVAL);
    CHECK(send_with_control(fd, data, SOL_SMBDIRECT, type, 2) == -1);
    CHECK(errno == EBADMSG);
    CHECK(send_with_control(fd, data, SOL_SMBDIRECT, type, 8) == -1);
    CHECK(errno == EMSGSIZE);
    CHECK(send_with_control(fd, data, SOL_SMBDIRECT, type, 4, 2) == -1);
    CHECK(errno == EINVAL);
}

}  // namespace

TEST_CASE("linked: explicit sockets invalidate remotely") {
    Pair pair;
    make_pair(explicit_port + 3, &pair, IPPROTO_SMBDIRECT);
    const std::string out = message(3000);
    // No token of the peer's is 0x1234 here: that its transport takes offence shows that the token went
    // along.
    CHECK(send_with_control(pair.client, out, SOL_SMBDIRECT,
                            static_cast<int>(SMBDIRECT_CMSG_REMOTE_INVALIDATE),
                            4) == static_cast<ssize_t>(out.size()));
    char byte;
    CHECK(smbdirect_recv(pair.server, &byte, 1, 0) == -1);
    CHECK(errno == ENOTCONN);
}

TEST_CASE("linked: explicit sockets speak as the kernel series does") {
    int fd = smbdirect_socket(AF_INET, SOCK_STREAM, IPPROTO_SMBDIRECT);
    REQUIRE(fd >= 0);
    CHECK(protocol_of(fd) == IPPROTO_SMBDIRECT);
    const int on = 1;
    CHECK(smbdirect_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == -1);
    CHECK(errno == EOPNOTSUPP);
    char byte;
    CHECK(smbdirect_recv(fd, &byte, 1, 0) == -1);
    CHECK(errno == ENOTCONN);
    CHECK(smbdirect_shutdown(fd, SHUT_RDWR) == -1);
    CHECK(errno == ENOTCONN);
    const auto nobody = loopback(explicit_port);
    CHECK(smbdirect_connect(fd, plain(nobody), sizeof nobody) == -1);
    CHECK(errno == ECONNREFUSED);
    CHECK(smbdirect_connect(fd, plain(nobody), sizeof nobody) == -1);
    CHECK(errno == EINVAL);
    smbdirect_close(fd);

    Pair pair;
    make_pair(explicit_port, &pair, IPPROTO_SMBDIRECT);
    CHECK(protocol_of(pair.client) == IPPROTO_SMBDIRECT);
    CHECK(protocol_of(pair.server) == IPPROTO_SMBDIRECT);
    const std::string out = message(5000);
    CHECK(smbdirect_send(pair.client, out.data(), out.size() - 1, 0) == -1);
    CHECK(errno == EINVAL);
    CHECK(smbdirect_send(pair.client, out.data(), 4, 0) == -1);
    CHECK(errno == EINVAL);
    CHECK(smbdirect_send(pair.client, out.data(), out.size(), MSG_MORE) == -1);
    CHECK(errno == EINVAL);
    CHECK(smbdirect_send(pair.client, out.data(), out.size(), 0) == static_cast<ssize_t>(out.size()));
    CHECK(smbdirect_recv(pair.server, &byte, 1, MSG_PEEK) == -1);
    CHECK(errno == EINVAL);
    CHECK(receive(pair.server, 4) == out.substr(0, 4));
    CHECK(receive(pair.server, 5000) == out.substr(4));
    CHECK(smbdirect_recv(pair.server, &byte, 1, MSG_DONTWAIT) == -1);
    CHECK(errno == EAGAIN);
    check_control_messages(pair.client, out);
    const auto address = loopback(explicit_port);
    CHECK(smbdirect_connect(pair.client, plain(address), sizeof address) == -1);
    CHECK(errno == EISCONN);
    CHECK(smbdirect_send(pair.server, out.data(), out.size(), 0) == static_cast<ssize_t>(out.size()));
    pollfd readable{pair.client, POLLIN, 0};
    REQUIRE(poll(&readable, 1, 5000) == 1);
    smbdirect_close(pair.server);
    pair.server = -1;
    CHECK(receive(pair.client, 5004).size() == 5004);  // what arrived before the end is still to be had
    CHECK(smbdirect_recv(pair.client, &byte, 1, 0) == -1);
    CHECK(errno == ENOTCONN);
    CHECK(smbdirect_send(pair.client, out.data(), out.size(), 0) == -1);
    CHECK(errno == ENOTCONN);
}

namespace {

// The engine made the pair, so the kernel names it as A's peer.
pid_t engine_of(int connection) {
    ucred engine{};
    socklen_t length = sizeof engine;
    REQUIRE(getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &engine, &length) == 0);
    return engine.pid;
}

pid_t parent_of(pid_t pid) {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string number, name, state;
    pid_t parent = 0;
    stat >> number >> name >> state >> parent;
    return parent;
}

int64_t now_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

// A TCP client's arrival on a non-blocking listener: how long accept() took.
int64_t tcp_arrival(int listener, uint16_t port) {
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto address = loopback(port);
    REQUIRE(connect(client, plain(address), sizeof address) == 0);
    pollfd arrived{listener, POLLIN, 0};
    REQUIRE(poll(&arrived, 1, 5000) == 1);
    const int64_t before = now_ms();
    const int server = smbdirect_accept(listener, nullptr, nullptr);
    const int64_t took = now_ms() - before;
    CHECK(server >= 0);
    smbdirect_close(server);
    close(client);
    return took;
}

}  // namespace

TEST_CASE("linked: the engine is killed while a connect is under way") {
    // Listens where the RDMA port would be, and never answers.
    const int mute = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto rdma = loopback(static_cast<uint16_t>(tcp_port + 5000)), address = loopback(tcp_port);
    const int on = 1;
    setsockopt(mute, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    REQUIRE(bind(mute, plain(rdma), sizeof rdma) == 0);
    REQUIRE(listen(mute, 5) == 0);
    const int first = smbdirect_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int second = smbdirect_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int third = smbdirect_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte = 0;
    for (int fd : {first, second}) {
        CHECK(smbdirect_connect(fd, plain(address), sizeof address) == -1);
        CHECK(errno == EINPROGRESS);
        CHECK(smbdirect_connect(fd, plain(address), sizeof address) == -1);
        CHECK(errno == EALREADY);
        CHECK(smbdirect_recv(fd, &byte, 1, 0) == -1);
        CHECK(errno == EAGAIN);
    }
    int blocking_error = 0;
    std::thread blocking([&] {
        if (smbdirect_connect(third, plain(address), sizeof address) != 0) blocking_error = errno;
    });
    usleep(200'000);
    kill(engine_of(first), SIGKILL);
    blocking.join();
    CHECK(blocking_error == ECONNREFUSED);
    for (int fd : {first, second}) {
        pollfd hung_up{fd, POLLIN, 0};
        REQUIRE(poll(&hung_up, 1, 5000) == 1);
    }
    CHECK(smbdirect_recv(first, &byte, 1, 0) == -1);
    CHECK(errno == ECONNREFUSED);
    CHECK(smbdirect_send(first, &byte, 1, MSG_NOSIGNAL) == -1);
    CHECK(errno == EPIPE);
    CHECK(smbdirect_connect(second, plain(address), sizeof address) == -1);
    CHECK(errno == ECONNREFUSED);
    for (int fd : {first, second, third}) smbdirect_close(fd);
    close(mute);
}

TEST_CASE("linked: a listener comes back after monitor and engine died, and accept() hardly waits") {
    const int listener = make_listener(tcp_port);
    Pair pair;
    pair.client = connect_to(tcp_port);
    REQUIRE(pair.client >= 0);
    pair.server = smbdirect_accept(listener, nullptr, nullptr);
    REQUIRE(pair.server >= 0);
    const int on = 1;
    REQUIRE(ioctl(listener, FIONBIO, &on) == 0);
    const pid_t engine = engine_of(pair.client), monitor = parent_of(engine);
    REQUIRE(monitor > 1);
    for (pid_t pid : {monitor, engine}) kill(pid, SIGSTOP);
    usleep(5'100'000);
    CHECK(tcp_arrival(listener, tcp_port) < 500);  // asks
    CHECK(tcp_arrival(listener, tcp_port) < 50);
    for (pid_t pid : {monitor, engine}) kill(pid, SIGKILL);
    int64_t longest = 0;
    bool back = false;
    for (const int64_t end = now_ms() + 15'000; !back && now_ms() < end; usleep(300'000)) {
        longest = std::max(longest, tcp_arrival(listener, tcp_port));
        smbdirect_close(pair.client);
        pair.client = connect_to(tcp_port);
        back = pair.client >= 0;
    }
    CHECK(back);
    CHECK(longest < 600);
    smbdirect_close(listener);
}
