// A scripted TCP peer for the iwarp fabric: bytes by hand, on the same thread as the loop.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/iwarp/crc.hpp"
#include "fabric_support.hpp"
#include "wire/big_endian.hpp"
#include "wire/ddp.hpp"
#include "wire/mpa.hpp"

namespace fabric_test {

using Bytes = std::vector<std::byte>;

inline Bytes hex(const std::string& text) {
    Bytes out;
    int high = -1;
    for (const char c : text) {
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) continue;
        if (high < 0) {
            high = digit;
        } else {
            out.push_back(static_cast<std::byte>(high << 4 | digit));
            high = -1;
        }
    }
    return out;
}
inline std::string to_hex(std::span<const std::byte> bytes) {
    std::string out;
    for (const std::byte byte : bytes) {
        for (const int shift : {4, 0}) out += "0123456789abcdef"[std::to_integer<int>(byte) >> shift & 15];
    }
    return out;
}
inline Bytes operator+(Bytes left, const Bytes& right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}
inline Bytes ascii(const std::string& text) {
    Bytes out(text.size());
    std::memcpy(out.data(), text.data(), text.size());
    return out;
}

inline const std::string request_key = "4d504120494420526571204672616d65";
inline const std::string reply_key = "4d504120494420526570204672616d65";

// Pads, and adds the CRC (or zeros) to length field, header and payload.
inline Bytes sealed(Bytes fpdu, bool crc) {
    while (fpdu.size() % 4) fpdu.push_back(std::byte{0});
    Bytes trailer(4);
    if (crc) {
        iwarp::Crc32c sum;
        sum.add(fpdu.data(), fpdu.size());
        sum.store(trailer.data());
    }
    return fpdu + trailer;
}
inline Bytes fpdu(wire::Segment segment, const Bytes& payload, bool crc = false) {
    Bytes out(64);
    segment.payload_length = static_cast<uint32_t>(payload.size());
    out.resize(wire::build_segment(segment, out.data()));
    return sealed(out + payload, crc);
}
inline wire::Segment send_segment(uint32_t msn, uint32_t offset = 0, bool last = true) {
    return {.last = last, .opcode = wire::Rdmap::send, .offset = offset, .queue = 0, .msn = msn};
}
inline wire::Segment write_segment(uint32_t stag, uint64_t offset, bool last = true) {
    return {.tagged = true, .last = last, .opcode = wire::Rdmap::write, .stag = stag, .offset = offset};
}
inline Bytes read_request(uint32_t msn, const wire::ReadRequest& request, bool crc = false) {
    Bytes payload(wire::read_request_size);
    wire::build_read_request(request, payload.data());
    return fpdu({.last = true, .opcode = wire::Rdmap::read_request, .queue = 1, .msn = msn}, payload, crc);
}

class RawPeer {
  public:
    explicit RawPeer(EventLoop& loop) : loop_(loop) {}
    ~RawPeer() {
        close();
        if (listener_ >= 0) ::close(listener_);
    }
    RawPeer(const RawPeer&) = delete;

    void connect(const sockaddr_storage& to) {
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(sockaddr_in)) != 0) std::abort();
        fcntl(fd_, F_SETFL, O_NONBLOCK);
    }
    sockaddr_storage listen() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_storage address = loopback();
        socklen_t size = sizeof address;
        if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(sockaddr_in)) != 0)
            std::abort();
        if (::listen(listener_, 16) != 0) std::abort();
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        return address;
    }
    bool accept() {
        close();
        return run_until(loop_, [&] {
            fd_ = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            return fd_ >= 0;
        });
    }
    void send(const Bytes& bytes) {
        size_t done = 0;
        run_until(loop_, [&] {
            const ssize_t n = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
            if (n > 0) done += static_cast<size_t>(n);
            return done == bytes.size() || (n < 0 && errno != EAGAIN);
        });
    }
    // Everything that comes until `size` bytes are there, or the end.
    Bytes receive(size_t size, int limit_ms = 3000) {
        Bytes out;
        run_until(
            loop_,
            [&] {
                Bytes chunk(size - out.size());
                const ssize_t n = recv(fd_, chunk.data(), chunk.size(), 0);
                if (n > 0) out.insert(out.end(), chunk.begin(), chunk.begin() + n);
                if (n == 0) ended_ = true;
                if (n < 0 && errno != EAGAIN) error_ = errno;
                return ended_ || error_ || out.size() == size;
            },
            limit_ms);
        return out;
    }
    // "fin", "rst" or "open"; what comes before is thrown away.
    std::string ending(int limit_ms = 3000) {
        if (!ended_ && !error_) receive(size_t{1} << 24, limit_ms);
        return ended_ ? "fin" : error_ == ECONNRESET ? "rst" : error_ ? strerror(error_) : "open";
    }
    void shutdown() { ::shutdown(fd_, SHUT_WR); }
    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
        ended_ = false;
        error_ = 0;
    }
    void reset() {
        const linger abrupt{1, 0};
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
        close();
    }
    int fd() const { return fd_; }

  private:
    EventLoop& loop_;
    int fd_ = -1, listener_ = -1, error_ = 0;
    bool ended_ = false;
};

}  // namespace fabric_test
