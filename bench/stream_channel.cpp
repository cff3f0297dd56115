#include "stream_channel.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace stream {
namespace {

constexpr size_t kHeader = 4;
constexpr size_t kBlock = 4096;

std::array<std::byte, kHeader> header_of(size_t length) {
    return {std::byte{0}, static_cast<std::byte>(length >> 16), static_cast<std::byte>(length >> 8),
            static_cast<std::byte>(length)};
}

uint64_t stamp_of(uint64_t number, size_t block) { return number << 16 | block; }

std::byte pattern_at(size_t offset) { return static_cast<std::byte>(offset * 131 + offset / 251); }

// What is left to send after `done` bytes went.
void advance(std::span<iovec>* rest, size_t done) {
    while (!rest->empty() && done >= rest->front().iov_len) {
        done -= rest->front().iov_len;
        *rest = rest->subspan(1);
    }
    if (rest->empty()) return;
    rest->front().iov_base = static_cast<char*>(rest->front().iov_base) + done;
    rest->front().iov_len -= done;
}

}  // namespace

std::unexpected<Failure> fail(const char* what, int errnum) { return std::unexpected(Failure{what, errnum}); }

Channel::~Channel() { close(fd_); }

Result<void> Channel::set_waiting(Waiting waiting) {
    const int flags = fcntl(fd_, F_GETFL);
    if (flags < 0) return fail("fcntl", errno);
    const int wanted = waiting == Waiting::poll ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (fcntl(fd_, F_SETFL, wanted) != 0) return fail("fcntl", errno);
    waiting_ = waiting;
    return {};
}

Result<void> Channel::wait_for(short events) {
    pollfd entry{fd_, events, 0};
    while (poll(&entry, 1, -1) < 0)
        if (errno != EINTR) return fail("poll", errno);
    return {};
}

Result<void> Channel::send(std::span<const std::byte> payload) {
    auto header = header_of(payload.size());
    std::array<iovec, 2> parts{
        {{header.data(), header.size()}, {const_cast<std::byte*>(payload.data()), payload.size()}}};
    for (std::span<iovec> rest = parts; !rest.empty();) {
        const ssize_t sent = writev(fd_, rest.data(), static_cast<int>(rest.size()));
        if (sent >= 0) {
            advance(&rest, static_cast<size_t>(sent));
        } else if (errno == EAGAIN && waiting_ == Waiting::poll) {
            if (auto waited = wait_for(POLLOUT); !waited) return waited;
        } else if (errno != EINTR) {
            return fail("writev", errno);
        }
    }
    return {};
}

// False: the peer closed before the first byte.
Result<bool> Channel::read_all(std::byte* to, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t got = read(fd_, to + done, size - done);
        if (got > 0) {
            done += static_cast<size_t>(got);
        } else if (got == 0) {
            if (done == 0) return false;
            return fail("the peer closed in the middle of a message");
        } else if (errno == EAGAIN && waiting_ == Waiting::poll) {
            if (auto waited = wait_for(POLLIN); !waited) return std::unexpected(waited.error());
        } else if (errno != EINTR) {
            return fail("read", errno);
        }
    }
    return true;
}

// As Samba does it: the event loop says that there is something, the header is read, then the payload.
Result<std::span<const std::byte>> Channel::receive() {
    if (waiting_ == Waiting::poll)
        if (auto waited = wait_for(POLLIN); !waited) return std::unexpected(waited.error());
    std::array<std::byte, kHeader> header;
    auto more = read_all(header.data(), header.size());
    if (!more) return std::unexpected(more.error());
    if (!*more) return std::span<const std::byte>();
    if (header[0] != std::byte{0}) return fail("a message begins with no SMB header");
    const size_t length = std::to_integer<size_t>(header[1]) << 16 | std::to_integer<size_t>(header[2]) << 8 |
                          std::to_integer<size_t>(header[3]);
    if (length == 0) return fail("a message is empty");
    if (received_.size() < length) received_.resize(length);
    more = read_all(received_.data(), length);
    if (!more) return std::unexpected(more.error());
    if (!*more) return fail("the peer closed in the middle of a message");
    return std::span<const std::byte>(received_.data(), length);
}

void fill(std::span<std::byte> payload) {
    for (size_t i = 0; i < payload.size(); ++i) payload[i] = pattern_at(i);
}

void stamp(std::span<std::byte> payload, uint64_t number) {
    for (size_t at = 0; at + sizeof(uint64_t) <= payload.size(); at += kBlock) {
        const uint64_t value = stamp_of(number, at / kBlock);
        std::memcpy(payload.data() + at, &value, sizeof value);
    }
}

uint64_t number_in(std::span<const std::byte> payload) {
    uint64_t value = 0;
    std::memcpy(&value, payload.data(), std::min(sizeof value, payload.size()));
    return value >> 16;
}

bool stamps_fit(std::span<const std::byte> payload, uint64_t number) {
    for (size_t at = 0; at + sizeof(uint64_t) <= payload.size(); at += kBlock) {
        const uint64_t value = stamp_of(number, at / kBlock);
        if (std::memcmp(payload.data() + at, &value, sizeof value) != 0) return false;
    }
    return true;
}

bool every_byte_fits(std::span<const std::byte> payload, uint64_t number) {
    std::vector<std::byte> expected(payload.size());
    fill(expected);
    stamp(expected, number);
    return std::ranges::equal(payload, expected);
}

}  // namespace stream
