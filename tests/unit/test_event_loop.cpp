#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "fabric/event_loop.hpp"
#include "support/catch.hpp"

using namespace smbdirect::fabric;

namespace {

struct Event final : Watcher {
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int calls = 0;
    std::function<void()> act;

    ~Event() { close(fd); }
    void on_ready(uint32_t) override {
        ++calls;
        if (act) act();
    }
    void signal() { eventfd_write(fd, 1); }
};

struct Memory final : Poller {
    std::string calls;
    int looks_until_found = -1;  // -1: never
    bool there_when_armed = false;
    std::function<void()> act;

    bool look() override {
        calls += 'l';
        return looks_until_found >= 0 && looks_until_found-- == 0;
    }
    bool arm() override {
        calls += 'a';
        return there_when_armed;
    }
    void on_found() override {
        calls += 'f';
        if (act) act();
    }
};

constexpr Nanoseconds ms = 1'000'000;

}  // namespace

TEST_CASE("readiness reaches its watcher, and an unwatched one never") {
    EventLoop loop;
    Event a, b;
    REQUIRE(loop.watch(a.fd, EPOLLIN, &a));
    REQUIRE(loop.watch(b.fd, EPOLLIN, &b));
    // Whichever comes first unwatches the other, whose event was fetched already.
    a.act = [&] { loop.unwatch(b.fd, &b); };
    b.act = [&] { loop.unwatch(a.fd, &a); };
    a.signal();
    b.signal();
    for (int i = 0; i < 3; ++i) loop.run_once(0);
    CHECK((a.calls == 0 || b.calls == 0));
    CHECK(a.calls + b.calls == 3);  // level-triggered
}

TEST_CASE("a number that is reused in the same turn does not get the old event") {
    EventLoop loop;
    Event a, b;
    Event fresh;
    REQUIRE(loop.watch(a.fd, EPOLLIN, &a));
    REQUIRE(loop.watch(b.fd, EPOLLIN, &b));
    const auto swap = [&](Event& other) {
        loop.unwatch(other.fd, &other);
        dup2(fresh.fd, other.fd);
        loop.watch(other.fd, EPOLLIN, &fresh);
        loop.unwatch(a.calls ? a.fd : b.fd, a.calls ? &a : &b);
    };
    a.act = [&] { swap(b); };
    b.act = [&] { swap(a); };
    a.signal();
    b.signal();
    loop.run_once(0);
    loop.run_once(0);
    CHECK(a.calls + b.calls == 1);
    CHECK(fresh.calls == 0);
}

TEST_CASE("timers fire in order, once, and not when cancelled") {
    EventLoop loop;
    std::string order;
    int turn = 0, turn_of_a = 0, turn_of_new = 0;
    const auto start = loop.now();
    loop.add_timer(start + 20 * ms, [&] { order += 'c'; });
    loop.add_timer(start + 10 * ms, [&] { order += 'b'; });
    const auto cancelled = loop.add_timer(start + 15 * ms, [&] { order += 'x'; });
    const auto other = loop.add_timer(start + 11 * ms, [&] { order += 'y'; });
    loop.add_timer(start + 5 * ms, [&] {
        order += 'a';
        turn_of_a = turn;
        loop.cancel_timer(other);
        // Due at once, but not in this turn: a timer cannot keep the loop from its events.
        loop.add_timer(loop.now(), [&] { turn_of_new = turn; });
    });
    loop.cancel_timer(cancelled);
    loop.cancel_timer(0);
    loop.cancel_timer(12345);
    while (loop.now() < start + 25 * ms || turn_of_new == 0) {
        ++turn;
        loop.run_once(5);
    }
    CHECK(order == "abc");
    CHECK(turn_of_new > turn_of_a);
}

TEST_CASE("deferred work runs before the loop sleeps, also when it defers more") {
    EventLoop loop;
    int runs = 0;
    std::function<void()> again = [&] {
        if (++runs < 5) loop.defer(again);
    };
    loop.defer(again);
    loop.run_once(-1);
    CHECK(runs == 5);
    // One that never ends lets events through.
    std::function<void()> forever = [&] { loop.defer(forever); };
    loop.defer(forever);
    Event event;
    loop.watch(event.fd, EPOLLIN, &event);
    event.signal();
    loop.run_once(-1);
    CHECK(event.calls == 1);
}

TEST_CASE("wake and stop") {
    EventLoop loop;
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        loop.wake();
    });
    CHECK(loop.run_once(-1));
    other.join();
    loop.defer([&] { loop.stop(); });
    loop.run();
    CHECK_FALSE(loop.run_once(0));
}

TEST_CASE("an idle loop sleeps") {
    EventLoop loop;
    const clock_t before = clock();
    loop.run_once(100);
    CHECK(clock() - before < CLOCKS_PER_SEC / 50);
}

TEST_CASE("what is looked at is armed before the loop sleeps, and not looked at any more") {
    EventLoop loop;
    Memory memory;
    loop.look_at(&memory);
    loop.look_at(&memory);
    loop.run_once(5);
    loop.run_once(0);
    CHECK(memory.calls == "la");
    // Something that came just before is not slept over.
    memory.calls.clear();
    memory.there_when_armed = true;
    loop.look_at(&memory);
    loop.run_once(-1);
    CHECK(memory.calls == "laf");
    loop.look_at(&memory);
    loop.forget(&memory);
    loop.run_once(0);
    CHECK(memory.calls == "laf");
}

TEST_CASE("a loop that spins looks again and again, and is told nothing") {
    EventLoop loop;
    Memory memory, other;
    memory.looks_until_found = 3;
    loop.look_at(&memory);
    loop.spin(2000 * ms);
    loop.run_once(-1);
    CHECK(memory.calls == "llllf");
    // That something came does not end the time: it need not be what is waited for.
    memory.looks_until_found = 2;
    loop.look_at(&memory);
    loop.run_once(-1);
    CHECK(memory.calls == "llllflllf");
    // Nor do descriptors and timers wait for its end.
    Event event;
    loop.watch(event.fd, EPOLLIN, &event);
    event.signal();
    loop.look_at(&memory);
    loop.run_once(-1);
    CHECK(event.calls == 1);
    loop.unwatch(event.fd, &event);
    bool fired = false;
    loop.add_timer(loop.now() + 5 * ms, [&] { fired = true; });
    loop.run_once(-1);
    CHECK(fired);
    CHECK(memory.calls.find('a') == std::string::npos);
    loop.forget(&memory);
}

TEST_CASE("whoever is found may let go of another one that was found") {
    EventLoop loop;
    Memory first, second;
    first.looks_until_found = second.looks_until_found = 0;
    first.act = [&] { loop.forget(&second); };
    loop.look_at(&first);
    loop.look_at(&second);
    loop.run_once(0);
    CHECK(first.calls == "lf");
    CHECK(second.calls == "l");
}
