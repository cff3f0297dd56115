// Walks an iovec array while bytes go in or come out of it. Internal.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace smbdirect::session {

class Cursor {
  public:
    Cursor(const iovec* iov, int count) : iov_(iov), count_(count) {
        for (int i = 0; i < count; ++i) room_ += iov[i].iov_len;
    }
    explicit Cursor(size_t to_drop) : room_(to_drop) {}  // bytes put here go nowhere

    size_t room() const { return room_; }

    void put(const void* from, size_t size) {
        walk(size, [&](char* user, size_t n) {
            std::memcpy(user, from, n);
            from = static_cast<const char*>(from) + n;
        });
    }
    void take(void* to, size_t size) {
        walk(size, [&](char* user, size_t n) {
            std::memcpy(to, user, n);
            to = static_cast<char*>(to) + n;
        });
    }

  private:
    template <class Copy>
    void walk(size_t size, Copy copy) {
        room_ -= size;
        if (!iov_) return;
        while (size > 0 && index_ < count_) {
            size_t n = std::min(size, iov_[index_].iov_len - offset_);
            if (n > 0) copy(static_cast<char*>(iov_[index_].iov_base) + offset_, n);
            size -= n;
            offset_ += n;
            if (offset_ == iov_[index_].iov_len) ++index_, offset_ = 0;
        }
    }

    const iovec* iov_ = nullptr;
    int count_ = 0, index_ = 0;
    size_t offset_ = 0, room_ = 0;
};

}  // namespace smbdirect::session
