// A driver whose transport will not pin more memory: two drivers on a loop of the test, over the memory
// fabric.
#include <sys/mman.h>

#include "engine/driver.hpp"
#include "fabric/memory/memory_fabric.hpp"
#include "smb2_support.hpp"
#include "support/catch.hpp"
#include "support/engine_harness.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

constexpr uint32_t kExplicit = 257, kUnit = 32 * 1024;
constexpr size_t kPiece = 8 * kUnit;  // of the ring: one registration

// As a device: registrations cost, and are limited, and the first message overtakes the event of its
// connection.
class Device final : public fabric::Endpoint, fabric::EndpointEvents {
  public:
    explicit Device(std::unique_ptr<Endpoint> real) : real_(std::move(real)) {}
    // No more than is pinned now, and so much less, can be pinned from now on.
    void fill(size_t less = 0) {
        most_ = pinned_ - less;
        full_ = true;
    }

    Result<void> accept(const fabric::AcceptParameters& p, fabric::EndpointEvents* e) override {
        owner_ = e;
        return real_->accept(p, this);
    }
    void reject(const fabric::PrivateData& data) override { real_->reject(data); }
    Result<fabric::MemoryRegion> register_memory(std::byte* address, size_t length,
                                                 uint32_t access) override {
        if (full_ && pinned_ + length > most_) return fail(Reason::rdma_resources, ENOMEM);
        pinned_ += length;
        return real_->register_memory(address, length, access);
    }
    void deregister_memory(const fabric::MemoryRegion& region) override {
        pinned_ -= region.length;
        real_->deregister_memory(region);
    }
    Result<void> post_receive(uint64_t id, std::span<const fabric::Sge> sges) override {
        return real_->post_receive(id, sges);
    }
    Result<void> post_send(const fabric::SendRequest& request) override { return real_->post_send(request); }
    void flush() override { real_->flush(); }
    size_t poll(std::span<fabric::Completion> out) override { return real_->poll(out); }
    void disconnect() override { real_->disconnect(); }
    void abort() override { real_->abort(); }
    const fabric::Limits& limits() const override {
        limits_ = real_->limits();
        limits_.registration_unit = kUnit;
        return limits_;
    }
    sockaddr_storage local_address() const override { return real_->local_address(); }
    sockaddr_storage remote_address() const override { return real_->remote_address(); }
    const char* fabric_name() const override { return "device"; }
    uint64_t unacknowledged_bytes() const override { return real_->unacknowledged_bytes(); }

  private:
    void on_established(const fabric::PrivateData& peer) override { overtaken_ = peer; }
    void on_completions() override {
        owner_->on_completions();
        if (overtaken_) owner_->on_established(*std::exchange(overtaken_, std::nullopt));
    }
    void on_disconnected(Error error) override { owner_->on_disconnected(error); }

    std::unique_ptr<fabric::Endpoint> real_;
    fabric::EndpointEvents* owner_ = nullptr;
    std::optional<fabric::PrivateData> overtaken_;
    mutable fabric::Limits limits_;
    std::atomic<size_t> pinned_ = 0, most_ = 0;
    std::atomic<bool> full_ = false;
};

// The program is a server or a client on a Device, the peer an explicit socket that has a buffer for RDMA
// Writes.
class World final : fabric::ListenerEvents, engine::DriverEvents, fabric::Fabric {
  public:
    explicit World(bool program_is_client) : program_is_client_(program_is_client) {
        settings_ = engine::settings_from_environment();
        settings_.stranger.negotiate_timeout_active = 120'000'000'000;  // no timer wakes anybody
        settings_.own_kind = settings_.stranger;                        // with short fragments
        settings_.channels = engine::ChannelUse::on;
        fabric::ListenParameters here;
        here.address = loopback(4445);
        listener_ = memory_->listen(here, this).value();
        fabric::ConnectParameters there;
        there.remote = here.address;
        int a = -1;
        REQUIRE(active_.start_connect(this, there, here.address, program_is_client ? 6 : kExplicit, &a));
        active_end() = Socket(a, dup(active_.memfd()));
        for (int i = 0; i < 1000 && !(active_.established() && passive_end().open()); ++i) loop_.run_once(1);
        REQUIRE((active_.established() && passive_end().open()));
        region_ = peer_endpoint_->register_memory(device_buffer_.data(), kBuffer, fabric::access_remote_write)
                      .value();
        thread_ = std::thread([this] { loop_.run(); });
    }
    ~World() {
        loop_.stop();
        loop_.wake();
        thread_.join();
        for (const auto mapping : {buffer, device_buffer_}) munmap(mapping.data(), mapping.size());
        close(buffer_fd_);
    }
    Descriptor descriptor() const {
        return {region_.remote_offset, region_.rkey, static_cast<uint32_t>(region_.length)};
    }

  private:
    int buffer_fd_ = -1;

  public:
    Socket program, peer;
    Device* device = nullptr;
    // Mapped twice, as a connection's memory is: here as the peer sees it.
    static constexpr size_t kBuffer = 1 << 20;
    std::span<std::byte> buffer = map_buffer();

  private:
    std::span<std::byte> map_buffer() {
        if (buffer_fd_ < 0 && ftruncate(buffer_fd_ = memfd_create("buffer", MFD_CLOEXEC), kBuffer) != 0)
            abort();
        void* at = mmap(nullptr, kBuffer, PROT_READ | PROT_WRITE, MAP_SHARED, buffer_fd_, 0);
        return {static_cast<std::byte*>(at), kBuffer};
    }
    Socket& active_end() { return program_is_client_ ? program : peer; }
    Socket& passive_end() { return program_is_client_ ? peer : program; }
    std::unique_ptr<fabric::Endpoint> seen(std::unique_ptr<fabric::Endpoint> endpoint, bool is_program) {
        if (!is_program) return peer_endpoint_ = endpoint.get(), std::move(endpoint);
        auto made = std::make_unique<Device>(std::move(endpoint));
        device = made.get();
        return made;
    }
    void on_request(std::unique_ptr<fabric::Endpoint> endpoint, const fabric::PrivateData& data) override {
        REQUIRE(passive_.start_accept(seen(std::move(endpoint), !program_is_client_), data, loopback(4445),
                                      program_is_client_ ? kExplicit : 6));
    }
    void on_ready_to_accept(engine::Driver*) override {
        int a = -1;
        REQUIRE(passive_.make_pair(false, &a));
        passive_end() = Socket(a, dup(passive_.memfd()));
        passive_.proceed();
    }
    void on_gone(engine::Driver*) override {}
    std::string_view name() const override { return memory_->name(); }
    Result<std::unique_ptr<fabric::Listener>> listen(const fabric::ListenParameters&,
                                                     fabric::ListenerEvents*) override {
        return fail(Reason::none, EINVAL);
    }
    Result<std::unique_ptr<fabric::Endpoint>> connect(const fabric::ConnectParameters& parameters,
                                                      fabric::EndpointEvents* events) override {
        auto made = memory_->connect(parameters, events);
        if (!made) return made;
        return seen(std::move(*made), program_is_client_);
    }

    const std::span<std::byte> device_buffer_ = map_buffer();
    const bool program_is_client_;
    fabric::EventLoop loop_;
    std::unique_ptr<fabric::Fabric> memory_ = fabric::make_memory_fabric(loop_);
    engine::Settings settings_;
    engine::Counters counters_;
    engine::TraceWriter trace_{&loop_, &counters_.trace_dropped};
    engine::SpinGuard spin_guard_;
    const engine::DriverContext context_{&loop_,  &settings_,   &counters_,
                                         &trace_, &spin_guard_, static_cast<uint64_t>(getpid()) << 32 | 77};
    std::unique_ptr<fabric::Listener> listener_;
    engine::Driver active_{context_, this, 1}, passive_{context_, this, 2};
    fabric::Endpoint* peer_endpoint_ = nullptr;
    fabric::MemoryRegion region_;
    std::thread thread_;
};

Bytes framed(const Bytes& message) {
    Bytes bytes(4);
    for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(message.size() >> (24 - 8 * i));
    return joined(std::move(bytes), message);
}
void put_all(const Socket& to, std::span<const std::byte> bytes) {
    REQUIRE(to.send_all(bytes.data(), bytes.size()) == 0);
}
Bytes receive(const Socket& from) {
    Bytes length(4);
    REQUIRE(from.receive_all(length.data(), 4) == 0);
    std::reverse(length.begin(), length.end());
    Bytes message(get(length, 0, 4));
    REQUIRE(from.receive_all(message.data(), message.size()) == 0);
    return message;
}
void wait_until_taken(const Socket& from) {
    for (int i = 0; i < 100; ++i) {
        if (from.memory()->transmit_tail.load() == from.memory()->transmit_head.load()) return;
        poll(nullptr, 0, 1);
    }
}

}  // namespace

TEST_CASE("a READ by channel gets on in the piece of the ring that is pinned", "[engine]") {
    World world(false);
    put_all(world.program, framed(negotiate_reply(0x0311)));
    receive(world.peer);
    const auto ask = [&](uint64_t id, uint32_t amount) {
        put_all(world.peer,
                framed(channel_request(
                    {.id = id, .amount = amount, .channel = 1, .descriptors = {world.descriptor()}})));
        CHECK(get(receive(world.program), 24, 8) == id);
    };
    ask(1, 1);  // so that everything but the next pieces of the ring is there
    put_all(world.program, framed(read_reply(1, pattern(1, 1))));
    CHECK(get(receive(world.peer), 72, 4) == 1);
    world.device->fill();
    uint64_t id = 1;
    for (const size_t left : {30'000u, 1u, 100u, 5000u, 8112u, 8150u, 8200u, 65'535u, 65'536u}) {
        CAPTURE(left);
        const auto size = static_cast<uint32_t>(world.buffer.size());
        ask(++id, size);
        const Bytes data = pattern(size, id), reply = framed(read_reply(id, data));
        // The program pauses so many bytes before the end of a piece.
        const size_t begin = world.program.memory()->transmit_head.load() % kPiece;
        const size_t first = (begin + left < kPiece ? kPiece : 2 * kPiece) - begin - left;
        put_all(world.program, std::span(reply).first(first));
        wait_until_taken(world.program);
        put_all(world.program, std::span(reply).subspan(first));
        CHECK(get(receive(world.peer), 72, 4) == size);
        CHECK(std::ranges::equal(world.buffer, data));
    }
}

TEST_CASE("a WRITE by channel passes through the one piece of the ring that can be pinned", "[engine]") {
    World world(true);
    put_all(world.peer, framed(negotiate_reply(0x0311)));
    receive(world.program);
    constexpr size_t kSize = 12 * kPiece;
    for (uint64_t id = 1; id < 20; ++id) {
        put_all(world.program, framed(inline_write(id, pattern(kSize, id))));
        const Bytes request = receive(world.peer);
        CHECK((request.size() < 1000 && get(request, 24, 8) == id && get(request, 100, 4) == kSize));
        put_all(world.peer, framed(write_reply(id, kSize)));
        CHECK(receive(world.program) == write_reply(id, kSize));
        // Its buffer stays pinned, and all pieces of the ring that it passed but one can go.
        if (id == 1) world.device->fill(11 * kPiece);
    }
}

TEST_CASE("a request that waits for room goes on when the program has read", "[engine]") {
    World world(true);  // without an engine's sweep, which would find it out too, within a second
    put_all(world.peer, framed(negotiate_reply(0x0311)));
    receive(world.program);
    constexpr uint32_t kMostRead = 8u << 20;  // three of them leave no room for a fourth
    const auto ask = [&](uint64_t id) { put_all(world.program, framed(inline_read(id, kMostRead))); };
    const auto answer = [&](uint64_t id) {
        CHECK(get(receive(world.peer), 24, 8) == id);
        Bytes reply = read_reply(id, {});
        put(reply, 72, 4, kMostRead);
        put_all(world.peer, framed(reply));
    };
    for (uint64_t id = 1; id < 4; ++id) ask(id);
    for (uint64_t id = 1; id < 4; ++id) answer(id);
    while (world.program.memory()->receive_head.load() - world.program.memory()->receive_tail.load() < 3)
        poll(nullptr, 0, 1);
    ask(4);
    poll(nullptr, 0, 50);  // for it to be looked at
    for (uint64_t id = 1; id < 4; ++id) CHECK(get(receive(world.program), 24, 8) == id);
    answer(4);
    CHECK(get(receive(world.program), 24, 8) == 4);
}
