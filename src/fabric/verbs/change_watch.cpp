#include "fabric/verbs/change_watch.hpp"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace smbdirect::fabric::verbs {
namespace {

constexpr Nanoseconds kSoon = 100'000'000, kLater = 1'000'000'000;
constexpr uint32_t kKernelUevents = 1;

// A uevent is lines that end with a zero byte, "ACTION=add" and the like.
bool concerns_rdma(std::string_view uevent) {
    return uevent.find("SUBSYSTEM=infiniband") != std::string_view::npos ||
           uevent.find("/infiniband") != std::string_view::npos;
}

}  // namespace

ChangeWatch::ChangeWatch(EventLoop& loop, std::function<void()> on_change)
    : loop_(loop), on_change_(std::move(on_change)) {
    devices_ = open(NETLINK_KOBJECT_UEVENT, kKernelUevents);
    addresses_ = open(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
}

ChangeWatch::~ChangeWatch() {
    loop_.cancel_timer(timer_);
    for (const int fd : {devices_, addresses_}) {
        if (fd < 0) continue;
        loop_.unwatch(fd, this);
        close(fd);
    }
}

// -1 where this is not allowed: then what stands at the start is all there is.
int ChangeWatch::open(int protocol, uint32_t groups) {
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (fd < 0) return -1;
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = groups;
    if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
        loop_.watch(fd, EPOLLIN, this))
        return fd;
    close(fd);
    return -1;
}

void ChangeWatch::on_ready(uint32_t) {
    bool changed = false;
    std::array<char, 8192> buffer;
    for (const int fd : {devices_, addresses_}) {
        if (fd < 0) continue;
        ssize_t length;
        while ((length = recv(fd, buffer.data(), buffer.size(), 0)) > 0 ||
               (length < 0 && (errno == EINTR || errno == ENOBUFS))) {
            // ENOBUFS: some were lost, which may have been the ones that matter.
            changed |= length < 0 ? errno == ENOBUFS
                                  : fd == addresses_ ||
                                        concerns_rdma({buffer.data(), static_cast<size_t>(length)});
        }
    }
    if (!changed) return;
    on_change_();
    // The kernel makes the device's table of addresses in its own time, after these messages, and tells only
    // those who have the device open. So once more soon, and once later.
    loop_.cancel_timer(timer_);
    timer_ = loop_.add_timer(loop_.now() + kSoon, [this] {
        on_change_();
        timer_ = loop_.add_timer(loop_.now() + kLater, [this] {
            timer_ = 0;
            on_change_();
        });
    });
}

}  // namespace smbdirect::fabric::verbs
