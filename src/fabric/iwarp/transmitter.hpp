// The sending half of an iWARP stream: cuts work requests and read responses into FPDUs and writes many of
// them in one call. It writes through ByteSink, so tests feed on it too.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "fabric/iwarp/crc.hpp"
#include "fabric/iwarp/negotiation.hpp"
#include "fabric/iwarp/stream.hpp"

namespace smbdirect::fabric::iwarp {

class ByteSink {
  public:
    // As writev(2).
    virtual ssize_t write_bytes(const iovec* iov, int count) = 0;

  protected:
    ~ByteSink() = default;
};

// FPDUs on their way: an iovec over headers, trailers and small payloads in `arena`, and over payload where
// it lies. It lives until the kernel has taken every byte.
struct Batch {
    static constexpr size_t max_bytes = 256 * 1024, max_iov = 256, arena_size = 8 * 1024;
    std::array<iovec, max_iov> iov;
    std::array<std::byte, arena_size> arena;
    size_t first = 0, count = 0;  // what is left of the iovec
    size_t arena_used = 0, bytes = 0;
    bool carries_responses = false;
    bool holds_large = false;  // and so nothing else
    std::vector<std::unique_ptr<std::byte[]>>
        rescued;  // payload whose memory was deregistered in the meantime

    bool empty() const { return first == count; }
    void clear();
    void append(std::byte* at, size_t length);  // merges with what ends there
    void accept(size_t written);
};

// Batches of the streams that have bytes on the way; an idle stream has none.
class BatchPool {
  public:
    std::unique_ptr<Batch> take();
    void give(std::unique_ptr<Batch> batch);

  private:
    std::vector<std::unique_ptr<Batch>> free_;
};

class Transmitter {
  public:
    enum class Turn : uint8_t {
        idle,     // everything is out that may go
        blocked,  // the socket takes no more
        more,     // the turn was long enough
        io_error,
        fault,  // a read response can no longer be given
    };

    Transmitter(Stream& stream, BatchPool& batches) : stream_(stream), batches_(batches) {}
    ~Transmitter();

    // Marks what the kernel has taken as done in the send queue.
    Turn turn(ByteSink& sink);
    int io_errno() const { return io_errno_; }
    const Fault& fault() const { return fault_; }

    void queue_rtr(Rtr rtr) { rtr_ = rtr; }
    // Some FPDU is half out: nothing else can be put on the stream.
    bool mid_stream() const { return batch_ != nullptr; }
    // Bytes of the send queue that the kernel has not taken.
    uint64_t untaken_bytes() const;
    void on_deregistered(std::span<std::byte> region);

  private:
    bool large_is_next() const;
    enum class Source : uint8_t { none, work, response };
    struct Mark {
        uint64_t end = 0;     // when this many bytes of the stream are taken ...
        uint64_t number = 0;  // ... this work, or read, is done
        Source source = Source::none;
    };

    bool assemble();
    bool add_fpdu();
    bool add_rtr();
    void choose();
    bool work_ready() const;
    void add_work_segment();
    void add_read_request(const soft::SendWork& work);
    bool add_response_segment();
    void open_fpdu(const wire::Segment& segment);
    void add_arena(const std::byte* from, size_t length);
    void close_fpdu(const wire::Segment& segment);
    void add_work_payload(const soft::SendWork& work, uint32_t offset, uint32_t length);
    void add_payload(std::byte* at, uint32_t length);
    void mark(Source source, uint64_t number);
    void take(size_t written);

    Stream& stream_;
    BatchPool& batches_;
    std::unique_ptr<Batch> batch_;
    Crc32c crc_;
    soft::Ring<Mark> marks_{~size_t{0}};
    uint64_t assembled_ = 0, taken_ = 0;  // bytes of the stream

    Rtr rtr_ = Rtr::none;
    Source current_ = Source::none;
    bool response_next_ = false;  // the other source's turn
    uint32_t offset_ = 0;         // in the current message
    uint64_t next_work_ = 0, next_response_ = 0;
    uint32_t send_msn_ = 1, read_msn_ = 1;

    int io_errno_ = 0;
    Fault fault_;
    bool faulted_ = false;
};

// A Terminate as a whole FPDU (RFC 5040 4.8). Returns its size; `out` has room for 128 bytes.
size_t build_terminate_fpdu(const wire::Violation& why, uint16_t segment_length,
                            std::span<const std::byte> header, bool crc, std::byte* out);

}  // namespace smbdirect::fabric::iwarp
