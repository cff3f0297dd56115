// The masks of A beside those of a TCP socket to which the same happens (readiness.md section 3), and what
// calls say.
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "session_bench.hpp"

using namespace session_test;

namespace {

constexpr short kReset = POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR;

// A real connection over loopback; `peer` plays the engine.
struct Tcp {
    int listener = -1, fd = -1, peer = -1;

    explicit Tcp(bool established = true) {
        listener = ::socket(AF_INET, SOCK_STREAM, 0);
        REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        socklen_t size = sizeof address;
        ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
        if (!established) return;
        REQUIRE(::listen(listener, 1) == 0);
        fd = dial();
        peer = ::accept(listener, nullptr, nullptr);
        settle();
    }
    ~Tcp() {
        for (int one : {listener, fd, peer})
            if (one >= 0) ::close(one);
    }
    int dial() {
        int s = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        ::connect(s, reinterpret_cast<sockaddr*>(&address), sizeof address);
        return s;
    }
    void reset() {
        linger now{1, 0};
        ::setsockopt(peer, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        ::close(peer);
        peer = -1;
        settle();
    }
    void fin() { ::shutdown(peer, SHUT_WR), settle(); }
    void bytes(const char* text) {
        CHECK(::send(peer, text, std::strlen(text), 0) > 0);
        settle();
    }
    std::string receive() {
        char buffer[100];
        ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : n == 0 ? "END" : std::to_string(errno);
    }
    long send() {
        ssize_t n = ::send(fd, "x", 1, MSG_NOSIGNAL);
        return n < 0 ? -errno : n;
    }
    static void settle() { ::usleep(2000); }

    sockaddr_in address{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
};

void end_with_reset(Bench& bench, int error = ECONNRESET) {
    bench.view.memory->error = error;
    bench.view.memory->end = End::reset;
    bench.mirror.close_reset();
}

void end_orderly(Bench& bench) {
    bench.view.memory->end = End::orderly;
    bench.mirror.end_of_stream();
}

}  // namespace

TEST_CASE("masks: fresh, data, end of stream") {
    Bench a;
    Tcp tcp;
    CHECK(a.mask() == POLLOUT);
    CHECK(a.mask() == poll_mask(tcp.fd));
    SECTION("data") {
        a.publish("1", false, 0), tcp.bytes("1");
        CHECK(a.mask() == (POLLIN | POLLOUT));
        CHECK(a.mask() == poll_mask(tcp.fd));
    }
    SECTION("end of stream, with and without data before it") {
        bool data = GENERATE(false, true);
        if (data) a.publish("1", false, 0), tcp.bytes("1");
        end_orderly(a), tcp.fin();
        CHECK(a.mask() == (POLLIN | POLLOUT | POLLRDHUP));
        CHECK(a.mask() == poll_mask(tcp.fd));
        if (data) CHECK(a.receive(100) == tcp.receive());
        for (int i = 0; i < 3; ++i) CHECK(a.receive(100) == "END");
        CHECK(tcp.receive() == "END");
        CHECK(a.mask() == (POLLIN | POLLOUT | POLLRDHUP));
        CHECK(a.send("x") == 1);
        CHECK(tcp.send() == 1);
        CHECK(a.turn());
    }
}

TEST_CASE("masks: reset") {
    Bench a;
    Tcp tcp;
    SECTION("receive tells first") {
        bool data = GENERATE(false, true);
        if (data) a.publish("12", false, 0), tcp.bytes("12");
        end_with_reset(a), tcp.reset();
        CHECK(a.mask() == kReset);
        CHECK(a.mask() == poll_mask(tcp.fd));
        if (data) CHECK(a.receive(100) == tcp.receive());
        CHECK(a.receive(100) == std::to_string(ECONNRESET));
        CHECK(tcp.receive() == std::to_string(ECONNRESET));
        CHECK(a.mask() == poll_mask(tcp.fd));
        CHECK(a.receive(100) == "END");
        CHECK(tcp.receive() == "END");
        CHECK(a.send("x") == -EPIPE);
        CHECK(tcp.send() == -EPIPE);
    }
    SECTION("send tells first") {
        end_with_reset(a), tcp.reset();
        CHECK(a.send("x") == -ECONNRESET);
        CHECK(tcp.send() == -ECONNRESET);
        CHECK(a.send("x") == -EPIPE);
        CHECK(tcp.send() == -EPIPE);
        CHECK(a.receive(100) == "END");
        CHECK(a.mask() == poll_mask(tcp.fd));
    }
    SECTION("SO_ERROR tells first") {
        end_with_reset(a), tcp.reset();
        int error = 0;
        socklen_t size = sizeof error;
        ::getsockopt(tcp.fd, SOL_SOCKET, SO_ERROR, &error, &size);
        CHECK(take_error(a.view, a.pair.a) == error);
        CHECK(take_error(a.view, a.pair.a) == 0);
        CHECK(a.mask() == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
        CHECK(a.mask() == poll_mask(tcp.fd));
        CHECK(a.receive(100) == "END");
    }
    SECTION("after an end of stream, when the program sends") {
        end_orderly(a), tcp.fin();
        end_with_reset(a, EPIPE), tcp.reset();
        CHECK(a.mask() == kReset);
        CHECK(a.mask() == poll_mask(tcp.fd));
        CHECK(a.send("x") == -EPIPE);
        CHECK(tcp.send() == -EPIPE);
    }
}

TEST_CASE("masks: own shutdown of the sending side") {
    Bench a({4096, 64, 65536});
    Tcp tcp;
    bool full = GENERATE(false, true);
    if (full) {
        CHECK(a.send(std::string(5000, 'x')) == 4096);
        CHECK(a.mask() == 0);
        std::string much(1 << 20, 'x');
        while (::send(tcp.fd, much.data(), much.size(), MSG_DONTWAIT) > 0) {
        }
        CHECK(poll_mask(tcp.fd) == 0);
    }
    a.view.memory->shutdown |= shutdown_write;
    ring_doorbell(a.view, a.pair.a);
    CHECK(a.turn());
    ::shutdown(tcp.fd, SHUT_WR), Tcp::settle();
    CHECK(a.mask() == POLLOUT);
    CHECK(a.mask() == poll_mask(tcp.fd));
    CHECK(a.send("x") == -EPIPE);
    CHECK(tcp.send() == -EPIPE);
    CHECK(a.in_b() == 1);
    a.publish("late", false, 0), tcp.bytes("late");
    CHECK(a.receive(100) == "late");
    if (full) return;
    a.view.memory->end = End::orderly;
    a.mirror.close_orderly(), tcp.fin();
    CHECK(a.mask() == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    tcp.receive();
    CHECK(a.mask() == poll_mask(tcp.fd));
    CHECK(a.receive(100) == "END");
    CHECK(take_error(a.view, a.pair.a) == 0);
}

TEST_CASE("masks: connecting, connected, refused") {
    Bench a({65536, 64, 65536}, true);
    CHECK(a.mask() == 0);
    CHECK(a.receive(10) == "EAGAIN");
    CHECK(a.send("x") == -EAGAIN);
    SECTION("like TCP whose SYN nobody answers") {
        Tcp tcp(false);
        REQUIRE(::listen(tcp.listener, 0) == 0);
        int waiting[3];
        for (int& fd : waiting) fd = tcp.dial(), Tcp::settle();
        CHECK(poll_mask(waiting[2]) == a.mask());
        for (int fd : waiting) ::close(fd);
    }
    SECTION("connected") {
        CHECK(a.turn());
        CHECK(a.mask() == 0);  // a turn does not switch it on, space or not
        a.view.memory->state = ConnectionState::established;
        a.mirror.switch_out_on();
        CHECK(a.mask() == POLLOUT);
        CHECK(a.in_b() == 1);
        CHECK(a.send("x") == 1);
    }
    SECTION("refused") {
        Tcp tcp(false);
        int fd = tcp.dial();
        Tcp::settle();
        a.view.memory->error = ECONNREFUSED;
        a.view.memory->end = End::reset;
        a.view.memory->state = ConnectionState::failed;
        a.mirror.close_reset();
        CHECK(a.mask() == kReset);
        CHECK(a.mask() == poll_mask(fd));
        CHECK(take_error(a.view, a.pair.a) == ECONNREFUSED);
        CHECK(take_error(a.view, a.pair.a) == 0);
        CHECK(a.send("x") == -EPIPE);
        ::close(fd);
    }
}

TEST_CASE("an engine that dies without a word is a reset") {
    Bench a;
    a.publish("left", false, 0);
    a.mirror.close_reset();  // as the kernel does it for a killed engine
    CHECK(a.mask() == kReset);
    SECTION("receive first") {
        CHECK(a.receive(100) == "left");
        CHECK(a.receive(100) == std::to_string(ECONNRESET));
        CHECK(a.receive(100) == "END");
        CHECK(a.send("x") == -EPIPE);
    }
    SECTION("send first: what fits is taken, as by TCP before it knows") {
        CHECK(a.send(std::string(100000, 'x')) == 65536);
        CHECK(a.send("x") == -ECONNRESET);
        CHECK(a.send("x") == -EPIPE);
        CHECK(a.receive(100) == "left");
        CHECK(a.receive(100) == "END");
    }
    SECTION("SO_ERROR first") {
        CHECK(take_error(a.view, a.pair.a) == ECONNRESET);
        CHECK(take_error(a.view, a.pair.a) == 0);
        CHECK(a.send("x") == -EPIPE);
    }
    CHECK(a.view.memory->reason == 102);
}

TEST_CASE("the last close of A is seen at B") {
    Bench a;
    CHECK_FALSE(a.mirror.hung_up());
    int copy = ::dup(a.pair.a);
    ::close(a.pair.a);
    CHECK_FALSE(a.mirror.hung_up());
    ::close(copy);
    a.pair.a = -1;
    CHECK(a.mirror.hung_up());
    CHECK(a.turn());
}
