// Walks over an array of iovecs, handing out the rest in windows, without touching the caller's array.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace smbdirect::preload {

class IovCursor {
  public:
    IovCursor(const iovec* iov, size_t count) : iov_(iov), count_(count) {
        for (size_t i = 0; i < count; ++i) total_ += iov[i].iov_len;
    }
    size_t total() const { return total_; }
    size_t done() const { return done_; }

    struct Window {
        static constexpr int kMost = 16;
        iovec iov[kMost];
        int count = 0;
        size_t bytes = 0;
    };
    Window window() const {
        Window w;
        size_t skip = offset_;
        for (size_t i = index_; i < count_ && w.count < Window::kMost; ++i) {
            const size_t length = iov_[i].iov_len - skip;
            if (length) {
                w.iov[w.count++] = {static_cast<char*>(iov_[i].iov_base) + skip, length};
                w.bytes += length;
            }
            skip = 0;
        }
        return w;
    }
    void advance(size_t bytes) {
        done_ += bytes;
        while (bytes) {
            const size_t here = iov_[index_].iov_len - offset_;
            if (bytes < here) {
                offset_ += bytes;
                return;
            }
            bytes -= here;
            ++index_;
            offset_ = 0;
        }
    }

  private:
    const iovec* iov_;
    size_t count_, total_ = 0, done_ = 0, index_ = 0, offset_ = 0;
};

}  // namespace smbdirect::preload
