// The library's stream functions and the engine's mirror against each other, in one thread: no race, just the
// rules.
#include <netinet/in.h>

#include <functional>

#include "session/stream_protocol.hpp"
#include "session_bench.hpp"

using namespace smbdirect;
using namespace smbdirect::session;
using namespace session_test;

TEST_CASE("the send buffer of A lets poison and doorbell through and is switched off by a stuffing") {
    int size = mirror_send_buffer();
    CAPTURE(size);
    REQUIRE(size > 0);
    REQUIRE(mirror_send_buffer() == size);
}

TEST_CASE("a message arrives with its length in front, and A is readable exactly while it is there") {
    Bench bench;
    CHECK(bench.mask() == POLLOUT);
    bench.publish("hello ", true, 11);
    CHECK(bench.mask() == (POLLIN | POLLOUT));
    bench.publish("world", false, 0);
    CHECK(stream_readable(bench.view) == 15);
    CHECK(bench.receive(3) == std::string("\0\0\0", 3));
    CHECK(bench.mask() == (POLLIN | POLLOUT));
    CHECK(bench.receive(100, true) == std::string("\x0bhello world", 12));
    CHECK(bench.mask() == (POLLIN | POLLOUT));
    CHECK(bench.receive(4) == std::string("\x0bhel"));
    CHECK(stream_readable(bench.view) == 8);
    CHECK(bench.receive(100) == "lo world");
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.receive(100) == "EAGAIN");
    CHECK(bench.view.memory->tokens.load() == 0);
    CHECK(bench.view.memory->receive_tail.load() == 2);
    CHECK(bench.view.memory->bytes_consumed.load() == 15);
}

TEST_CASE("what is sent reaches the ring, and OUT goes off and on with its space") {
    Bench bench({4096, 16, 65536});
    std::string data(3000, 'x');
    CHECK(bench.send(data) == 3000);
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.send(data) == 1096);
    CHECK(bench.mask() == 0);
    CHECK(bench.send(data) == -EAGAIN);
    bench.turn();
    CHECK(bench.mask() == 0);
    bench.mirror.release(512);  // less than a quarter
    CHECK(bench.mask() == 0);
    bench.mirror.release(1024);
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.in_b() == 1);
}

TEST_CASE("a whole message waits until it fits, and OUT waits with it") {
    Bench bench({4096, 16, 65536});
    CHECK(bench.send(std::string(4097, 'x'), true) == -EMSGSIZE);
    CHECK(bench.send(std::string(3000, 'x'), true) == 3000);
    CHECK(bench.send(std::string(3000, 'y'), true) == -EAGAIN);
    CHECK(bench.mask() == 0);
    bench.turn();
    bench.mirror.release(1500);  // room enough for OUT, not for the message
    CHECK(bench.mask() == 0);
    bench.mirror.release(2000);
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.send(std::string(3000, 'y'), true) == 3000);
    CHECK(stream_unsent(bench.view) == 4000);
    CHECK(bench.turn());
    CHECK(bench.in_b() == 1);
}

TEST_CASE("the doorbell is one byte, rung once, and takes OUT with it for no moment") {
    Bench bench;
    CHECK(bench.view.memory->armed == 1);
    CHECK(bench.send("one") == 3);
    CHECK(bench.in_b() == 2);
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.send("two") == 3);
    CHECK(bench.in_b() == 2);
    CHECK(bench.mirror.begin_turn());
    CHECK(bench.send("three") == 5);
    CHECK(bench.in_b() == 2);  // not rung while the engine is awake, and taken when it goes to sleep
    CHECK(bench.mirror.has_news());
    uint64_t head = 0;
    CHECK(bench.mirror.read_transmit_head(&head));
    CHECK(head == 11);
    CHECK_FALSE(bench.mirror.has_news());
    CHECK_FALSE(bench.mirror.end_turn());
    CHECK(bench.in_b() == 1);
    ring_doorbell(bench.view, bench.pair.a);
    CHECK(bench.in_b() == 2);
    CHECK(bench.turn());
    CHECK(bench.in_b() == 1);
}

// Only a doorbell may stay in B while the engine is awake: the byte that ends a stuffing keeps OUT off.
TEST_CASE("the rest of a stuffing is taken when it comes, though the engine does not go to sleep") {
    Bench bench;
    auto& memory = *bench.view.memory;
    memory.stuffed = 1;
    REQUIRE(raw::send(bench.pair.a, kStuffingJunk.byte, kStuffing) == kStuffing);
    CHECK(bench.mirror.begin_turn());
    bench.mirror.release(0);  // there is room, so OUT is to go on; half of the stuffing is still on its way
    CHECK_FALSE(bench.mirror.has_news());
    CHECK(memory.stuffed == 0);
    REQUIRE(raw::send(bench.pair.a, &kRing, 1) == 1);
    CHECK(bench.mirror.begin_turn());
    CHECK(bench.in_b() == 1);
    CHECK(bench.mask() == POLLOUT);
}

TEST_CASE("a byte that is not the library's is found when the engine goes to sleep") {
    Bench bench;
    CHECK(bench.send("x") == 1);  // rings
    CHECK(bench.mirror.begin_turn());
    unsigned char byte;
    REQUIRE(raw::receive(bench.pair.b, &byte, 1) == 1);
    const unsigned char foreign = 'f';
    REQUIRE(raw::receive(bench.pair.b, &byte, 1) == 1);
    REQUIRE(raw::send(bench.pair.a, &foreign, 1) == 1);
    REQUIRE(raw::send(bench.pair.a, &kRing, 1) == 1);
    CHECK(bench.mirror.end_turn());
    CHECK_FALSE(bench.mirror.begin_turn());
}

TEST_CASE("the engine is rung when the receive ring is given back far enough") {
    Bench bench;
    for (int i = 0; i < 8; ++i) bench.publish("ab", false, 0);
    bench.mirror.request_return_at(4);
    CHECK_FALSE(bench.mirror.end_turn());
    bench.receive(6);
    CHECK(bench.in_b() == 1);
    bench.receive(2);
    CHECK(bench.in_b() == 2);
    CHECK(bench.view.memory->return_mark == UINT64_MAX);
    bench.receive(8);
    CHECK(bench.in_b() == 2);
    CHECK(bench.turn());
    bench.mirror.request_return_at(3);  // reached already
    CHECK(bench.mirror.end_turn());
    CHECK_FALSE(bench.mirror.end_turn());
}

namespace {

// The protocol with something in between two of its steps.
struct Interrupted : Correct {
    static inline std::function<void()> by;
    static void step() {
        if (by) by();
    }
};

}  // namespace

TEST_CASE("a mark that the engine sets while an earlier one is being taken is not erased with it") {
    Bench bench;
    for (int i = 0; i < 12; ++i) bench.publish("ab", false, 0);
    bench.mirror.request_return_at(4);
    CHECK_FALSE(bench.mirror.end_turn());
    ConnectionMemory& m = *bench.view.memory;
    int turns = 0;
    Interrupted::by = [&] {  // woken by the fabric just after the reader has seen that it reached the mark
        if (m.receive_tail != 4 || turns++ != 0) return;
        CHECK(bench.mirror.begin_turn());
        bench.mirror.request_return_at(8);
        CHECK_FALSE(bench.mirror.end_turn());
    };
    char buffer[8];
    iovec iov{buffer, sizeof buffer};
    Cursor to(&iov, 1);
    CHECK(Receiver<Interrupted>(bench.view, bench.pair.a).receive(to).bytes == 8);
    Interrupted::by = nullptr;
    CHECK(turns > 0);
    CHECK(m.return_mark == 8);
    const uint32_t before = bench.in_b();
    bench.receive(8);
    CHECK(bench.in_b() == before + 1);
}

TEST_CASE("a number that another thread has closed tells nothing about the connection") {
    Bench bench;
    int number = ::dup(bench.pair.a);
    ::close(number);
    SECTION("and nobody has opened anything since") {}
    SECTION("and it is a socket of TCP by now, which hangs up as long as it is not connected") {
        REQUIRE(::socket(AF_INET, SOCK_STREAM, 0) == number);
    }
    char buffer[8];
    iovec iov{buffer, sizeof buffer};
    CHECK(stream_receive(bench.view, number, &iov, 1, false).error == EAGAIN);
    CHECK(stream_state(bench.view, number) == ConnectionState::established);
    CHECK(take_error(bench.view, number) == 0);
    bench.publish("still here", false, 0);
    CHECK(bench.receive(100) == "still here");
    CHECK(bench.send("yes") == 3);
    ::close(number);
}

TEST_CASE("bytes that nobody announced are found") {
    Bench bench;
    SECTION("of another value") { CHECK(::write(bench.pair.a, "x", 1) == 1); }
    SECTION("of our value") {
        unsigned char two[2] = {kRing, kRing};
        CHECK(::write(bench.pair.a, two, 2) == 2);
    }
    CHECK_FALSE(bench.mirror.begin_turn());
}

TEST_CASE("discarding and scattered reads count as reading") {
    Bench bench;
    bench.publish("0123456789", true, 10);
    StreamResult dropped = stream_discard(bench.view, bench.pair.a, 6);
    CHECK(dropped.bytes == 6);
    char x[3], y[100];
    iovec iov[3] = {{x, 3}, {nullptr, 0}, {y, 100}};
    CHECK(stream_receive(bench.view, bench.pair.a, iov, 3, false).bytes == 8);
    CHECK(std::string(x, 3) == "234");
    CHECK(std::string(y, 5) == "56789");
    CHECK(bench.mask() == POLLOUT);
}

TEST_CASE("a signal handler that comes in while its thread holds the lock gets EAGAIN") {
    Bench bench;
    bench.publish("x", false, 0);
    REQUIRE(pthread_mutex_lock(&bench.view.memory->receive_lock) == 0);
    REQUIRE(pthread_mutex_lock(&bench.view.memory->transmit_lock) == 0);
    CHECK(bench.receive(10) == "EAGAIN");
    CHECK(bench.send("x") == -EAGAIN);
    CHECK(stream_readable(bench.view) == 1);
    pthread_mutex_unlock(&bench.view.memory->receive_lock);
    pthread_mutex_unlock(&bench.view.memory->transmit_lock);
    CHECK(bench.receive(10) == "x");
}

TEST_CASE("own shutdown of the receiving side ends what is not there yet") {
    Bench bench;
    bench.publish("still", false, 0);
    bench.view.memory->shutdown |= shutdown_read;
    CHECK(bench.receive(10) == "still");
    CHECK(bench.receive(10) == "END");
}

TEST_CASE("a large send is published in parts, whatever errno was stays") {
    Bench bench({1u << 20, 16, 65536});
    errno = 1234;
    CHECK(bench.send(std::string(700'000, 'q')) == 700'000);
    CHECK(bench.receive(10) == "EAGAIN");
    CHECK(errno == 1234);
    CHECK(bench.view.memory->transmit_head == 700'000);
}
