// The library's stream functions and the engine's mirror against each other, in one thread: no race, just the
// rules.
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
