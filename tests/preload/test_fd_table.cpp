#include "preload/fd_table.hpp"

#include <sys/mman.h>

#include <thread>
#include <vector>

#include "preload/attachment.hpp"
#include "preload/iov_cursor.hpp"
#include "support/catch.hpp"

using namespace smbdirect::preload;

TEST_CASE("the table: words") {
    CHECK(fd_table.peek(500) == unknown);
    fd_table.set(500, tcp);
    CHECK(fd_table.peek(500) == tcp);
    CHECK(fd_table.peek(501) == unknown);
    CHECK(fd_table.peek(-1) == foreign);
    fd_table.set(-1, tcp);
    CHECK(fd_table.peek(-1) == foreign);
    fd_table.set(70'000'000, tcp);
    CHECK(fd_table.peek(70'000'000) == foreign);
    fd_table.set(1'000'000, foreign);
    CHECK(fd_table.peek(1'000'000) == foreign);
    unsigned seen = 0;
    fd_table.for_each_known(0, ~0u, [&](int) { ++seen; });
    CHECK(seen == 2);
    fd_table.for_each_known(501, 999'999, [&](int) { ++seen; });
    CHECK(seen == 2);
    fd_table.set(500, unknown);
    fd_table.set(1'000'000, unknown);
    CHECK(fd_table.take(500) == unknown);
}

TEST_CASE("the table: references of attachments") {
    Attachment* one = make_attachment(Kind::idle, 257);
    REQUIRE(fd_table.put(7, one));
    CHECK(one->references == 1);
    {
        Held held(fd_table.acquire(7));
        REQUIRE(held.get() == one);
        CHECK(one->references == 2);
        try_hold(one);
        REQUIRE(fd_table.put(8, one));
        CHECK(one->references == 3);
        fd_table.set(7, unknown);
        CHECK_FALSE(Held(fd_table.acquire(7)));
        CHECK(one->references == 2);
    }
    CHECK(one->references == 1);
    drop(reinterpret_cast<Attachment*>(fd_table.take(8)));
    CHECK(one->references == 0);
    CHECK_FALSE(try_hold(one));
    CHECK(make_attachment(Kind::idle, 6) == one);  // type-stable: used again
    drop(one);
}

TEST_CASE("the table: an orphan is a connection that was reset") {
    Held orphan(make_orphan(ECONNRESET));
    REQUIRE(orphan);
    CHECK(orphan->kind == Kind::connection);
    CHECK(orphan->memory().end.load() == smbdirect::session::End::reset);
    CHECK(orphan->memory().error.load() == ECONNRESET);
}

TEST_CASE("the table: acquire against put and take in other threads") {
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    std::atomic<uint64_t> wrong{0};
    for (int i = 0; i < 2; ++i)
        readers.emplace_back([&] {
            while (!stop) {
                Held held(fd_table.acquire(9));
                if (held && held->kind != Kind::idle) ++wrong;
            }
        });
    for (int i = 0; i < 100'000; ++i) {
        fd_table.put(9, make_attachment(Kind::idle, 257));
        if (i % 3 == 0) fd_table.set(9, unknown);
    }
    fd_table.set(9, unknown);
    stop = true;
    for (auto& t : readers) t.join();
    CHECK(wrong == 0);
}

TEST_CASE("the iovec cursor") {
    char a[10], b[20], c[5];
    iovec iov[] = {{a, 10}, {nullptr, 0}, {b, 20}, {c, 5}};
    IovCursor cursor(iov, 4);
    CHECK(cursor.total() == 35);
    auto w = cursor.window();
    CHECK(w.count == 3);
    CHECK(w.bytes == 35);
    cursor.advance(10);
    CHECK(cursor.window().iov[0].iov_base == b);
    cursor.advance(7);
    w = cursor.window();
    CHECK(w.iov[0].iov_base == b + 7);
    CHECK(w.iov[0].iov_len == 13);
    cursor.advance(18);
    CHECK(cursor.done() == 35);
    CHECK(cursor.window().count == 0);
    std::vector<iovec> many(100, iovec{a, 1});
    IovCursor long_one(many.data(), many.size());
    CHECK(long_one.window().bytes == IovCursor::Window::kMost);
}
