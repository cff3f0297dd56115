#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "fabric/iwarp/core.hpp"

namespace smbdirect::fabric::iwarp {
namespace {

constexpr size_t most_waiting = 1024;
constexpr int reads_a_turn = 8;

}  // namespace

class Lingerer::Waiting final : public Watcher {
  public:
    Waiting(Lingerer& owner, Socket socket) : owner_(owner), socket_(std::move(socket)) {
        watched_ = owner_.loop_.watch(socket_.fd(), EPOLLIN | EPOLLRDHUP, this);
        timer_ = owner_.loop_.add_timer(owner_.loop_.now() + owner_.patience_,
                                        [this] { owner_.done(socket_.fd()); });
    }
    ~Waiting() {
        owner_.loop_.unwatch(socket_.fd(), this);
        owner_.loop_.cancel_timer(timer_);
    }
    bool watched() const { return watched_; }

    void on_ready(uint32_t) override {
        for (int i = 0; i < reads_a_turn; ++i) {
            std::array<char, 16 * 1024> unused;
            const ssize_t n = recv(socket_.fd(), unused.data(), unused.size(), MSG_DONTWAIT);
            if (n > 0) continue;
            if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
            owner_.done(socket_.fd());
            return;
        }
    }

  private:
    Lingerer& owner_;
    Socket socket_;
    uint64_t timer_ = 0;
    bool watched_ = false;
};

Lingerer::Lingerer(EventLoop& loop, Nanoseconds patience) : loop_(loop), patience_(patience) {}
Lingerer::~Lingerer() = default;

void Lingerer::take(Socket socket) {
    const int fd = socket.fd();
    if (fd < 0 || shutdown(fd, SHUT_WR) != 0 || waiting_.size() >= most_waiting) return;
    auto waiting = std::make_unique<Waiting>(*this, std::move(socket));
    if (waiting->watched()) waiting_.emplace(fd, std::move(waiting));
}

void Lingerer::done(int fd) { waiting_.erase(fd); }

}  // namespace smbdirect::fabric::iwarp
