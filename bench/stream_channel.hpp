// One connection that carries messages as SMB does over TCP: four bytes of header (0, then the length in 24
// bits, big-endian), then the payload. And what the payloads of the benchmark hold, so that lost, doubled or
// misplaced bytes are seen. Knows plain POSIX sockets only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <vector>

namespace stream {

struct Failure {
    const char* what = "";
    int errnum = 0;  // 0: no errno belongs to it
};

template <class T>
using Result = std::expected<T, Failure>;

std::unexpected<Failure> fail(const char* what, int errnum = 0);

// How a program waits for its socket: in the call that moves the bytes, or in poll() with a socket that never
// blocks.
enum class Waiting : uint32_t { blocking, poll };

inline constexpr size_t kMostPayload = (1u << 24) - 1;

class Channel {
  public:
    explicit Channel(int fd) : fd_(fd) {}
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    Result<void> set_waiting(Waiting);
    Result<void> send(std::span<const std::byte> payload);
    // The payload of the next message, which stays valid until the next call. Empty: the peer closed.
    Result<std::span<const std::byte>> receive();

  private:
    Result<void> wait_for(short events);
    Result<bool> read_all(std::byte* to, size_t size);

    int fd_;
    Waiting waiting_ = Waiting::blocking;
    std::vector<std::byte> received_;
};

// A payload: a pattern, and at the start of each 4 KiB a stamp that tells message and place.
inline constexpr size_t kLeastPayload = 8;
inline constexpr uint64_t kLast = 1ull << 40;  // added to the number of the last message

void fill(std::span<std::byte> payload);
void stamp(std::span<std::byte> payload, uint64_t number);
uint64_t number_in(std::span<const std::byte> payload);
bool stamps_fit(std::span<const std::byte> payload, uint64_t number);
bool every_byte_fits(std::span<const std::byte> payload, uint64_t number);

}  // namespace stream
