#include "engine/knock.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "fabric/address.hpp"
#include "session/names.hpp"

namespace smbdirect::engine {
namespace {

sockaddr_storage knock_source(int family) {
    sockaddr_storage source{};
    source.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET)
        reinterpret_cast<sockaddr_in&>(source).sin_addr.s_addr = htonl(session::kKnockSource);
    else
        reinterpret_cast<sockaddr_in6&>(source).sin6_addr = in6addr_loopback;
    return source;
}

// A wildcard listener is reached over loopback, another one at its own address.
sockaddr_storage knock_target(const sockaddr_storage& listener) {
    sockaddr_storage target = listener;
    if (target.ss_family == AF_INET) {
        auto& v4 = reinterpret_cast<sockaddr_in&>(target);
        if (v4.sin_addr.s_addr == INADDR_ANY) v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
        auto& v6 = reinterpret_cast<sockaddr_in6&>(target);
        if (IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr)) v6.sin6_addr = in6addr_loopback;
    }
    return target;
}

}  // namespace

Knock::Knock(ListenerTable* table, ProgramListener* listener, Driver* driver)
    : table_(table), listener_(listener), driver_(driver) {}

Knock::~Knock() {
    if (entry_) {
        entry_->state.store(session::KnockState::free, std::memory_order_release);
        listener_->table->knocking.fetch_sub(1);
    }
    if (socket_ < 0) return;
    loop_->unwatch(socket_, this);
    linger now{1, 0};  // no TIME_WAIT for something that never was a connection
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(socket_);
}

Result<void> Knock::start(fabric::EventLoop* loop, const sockaddr_storage& listener_address) {
    loop_ = loop;
    const sockaddr_storage target = knock_target(listener_address), source = knock_source(target.ss_family);
    socket_ = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket_ < 0) return fail(Reason::engine_resources);
    if (!loop_->watch(socket_, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, this))
        return fail(Reason::engine_resources);
    if (bind(socket_, reinterpret_cast<const sockaddr*>(&source), fabric::address_size(source)) != 0)
        return fail(Reason::engine_resources);
    if (auto published = publish(); !published) return published;
    if (connect(socket_, reinterpret_cast<const sockaddr*>(&target), fabric::address_size(target)) != 0 &&
        errno != EINPROGRESS)
        return fail(errno == ECONNREFUSED ? Reason::listener_gone : Reason::listener_backlog);
    return {};
}

Result<void> Knock::publish() {
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    if (getsockname(socket_, reinterpret_cast<sockaddr*>(&bound), &length) != 0)
        return fail(Reason::engine_resources);
    auto* table = listener_->table;
    for (uint32_t i = 0; i < std::size(table->entry); ++i) {
        auto& entry = table->entry[i];
        if (entry.state.load(std::memory_order_acquire) != session::KnockState::free) continue;
        if (getrandom(&ticket_, sizeof ticket_, 0) != sizeof ticket_) return fail(Reason::engine_resources);
        entry.family = bound.ss_family;
        entry.port = reinterpret_cast<sockaddr_in&>(bound).sin_port;  // at the same place in sockaddr_in6
        std::memset(entry.address, 0, sizeof entry.address);
        if (bound.ss_family == AF_INET)
            std::memcpy(entry.address, &reinterpret_cast<sockaddr_in&>(bound).sin_addr, 4);
        else
            std::memcpy(entry.address, &reinterpret_cast<sockaddr_in6&>(bound).sin6_addr, 16);
        entry.ticket = ticket_;
        entry.state.store(session::KnockState::knocking, std::memory_order_release);
        table->knocking.fetch_add(1);
        entry_ = &entry;
        return {};
    }
    return fail(Reason::listener_backlog, ENOBUFS);
}

void Knock::on_ready(uint32_t events) {
    if (!connected_) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) {
            const bool gone = error == ECONNREFUSED;
            ListenerTable* table = table_;
            Driver* driver = driver_;
            const uint64_t listener = listener_->record.id;
            table->end_knock(this);  // destroys us
            driver->refuse({gone ? Reason::listener_gone : Reason::listener_backlog, ECONNREFUSED});
            if (gone) table->look_whether_gone(listener);
            return;
        }
        if (!(events & EPOLLOUT)) return;
        connected_ = true;
        // A listener with TCP_DEFER_ACCEPT stays silent until a byte has come.
        [[maybe_unused]] auto sent = send(socket_, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        driver_->proceed();
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        // Accepted by a process that does not know us, which answered or hung up. A claim would have ended us
        // before.
        ListenerTable* table = table_;
        Driver* driver = driver_;
        table->end_knock(this);
        driver->refuse({Reason::knock_unclaimed, ECONNRESET});
    }
}

}  // namespace smbdirect::engine
