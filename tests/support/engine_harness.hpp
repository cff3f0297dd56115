// An engine on a thread of the test, and the moves of the library made by hand: what libsmbdirect.so does
// inside connect(), accept(), send() and recv(), without interposing anything. So sanitizers see both sides.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.hpp"
#include "session/client.hpp"
#include "session/names.hpp"
#include "session/readiness.hpp"

namespace smbdirect::test {

class NullKeeper final : public engine::ListenerKeeper {
  public:
    void keep(const engine::ListenerRecord&, int, int) override {}
    void drop(uint64_t) override {}
};

class TestEngine {
  public:
    explicit TestEngine(engine::Settings settings = engine::settings_from_environment()) {
        static std::atomic<int> count{0};
        name_ = "smbdirect/test/" + std::to_string(getpid()) + "/" + std::to_string(++count);
        meeting_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const auto name = session::meeting_name_override(name_.c_str());
        if (bind(meeting_, reinterpret_cast<const sockaddr*>(&name.address), name.length) != 0 ||
            listen(meeting_, 64) != 0)
            abort();
        engine::Engine::Options options;
        options.settings = settings;
        options.owner = getuid();
        options.meeting_socket = meeting_;
        options.keeper = &keeper_;
        engine_ = std::make_unique<engine::Engine>(options);
        thread_ = std::thread([this] { engine_->run(); });
    }
    ~TestEngine() {
        engine_->stop();
        thread_.join();
        engine_.reset();
        close(meeting_);
    }

    Result<session::Reply> ask(const session::Request& request, int pass, session::ReplyFds* fds,
                               std::string* text = nullptr) {
        session::ClientOptions options;
        options.socket_name = name_.c_str();
        options.uid = getuid();
        std::vector<char> buffer(session::kMaxReplyText);
        auto reply = session::ask_engine(options, request, pass, fds, buffer.data(),
                                         static_cast<uint32_t>(buffer.size()));
        if (reply && text) text->assign(buffer.data(), reply->text_length);
        return reply;
    }

    uint64_t counter(const std::string& wanted) {
        session::Request request;
        request.type = session::RequestType::counters;
        session::ReplyFds fds;
        std::string text;
        if (!ask(request, -1, &fds, &text)) return UINT64_MAX;
        const std::string lines = "\n" + text;
        const auto at = lines.find("\n" + wanted + " ");
        return at == std::string::npos ? UINT64_MAX : std::stoull(lines.substr(at + wanted.size() + 2));
    }

  private:
    std::string name_;
    int meeting_;
    NullKeeper keeper_;
    std::unique_ptr<engine::Engine> engine_;
    std::thread thread_;
};

inline sockaddr_storage loopback(uint16_t port) {
    sockaddr_storage address{};
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v4.sin_port = htons(port);
    return address;
}

// A port P such that P and P + 5000 were free a moment ago.
inline uint16_t free_port() {
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        auto address = loopback(0);
        socklen_t length = sizeof(sockaddr_in);
        if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) abort();
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
        close(fd);
        const uint16_t port = ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
        if (port < 60000) return port;
    }
}

// A program's SMBDIRECT socket.
class Socket {
  public:
    Socket() = default;
    Socket(int a, int memfd) : a_(a) {
        if (!session::map_connection_memory(memfd, &view_)) abort();
        close(memfd);
    }
    Socket(Socket&& other) noexcept
        : a_(std::exchange(other.a_, -1)), view_(std::exchange(other.view_, {})) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(a_, other.a_);
        std::swap(view_, other.view_);
        return *this;
    }
    ~Socket() {
        if (a_ >= 0) close(a_);
        if (view_.memory) session::unmap_connection_memory(&view_);
    }
    void hang_up() {
        if (a_ >= 0) close(a_);
        a_ = -1;
    }

    bool open() const { return view_.memory != nullptr; }
    int a() const { return a_; }
    session::ConnectionMemory* memory() const { return view_.memory; }
    const session::ConnectionView& view() const { return view_; }

    // Waits for readiness; the limit only keeps a broken test from hanging.
    short wait(short events, int limit_ms = 30'000) const {
        pollfd watch{a_, events, 0};
        return ::poll(&watch, 1, limit_ms) == 1 ? watch.revents : short{0};
    }
    // Waits until connecting is over; the errno, or 0.
    int connected() const {
        wait(POLLOUT);
        return memory()->state.load() == session::ConnectionState::established
                   ? 0
                   : session::take_error(view_, a_);
    }

    // Everything, or the errno.
    int send_all(const void* data, size_t length) const {
        const char* at = static_cast<const char*>(data);
        while (length) {
            iovec part{const_cast<char*>(at), length};
            auto sent = session::stream_send(view_, a_, &part, 1);
            if (sent.error == EAGAIN) {
                if (!wait(POLLOUT)) return ETIMEDOUT;
                continue;
            }
            if (sent.error) return sent.error;
            at += sent.bytes;
            length -= sent.bytes;
        }
        return 0;
    }
    // Exactly length bytes; EPIPE stands for an early end of stream.
    int receive_all(void* data, size_t length) const {
        char* at = static_cast<char*>(data);
        while (length) {
            iovec part{at, length};
            auto got = session::stream_receive(view_, a_, &part, 1, false);
            if (got.error == EAGAIN) {
                if (!wait(POLLIN)) return ETIMEDOUT;
                continue;
            }
            if (got.error) return got.error;
            if (got.bytes == 0) return EPIPE;
            at += got.bytes;
            length -= got.bytes;
        }
        return 0;
    }
    // The result of one receive of a byte when nothing is expected but an end: 0, or the errno.
    int end() const {
        char byte;
        return receive_all(&byte, 1);
    }

  private:
    int a_ = -1;
    session::ConnectionView view_;
};

inline std::vector<char> message(size_t payload, unsigned seed) {
    std::vector<char> bytes(payload + 4);
    const uint32_t length = htonl(static_cast<uint32_t>(payload));
    std::memcpy(bytes.data(), &length, 4);
    for (size_t i = 4; i < bytes.size(); ++i) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = static_cast<char>(seed >> 24);
    }
    return bytes;
}

inline Socket connect_to(TestEngine& engine, const sockaddr_storage& remote, session::FabricChoice fabric,
                         int* error = nullptr, uint16_t rdma_port = 0, uint32_t face = 6) {
    session::Request request;
    request.type = session::RequestType::connect;
    request.face = face;
    request.fabric = fabric;
    request.remote = remote;
    request.rdma_port = rdma_port;
    request.timeout_ms = 5000;
    session::ReplyFds fds;
    auto reply = engine.ask(request, -1, &fds);
    if (!reply || reply->error) {
        if (error) *error = reply ? reply->error : reply.error().errnum;
        return {};
    }
    return Socket(fds.fd[0], fds.fd[1]);
}

// A listener that is SMBDIRECT only, and one beside TCP.
class Listening {
  public:
    Listening(TestEngine& engine, bool beside, uint32_t face = 6)
        : engine_(engine), beside_(beside), port_(free_port()) {
        session::Request request;
        request.face = face;
        request.type = beside ? session::RequestType::listen_beside : session::RequestType::listen_only;
        request.local = loopback(port_);
        request.backlog = 16;
        int pass = -1;
        if (beside) {
            fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            int one = 1;
            setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
            auto address = loopback(port_);
            if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(sockaddr_in)) != 0 ||
                listen(fd_, 64) != 0)
                abort();
            pass = fd_;
        }
        session::ReplyFds fds;
        auto reply = engine.ask(request, pass, &fds);
        error_ = reply ? reply->error : reply.error().errnum;
        if (error_) return;
        id_ = reply->listener_id;
        if (beside) {
            if (!session::map_knock_table(fds.fd[0], &table_)) abort();
            close(fds.fd[0]);
        } else {
            fd_ = fds.fd[0];
        }
    }
    ~Listening() {
        if (fd_ >= 0) close(fd_);
    }
    uint16_t port() const { return port_; }
    int error() const { return error_; }
    int fd() const { return fd_; }

    Socket accept() {
        pollfd watch{fd_, POLLIN, 0};
        if (::poll(&watch, 1, 30'000) != 1) return {};
        sockaddr_storage peer{};
        socklen_t length = sizeof peer;
        const int accepted =
            ::accept4(fd_, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (accepted < 0) return {};
        return beside_ ? claim(accepted, peer) : attach(accepted);
    }

  private:
    Socket claim(int knock, const sockaddr_storage& peer) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(peer);
        session::Request request;
        request.type = session::RequestType::claim;
        request.listener_id = id_;
        for (auto& entry : table_->entry) {
            auto expected = session::KnockState::knocking;
            if (entry.state.load() == expected && entry.port == v4.sin_port &&
                std::memcmp(entry.address, &v4.sin_addr, 4) == 0 &&
                entry.state.compare_exchange_strong(expected, session::KnockState::claimed))
                request.ticket = entry.ticket;
        }
        session::ReplyFds fds;
        auto reply = engine_.ask(request, -1, &fds);
        close(knock);
        if (!reply || reply->error) return {};
        return Socket(fds.fd[0], fds.fd[1]);
    }
    Socket attach(int a) {
        session::adopt_accepted_end(a);
        session::Request request;
        request.type = session::RequestType::attach;
        session::ReplyFds fds;
        auto reply = engine_.ask(request, a, &fds);
        if (!reply || reply->error) {
            close(a);
            return {};
        }
        return Socket(a, fds.fd[0]);
    }

    TestEngine& engine_;
    const bool beside_;
    const uint16_t port_;
    int fd_ = -1, error_ = 0;
    uint64_t id_ = 0;
    session::KnockTable* table_ = nullptr;
};

}  // namespace smbdirect::test
