#include <sys/wait.h>

#include <set>
#include <thread>
#include <vector>

#include "session/trace_ring.hpp"
#include "session_bench.hpp"

using namespace session_test;

namespace {
struct Rings {
    TraceRing *engine = nullptr, *library = nullptr;
    int fd;
    Rings() : fd(create_trace_ring(42, "a program with quite a long name, longer than fits", &engine)) {
        REQUIRE(fd >= 0);
        REQUIRE(map_trace_ring(fd, &library));
    }
    ~Rings() {
        unmap_trace_ring(engine);
        unmap_trace_ring(library);
        ::close(fd);
    }
    bool write(const std::string& text, uint64_t id = 1) {
        return trace_write(library, id, 5, 0, text.data(), static_cast<uint32_t>(text.size()));
    }
    std::string read() {
        TraceRecord record;
        return trace_read(engine, &record) ? std::string(record.text, record.length) : "nothing";
    }
};
}  // namespace

TEST_CASE("a trace record arrives as it was written") {
    Rings rings;
    CHECK(rings.read() == "nothing");
    CHECK(rings.write("hello"));
    CHECK(rings.write(std::string(1000, 'y')));
    TraceRecord record;
    REQUIRE(trace_read(rings.engine, &record));
    CHECK(std::string(record.text, record.length) == "hello");
    CHECK(record.connection_id == 1);
    CHECK(record.fd == 5);
    CHECK(record.thread == ::gettid());
    CHECK(record.time_ns > 1'600'000'000'000'000'000u);
    CHECK(rings.read() == std::string(216, 'y'));
    CHECK(rings.read() == "nothing");
}

TEST_CASE("a full trace ring drops and counts") {
    Rings rings;
    for (uint32_t i = 0; i < kTraceEntries; ++i) REQUIRE(rings.write("x"));
    CHECK_FALSE(rings.write("one too many"));
    CHECK(rings.library->dropped == 1);
    CHECK(rings.read() == "x");
    CHECK(rings.write("room again"));
}

TEST_CASE("many writers lose nothing and disorder nothing of one thread") {
    Rings rings;
    constexpr int kThreads = 6, kEach = 20'000;
    std::vector<std::thread> writers;
    for (int t = 0; t < kThreads; ++t)
        writers.emplace_back([&, t] {
            for (int i = 0; i < kEach; ++i)
                while (!rings.write(std::to_string(i), static_cast<uint64_t>(t))) std::this_thread::yield();
        });
    int next[kThreads] = {}, total = 0;
    bool ordered = true;
    while (total < kThreads * kEach) {
        TraceRecord record;
        if (!trace_read(rings.library, &record)) {  // one mapping for both: TSan knows addresses, not pages
            std::this_thread::yield();
            continue;
        }
        ++total;
        int value = std::stoi(std::string(record.text, record.length));
        ordered &= value == next[record.connection_id]++;
    }
    for (auto& writer : writers) writer.join();
    CHECK(ordered);
    CHECK(rings.read() == "nothing");
}

TEST_CASE("the gap of a dead writer is skipped, that of a slow one waited for") {
    Rings rings;
    CHECK(rings.write("before"));
    rings.library->head++;  // a writer reserved and was killed
    CHECK(rings.write("after"));
    CHECK(rings.read() == "before");
    CHECK(rings.read() == "nothing");
    rings.library->record[2].time_ns -= 2'000'000'000;
    CHECK(rings.read() == "after");
}

TEST_CASE("a hostile trace ring harms nobody") {
    Rings rings;
    rings.library->entries = 1u << 30;
    rings.library->tail = ~uint64_t{0} - 3;
    rings.library->head = 12345678901;
    rings.library->record[0].length = 0xffffffff;
    for (int i = 0; i < 10; ++i) rings.read();
    SUCCEED();
}
