#include "fabric/verbs/change_watch.hpp"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

namespace smbdirect::fabric::verbs {
namespace {

constexpr Nanoseconds kSoon = 100'000'000, kLater = 1'000'000'000;
constexpr uint32_t kKernelUevents = 1;

// A uevent is strings that end with a zero byte, "ACTION=add" and the like. Empty: there is none of this
// name.
std::string_view value_of(std::string_view uevent, std::string_view name) {
    while (!uevent.empty()) {
        const auto line = uevent.substr(0, uevent.find('\0'));
        if (line.starts_with(name)) return line.substr(name.size());
        uevent.remove_prefix(std::min(line.size() + 1, uevent.size()));
    }
    return {};
}

}  // namespace

ChangeWatch::ChangeWatch(EventLoop& loop, ChangeEvents* events) : loop_(loop), events_(events) {
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
            changed |= length < 0
                           ? errno == ENOBUFS
                           : fd == addresses_ || take_uevent({buffer.data(), static_cast<size_t>(length)});
        }
    }
    if (!changed) return;
    events_->on_change();
    look_later();
}

// Whether it concerns RDMA devices.
bool ChangeWatch::take_uevent(std::string_view uevent) {
    const auto subsystem = value_of(uevent, "SUBSYSTEM=");
    if (!subsystem.starts_with("infiniband")) return false;
    if (subsystem == "infiniband_verbs" && value_of(uevent, "ACTION=") == "remove") {
        const auto path = value_of(uevent, "DEVPATH=");
        events_->on_removal(path.substr(path.rfind('/') + 1));
    }
    return true;
}

void ChangeWatch::look_later() {
    // The kernel makes the device's table of addresses in its own time, after these messages, and tells only
    // those who have the device open. So once more soon, and once later.
    loop_.cancel_timer(timer_);
    timer_ = loop_.add_timer(loop_.now() + kSoon, [this] {
        events_->on_change();
        timer_ = loop_.add_timer(loop_.now() + kLater, [this] {
            timer_ = 0;
            events_->on_change();
        });
    });
}

}  // namespace smbdirect::fabric::verbs
