// The TCP socket under an iWARP stream.
#pragma once

#include <sys/socket.h>

#include <utility>

#include "base/result.hpp"
#include "fabric/iwarp/iwarp_fabric.hpp"

namespace smbdirect::fabric::iwarp {

// Owns a descriptor.
class Socket {
  public:
    Socket() = default;
    explicit Socket(int fd) : fd_(fd) {}
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Socket() { close(); }

    int fd() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    void close();
    void reset();  // closes with RST

  private:
    int fd_ = -1;
};

Socket open_socket(int family);
// Buffers must be set before the handshake of TCP: they decide the window scale.
void tune_buffers(int fd, const Settings& settings);
void tune_connection(int fd, const Settings& settings);
sockaddr_storage local_address_of(int fd);
sockaddr_storage remote_address_of(int fd);
int pending_error(int fd);  // SO_ERROR
// The largest ULPDU for a peer that wants an FPDU in one TCP segment: RFC 5044 4.5, without markers.
uint32_t mulpdu_of_path(int fd);
// Whether CRCs are wanted towards the peer of this connected socket.
bool wants_crc(int fd, const Settings& settings);
// What TCP would report for a connection that could not be made.
Error connect_error(int errnum);
// ... and for one that broke.
Error stream_error(int errnum);

}  // namespace smbdirect::fabric::iwarp
