// The shared memory: sealed, checked before it is believed, and harmless whatever another holder writes into
// it.
#include <sys/mman.h>
#include <sys/wait.h>

#include "session_bench.hpp"

using namespace session_test;

TEST_CASE("connection memory is sealed against every change of its size") {
    ConnectionView view;
    int fd = create_connection_memory({65536, 64, 65536}, &view);
    REQUIRE(fd >= 0);
    CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((::fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) ==
          (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    CHECK(::ftruncate(fd, 0) == -1);
    CHECK(errno == EPERM);
    CHECK(::ftruncate(fd, 1 << 24) == -1);
    ConnectionView other;
    REQUIRE(map_connection_memory(fd, &other));
    CHECK(other.transmit_size == 65536);
    CHECK(other.receive_ring_entries == 64);
    view.transmit()[100] = std::byte{77};
    CHECK(other.transmit()[100] == std::byte{77});
    CHECK(other.memory->return_mark == UINT64_MAX);
    unmap_connection_memory(&other);
    unmap_connection_memory(&view);
    CHECK(view.base == nullptr);
    ::close(fd);
}

TEST_CASE("memory that is not what it says is not mapped") {
    ConnectionView view, other;
    int fd = create_connection_memory({65536, 64, 65536}, &view);
    auto refused_with = [&] {
        errno = 0;
        return map_connection_memory(fd, &other) ? 0 : errno;
    };
    SECTION("magic") {
        view.memory->magic = 1;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("version") {
        view.memory->version++;
        CHECK(refused_with() == EPROTONOSUPPORT);
    }
    SECTION("size") {
        view.memory->size *= 2;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("transmit ring beyond the end") {
        view.memory->transmit_offset = 0xfffff000;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("transmit ring over page 0") {
        view.memory->transmit_offset = 0;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("not a power of two") {
        view.memory->transmit_size = 65535;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("too many descriptors") {
        view.memory->receive_ring_entries = 1u << 31;
        CHECK(refused_with() == EINVAL);
    }
    SECTION("area too large") {
        view.memory->receive_area_size = 0xffffffff;
        CHECK(refused_with() == EINVAL);
    }
    unmap_connection_memory(&view);
    ::close(fd);
}

TEST_CASE("an unsealed memfd is refused: it could shrink under us") {
    int fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(::ftruncate(fd, 1 << 20) == 0);
    ConnectionView view;
    CHECK_FALSE(map_connection_memory(fd, &view));
    CHECK(errno == EPERM);
    ::close(fd);
    int pipe_fds[2];
    REQUIRE(::pipe(pipe_fds) == 0);
    CHECK_FALSE(map_connection_memory(pipe_fds[0], &view));
    ::close(pipe_fds[0]);
    ::close(pipe_fds[1]);
}

TEST_CASE("geometry written over after mapping changes nothing") {
    Bench bench;
    bench.view.memory->transmit_offset = 0x7fffffff;
    bench.view.memory->receive_area_offset = 0x7fffffff;
    bench.view.memory->transmit_size = 3;
    CHECK(bench.send("abc") == 3);
    bench.publish("xyz", false, 0);
    CHECK(bench.receive(10) == "xyz");
}

TEST_CASE("hostile descriptors and indices end in ECONNRESET") {
    const std::string reset = std::to_string(ECONNRESET);
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    SECTION("offset beyond the area") {
        bench.publish({65537, 1, 0, 0});
        CHECK(bench.receive(10) == reset);
    }
    SECTION("length beyond the area") {
        bench.publish({65000, 1000, 0, 0});
        CHECK(bench.receive(10) == reset);
    }
    SECTION("wrapping sum") {
        bench.publish({0xfffffff0, 0x20, 0, 0});
        CHECK(bench.receive(10) == reset);
    }
    SECTION("length 2^32 - 1") {
        bench.publish({0, 0xffffffff, 0, 1});
        CHECK(bench.receive(10) == reset);
    }
    SECTION("nothing at all") {
        bench.publish({0, 0, 0, 0});
        CHECK(bench.receive(10) == reset);
    }
    SECTION("empty message is fine") {
        bench.publish({0, 0, 0, 1});
        CHECK(bench.receive(10) == std::string(4, '\0'));
    }
    SECTION("good one first") {
        bench.publish("good", false, 0);
        bench.publish({0, 0, 0, 0});
        CHECK(bench.receive(10) == "good");
        CHECK(bench.receive(10) == reset);
    }
    SECTION("head far away") {
        m.receive_head = 1u << 20;
        CHECK(bench.receive(10) == reset);
    }
    SECTION("tail before the head") {
        m.receive_tail = 5;
        CHECK(bench.receive(10) == reset);
    }
    SECTION("position beyond the descriptor") {
        bench.publish("abc", false, 0);
        m.receive_position = 1000;
        CHECK(bench.receive(10) == reset);
        CHECK(stream_readable(bench.view) == 0);
    }
    SECTION("transmit tail ahead of the head") {
        m.transmit_tail = 5;
        CHECK(bench.send("x") == -ECONNRESET);
    }
    SECTION("transmit tail far behind") {
        m.transmit_head = 1u << 30;
        CHECK(bench.send("x") == -ECONNRESET);
    }
}

TEST_CASE("the engine believes neither index beyond its ledger") {
    Bench bench;
    ConnectionMemory& m = *bench.view.memory;
    uint64_t index = 0;
    CHECK(bench.mirror.read_transmit_head(&index));
    m.transmit_head = bench.view.transmit_size + 1;
    CHECK_FALSE(bench.mirror.read_transmit_head(&index));
    m.transmit_head = 10;
    CHECK(bench.mirror.read_transmit_head(&index));
    m.transmit_head = 9;
    CHECK_FALSE(bench.mirror.read_transmit_head(&index));
    m.receive_tail = 1;
    CHECK_FALSE(bench.mirror.read_receive_tail(&index));
    bench.publish("x", false, 0);
    CHECK(bench.mirror.read_receive_tail(&index));
    m.receive_tail = 0;
    CHECK_FALSE(bench.mirror.read_receive_tail(&index));
}

TEST_CASE("knock tables") {
    KnockTable *made = nullptr, *mapped = nullptr;
    int fd = create_knock_table(99, &made);
    REQUIRE(fd >= 0);
    REQUIRE(map_knock_table(fd, &mapped));
    made->knocking = 3;
    CHECK(mapped->listener_id == 99);
    CHECK(mapped->knocking == 3);
    CHECK(mapped->entries == 256);
    unmap_knock_table(mapped);
    made->entries = 257;
    CHECK_FALSE(map_knock_table(fd, &mapped));
    unmap_knock_table(made);
    ::close(fd);
}
