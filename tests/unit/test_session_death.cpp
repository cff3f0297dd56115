// A holder is killed at the worst instructions, and others go on. Each child below does by hand what the
// library does up to that instruction, with the lock held, and dies.
#include <sys/wait.h>

#include <atomic>
#include <functional>
#include <thread>

#include "session/mirror_protocol.hpp"
#include "session_bench.hpp"

using namespace session_test;

namespace {

void die_doing(const std::function<void()>& last_words) {
    pid_t pid = ::fork();
    if (pid == 0) {
        last_words();
        ::raise(SIGKILL);
    }
    int status;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFSIGNALED(status));
}

// Turns whenever B says so, as the engine does; every 10 ms its slow timer.
class Engine {
  public:
    explicit Engine(Bench& bench) : bench_(bench), thread_([this] { run(); }) {}
    ~Engine() { stop(); }
    void stop() {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
    }
    std::atomic<bool> ours{true};
    std::atomic<uint64_t> release_to{0};

  private:
    void run() {
        while (!stop_) {
            ours = ours && bench_.mirror.begin_turn();
            CHECK(bench_.mirror.sweep());
            if (release_to) bench_.mirror.release(release_to);
            if (!bench_.mirror.end_turn()) ::usleep(10'000);
        }
    }
    Bench& bench_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

short wait_for_mask(const Bench& bench, short events) {
    pollfd entry{bench.pair.a, events, 0};
    ::poll(&entry, 1, 3000);
    return entry.revents;
}

void check_clean(Bench& bench) {
    CHECK(bench.turn());
    CHECK(bench.mask() == POLLOUT);
    CHECK(bench.view.memory->tokens == 0);
    CHECK(bench.in_b() == 1);
    CHECK(raw::queued(bench.pair.a) == 0);
}

}  // namespace

TEST_CASE("a reader is killed") {
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    bench.publish("first", false, 0);
    bench.publish("second", false, 0);
    char byte[8];
    SECTION("holding the lock and nothing else") {
        die_doing([&] { pthread_mutex_lock(&m.receive_lock); });
    }
    SECTION("having taken responsibility for the tokens") {
        die_doing([&] { pthread_mutex_lock(&m.receive_lock), m.tokens.exchange(0); });
    }
    SECTION("having received them as well: nobody would ever wake") {
        die_doing([&] {
            pthread_mutex_lock(&m.receive_lock), m.tokens.exchange(0);
            raw::receive(bench.pair.a, byte, 8);
        });
        CHECK(bench.mask() == POLLOUT);
    }
    SECTION("between tail and position") {
        CHECK(bench.receive(2) == "fi");
        die_doing([&] { pthread_mutex_lock(&m.receive_lock), m.receive_tail = 1; });
        Engine engine(bench);
        CHECK((wait_for_mask(bench, POLLIN) & POLLIN) != 0);
        CHECK(bench.receive(100) == "second");
        engine.stop();
        return check_clean(bench);
    }
    Engine engine(bench);
    CHECK((wait_for_mask(bench, POLLIN) & POLLIN) != 0);
    CHECK(bench.receive(100) == "firstsecond");
    CHECK(bench.receive(100) == "EAGAIN");
    ::usleep(50'000);
    engine.stop();
    CHECK(engine.ours);
    check_clean(bench);
}

TEST_CASE("who recovers the reader's lock is killed as well, while the engine holds still") {
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    bench.publish("first", false, 0);
    die_doing([&] { pthread_mutex_lock(&m.receive_lock); });
    {
        Engine engine(bench);
        die_doing([&] {
            pthread_mutex_lock(&m.receive_lock);
            m.receive_recovery_ack = 0;
            m.receive_recovery_request = 1;
            ring_doorbell(bench.view, bench.pair.a);
            while (m.receive_recovery_ack == 0) ::usleep(1000);
            char tokens[64];
            while (raw::receive(bench.pair.a, tokens, sizeof tokens) > 0) {
            }
        });
        CHECK((wait_for_mask(bench, POLLIN) & POLLIN) != 0);
        CHECK(bench.receive(100) == "first");
        CHECK(bench.receive(100) == "EAGAIN");
        ::usleep(50'000);
        CHECK(engine.ours);
    }
    check_clean(bench);
}

TEST_CASE("a writer is killed") {
    Bench bench({4096, 16, 65536});
    ConnectionMemory& m = *bench.view.memory;
    REQUIRE(bench.send(std::string(4000, 'x')) == 4000);
    REQUIRE(bench.turn());
    auto die_with_full_ring = [&](int sends) {
        die_doing([&] {
            pthread_mutex_lock(&m.transmit_lock);
            m.transmit_head = 4096;
            m.stuffed.exchange(1);
            if (sends > 0) raw::send(bench.pair.a, kStuffingJunk.byte, kStuffing);
            if (sends > 1) raw::send(bench.pair.a, &kRing, 1);
        });
    };
    SECTION("before it announced anything") {
        die_doing([&] { pthread_mutex_lock(&m.transmit_lock); });
    }
    SECTION("having taken the doorbell without ringing") {
        die_doing([&] { pthread_mutex_lock(&m.transmit_lock), m.armed.exchange(0); });
    }
    SECTION("having announced a stuffing") { die_with_full_ring(0); }
    SECTION("having sent half of it") { die_with_full_ring(1); }
    SECTION("having sent all of it") { die_with_full_ring(2); }
    Engine engine(bench);
    engine.release_to = 3000;
    CHECK((wait_for_mask(bench, POLLOUT) & POLLOUT) != 0);
    long sent = -EAGAIN;
    for (int i = 0; i < 100 && sent == -EAGAIN; ++i) {
        sent = bench.send("after");
        if (sent == -EAGAIN) ::usleep(10'000);
    }
    CHECK(sent == 5);
    ::usleep(50'000);
    engine.stop();
    CHECK(engine.ours);
    check_clean(bench);
}

TEST_CASE("a recoverer is killed in the middle of recovery") {
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    bench.publish("data", false, 0);
    die_doing([&] { pthread_mutex_lock(&m.receive_lock), m.tokens.exchange(0); });
    die_doing([&] {
        pthread_mutex_lock(&m.receive_lock);
        m.receive_recovery_request = 1;
    });
    die_doing([&] { pthread_mutex_lock(&m.transmit_lock); });
    die_doing([&] {
        pthread_mutex_lock(&m.transmit_lock);
        m.transmit_recovery_request = 1;
    });
    Engine engine(bench);
    ::usleep(30'000);
    CHECK(bench.receive(100) == "data");
    CHECK(bench.send("x") == 1);
    ::usleep(50'000);
    engine.stop();
    CHECK(engine.ours);
    check_clean(bench);
}

TEST_CASE("recovery without an engine ends at once") {
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    bench.publish("left", false, 0);
    die_doing([&] { pthread_mutex_lock(&m.receive_lock), pthread_mutex_lock(&m.transmit_lock); });
    bench.mirror.close_reset();
    uint64_t start = raw::clock_ns(CLOCK_MONOTONIC);
    CHECK(bench.receive(100) == "left");
    CHECK(bench.receive(100) == std::to_string(ECONNRESET));
    CHECK(bench.send("x") == -EPIPE);
    CHECK(raw::clock_ns(CLOCK_MONOTONIC) - start < 1'000'000'000u);
}

TEST_CASE("an engine goes while it connects") {
    Bench bench({65536, 64, 65536}, true);
    ConnectionMemory& m = *bench.view.memory;
    CHECK(stream_state(bench.view, bench.pair.a) == ConnectionState::connecting);
    CHECK(bench.receive(10) == "EAGAIN");
    bool half_said = false;
    SECTION("without a word") {}
    SECTION("in the middle of its last words") { half_said = true, m.error = ETIMEDOUT, m.end = End::reset; }
    bench.mirror.close_reset();
    CHECK(m.state == ConnectionState::connecting);
    CHECK(stream_state(bench.view, bench.pair.a) == ConnectionState::failed);
    CHECK(stream_state(bench.view, bench.pair.a) == ConnectionState::failed);
    CHECK(take_error(bench.view, bench.pair.a) == (half_said ? ETIMEDOUT : ECONNREFUSED));
    CHECK(take_error(bench.view, bench.pair.a) == 0);
    CHECK(m.end == End::reset);
}
