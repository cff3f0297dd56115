#include "engine/session_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace smbdirect::engine {

class SessionServer::Client final : public fabric::Watcher {
  public:
    Client(SessionServer* server, int socket) : server_(server), socket_(socket) {
        server->engine_->loop().watch(socket, EPOLLIN, this);
    }
    ~Client() {
        server_->engine_->loop().unwatch(socket_, this);
        close(socket_);
    }

    void on_ready(uint32_t) override {
        session::Request request;
        int passed = -1;
        const ssize_t length = receive(&request, &passed);
        if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (length > 0) handle(request, static_cast<size_t>(length), passed);
        if (passed >= 0) close(passed);
        server_->forget(this);
    }

  private:
    ssize_t receive(session::Request* request, int* passed) {
        iovec part{request, sizeof *request};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * session::kMaxMessageFds)];
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        const ssize_t length = recvmsg(socket_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (length < 0) return length;
        for (auto* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < count; ++i) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                if (*passed < 0) *passed = fd;
                else close(fd);
            }
        }
        return length;
    }

    void handle(session::Request& request, size_t length, int passed) {
        Engine::Answer answer;
        ucred who{};
        socklen_t size = sizeof who;
        getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &who, &size);
        auto& counters = server_->engine_->counters();
        ++counters.requests;
        if (length != sizeof request || request.magic != session::kMessageMagic || request.version != session::kVersion) {
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
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * session::kMaxMessageFds)] = {};
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        int count = 0;
        while (count < session::kMaxMessageFds && answer.fd[count] >= 0) ++count;
        if (count) {
            message.msg_control = control;
            message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
            auto* header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int) * count);
            std::memcpy(CMSG_DATA(header), answer.fd, sizeof(int) * count);
        }
        // A client that went away is its own business.
        [[maybe_unused]] auto sent = sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    SessionServer* const server_;
    const int socket_;
};

SessionServer::SessionServer(Engine* engine, int meeting_socket) : engine_(engine), meeting_socket_(meeting_socket) {
    engine_->loop().watch(meeting_socket_, EPOLLIN, this);
}

SessionServer::~SessionServer() {
    engine_->loop().unwatch(meeting_socket_, this);
    clients_.clear();
}

void SessionServer::on_ready(uint32_t) {
    for (int i = 0; i < 64; ++i) {
        int socket = accept4(meeting_socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (socket < 0) return;
        auto client = std::make_unique<Client>(this, socket);
        clients_[client.get()] = std::move(client);
    }
}

void SessionServer::forget(Client* client) {
    auto it = clients_.find(client);
    if (it == clients_.end()) return;
    engine_->loop().defer([gone = std::shared_ptr<Client>(std::move(it->second))] {});
    clients_.erase(it);
}

}  // namespace smbdirect::engine
