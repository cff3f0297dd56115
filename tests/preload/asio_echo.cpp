// Clients and a server on Asio, whose sockets are in its epoll set, edge-triggered, before they are
// connected:
//
//     asio_echo PORT CLIENTS BYTES     each sends messages of so many bytes in all and compares what comes
//     back
#include <asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

using asio::ip::tcp;

[[noreturn]] void fail(const char* what, const asio::error_code& error) {
    std::fprintf(stderr, "%s: %s\n", what, error.message().c_str());
    std::exit(1);
}

std::vector<unsigned char> message(size_t size, unsigned char seed) {
    std::vector<unsigned char> bytes(4 + size);
    for (int i = 0; i < 4; ++i)
        bytes[static_cast<size_t>(i)] = static_cast<unsigned char>(size >> (24 - 8 * i));
    for (size_t i = 4; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 31 + seed);
    return bytes;
}

// What comes goes back, in whatever pieces it comes.
struct Echo : std::enable_shared_from_this<Echo> {
    explicit Echo(tcp::socket accepted) : socket(std::move(accepted)) {}
    void read() {
        socket.async_read_some(asio::buffer(bytes), [self = shared_from_this()](auto error, size_t size) {
            if (error) return;
            asio::async_write(self->socket, asio::buffer(self->bytes, size), [self](auto failed, size_t) {
                if (!failed) self->read();
            });
        });
    }
    tcp::socket socket;
    std::array<unsigned char, 50'000> bytes;
};

struct Client {
    Client(asio::io_context& context, size_t size, unsigned char seed)
        : socket(context, tcp::v4()), out(message(size, seed)), in(out.size()) {}
    void run(const tcp::endpoint& server) {
        socket.async_connect(server, [this](auto error) {
            if (error) fail("connect", error);
            asio::async_write(socket, asio::buffer(out), [](auto failed, size_t) {
                if (failed) fail("write", failed);
            });
            asio::async_read(socket, asio::buffer(in), [this](auto failed, size_t) {
                if (failed) fail("read", failed);
                done = in == out;
                socket.close();
            });
        });
    }
    tcp::socket socket;
    std::vector<unsigned char> out, in;
    bool done = false;
};

}  // namespace

int main(int count, char** words) {
    if (count != 4) return 64;
    const tcp::endpoint address(asio::ip::address_v4::loopback(), static_cast<uint16_t>(std::atoi(words[1])));
    const auto clients = static_cast<size_t>(std::atoi(words[2])),
               size = static_cast<size_t>(std::atol(words[3]));
    asio::io_context context;
    tcp::acceptor acceptor(context, address);
    size_t accepted = 0;
    std::function<void()> accept = [&] {
        acceptor.async_accept([&](auto error, tcp::socket socket) {
            if (error) fail("accept", error);
            std::make_shared<Echo>(std::move(socket))->read();
            if (++accepted < clients) accept();
        });
    };
    accept();
    std::vector<std::unique_ptr<Client>> all;
    for (size_t i = 0; i < clients; ++i) {
        all.push_back(std::make_unique<Client>(context, size, static_cast<unsigned char>(i)));
        all.back()->run(address);
    }
    context.run();
    for (const auto& client : all)
        if (!client->done) return std::fprintf(stderr, "a client got other bytes than it sent\n"), 1;
}
