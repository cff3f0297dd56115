#include "engine/session_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "session/rights.hpp"

namespace smbdirect::engine {

class SessionServer::Client final : public fabric::Watcher {
  public:
    Client(SessionServer* server, int socket, uid_t uid) : server_(server), socket_(socket), uid_(uid) {
        auto& loop = server->engine_->loop();
        loop.watch(socket, EPOLLIN, this);
        timer_ = loop.add_timer(loop.now() + kTimeToAsk, [this] {
            timer_ = 0;
            server_->forget(this);
        });
    }
    ~Client() {
        auto& loop = server_->engine_->loop();
        if (timer_) loop.cancel_timer(timer_);
        loop.unwatch(socket_, this);
        close(socket_);
    }

    void on_ready(uint32_t) override {
        session::Request request;
        int passed = -1;
        const ssize_t length = receive(&request, &passed);
        if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (length > 0) handle(request, static_cast<size_t>(length), passed);
        if (passed >= 0) close_passed(passed);
        server_->forget(this);
    }
    uid_t uid() const { return uid_; }

  private:
    ssize_t receive(session::Request* request, int* passed) {
        iovec part{request, sizeof *request};
        session::Rights<session::kMaxMessageFds> rights;
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        rights.expect(message);
        const ssize_t length = recvmsg(socket_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (length < 0) return length;
        session::for_each_passed_fd(message, [passed](int fd) {
            if (*passed < 0)
                *passed = fd;
            else
                close(fd);
        });
        return length;
    }

    // Perhaps we hold the last reference of somebody's socket: its close() must not linger here. A listener's
    // does not, and what is set on it is its program's, for the sockets that it accepts.
    static void close_passed(int fd) {
        int listens = 0;
        socklen_t length = sizeof listens;
        const linger off{};
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 || !listens)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
        close(fd);
    }

    void handle(session::Request& request, size_t length, int passed) {
        Engine::Answer answer;
        ucred who{};
        socklen_t size = sizeof who;
        getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &who, &size);
        auto& counters = server_->engine_->counters();
        ++counters.requests;
        if (length != sizeof request || request.magic != session::kMessageMagic ||
            request.version != session::kVersion) {
            answer.reply.error = EPROTO;
            answer.reply.reason = static_cast<uint32_t>(Reason::engine_version);
        } else {
            request.program[sizeof request.program - 1] = '\0';
            request.directory[sizeof request.directory - 1] = '\0';
            answer = server_->engine_->answer(request, passed, {who.pid, who.uid});
        }
        if (answer.reply.error) ++counters.requests_refused;
        send(answer);
        for (int i = 0; i < session::kMaxMessageFds; ++i)
            if (answer.close_fd[i] && answer.fd[i] >= 0) close(answer.fd[i]);
    }

    void send(Engine::Answer& answer) {
        if (answer.text.size() > session::kMaxReplyText) answer.text.resize(session::kMaxReplyText);
        answer.reply.text_length = static_cast<uint32_t>(answer.text.size());
        iovec parts[2] = {{&answer.reply, sizeof answer.reply}, {answer.text.data(), answer.text.size()}};
        session::Rights<session::kMaxMessageFds> rights;
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        int count = 0;
        while (count < session::kMaxMessageFds && answer.fd[count] >= 0) ++count;
        if (count) rights.pass(message, answer.fd, count);
        // A client that went away is its own business.
        [[maybe_unused]] auto sent = sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    static constexpr fabric::Nanoseconds kTimeToAsk = 2'000'000'000;

    SessionServer* const server_;
    const int socket_;
    const uid_t uid_;
    uint64_t timer_ = 0;
};

SessionServer::SessionServer(Engine* engine, int meeting_socket)
    : engine_(engine), meeting_socket_(meeting_socket) {
    engine_->loop().watch(meeting_socket_, EPOLLIN, this);
}

SessionServer::~SessionServer() {
    engine_->loop().unwatch(meeting_socket_, this);
    if (pause_timer_) engine_->loop().cancel_timer(pause_timer_);
    clients_.clear();
}

// Out of descriptors or memory: the watch is level-triggered and would return at once, for ever.
void SessionServer::pause() {
    auto& loop = engine_->loop();
    loop.unwatch(meeting_socket_, this);
    pause_timer_ = loop.add_timer(loop.now() + 100'000'000, [this] {
        pause_timer_ = 0;
        engine_->loop().watch(meeting_socket_, EPOLLIN, this);
    });
}

bool SessionServer::make_room(uid_t uid) {
    constexpr size_t kMostPerUser = 128, kMostInAll = 512;
    size_t same = 0;
    for (auto& client : clients_) same += client->uid() == uid;
    if (same >= kMostPerUser) return false;
    if (clients_.size() >= kMostInAll) forget(clients_.front().get());
    return true;
}

void SessionServer::on_ready(uint32_t) {
    for (int i = 0; i < 64; ++i) {
        int socket = accept4(meeting_socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (socket < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) pause();
            return;
        }
        ucred who{};
        socklen_t size = sizeof who;
        getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size);
        if (make_room(who.uid))
            clients_.push_back(std::make_unique<Client>(this, socket, who.uid));
        else
            close(socket);
    }
}

void SessionServer::forget(Client* client) {
    auto it = std::find_if(clients_.begin(), clients_.end(), [client](auto& c) { return c.get() == client; });
    if (it == clients_.end()) return;
    engine_->loop().defer([gone = std::shared_ptr<Client>(std::move(*it))] {});
    clients_.erase(it);
}

}  // namespace smbdirect::engine
