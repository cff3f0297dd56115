// A queue in a ring that grows by doubling up to a fixed depth: an idle connection costs a few entries, a
// busy one allocates nothing any more. Entries have absolute numbers, so that others can refer to one by its
// number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace smbdirect::fabric::soft {

template <class T>
class Ring {
  public:
    explicit Ring(size_t depth = 0) : depth_(depth) {}

    void set_depth(size_t depth) { depth_ = depth; }
    size_t depth() const { return depth_; }
    size_t size() const { return static_cast<size_t>(end_ - begin_); }
    bool empty() const { return begin_ == end_; }
    bool full() const { return size() >= depth_; }
    uint64_t begin_number() const { return begin_; }
    uint64_t end_number() const { return end_; }

    T& operator[](uint64_t number) { return entries_[number & (entries_.size() - 1)]; }
    const T& operator[](uint64_t number) const { return entries_[number & (entries_.size() - 1)]; }
    T& front() { return (*this)[begin_]; }

    // The new entry holds what an older one left there: the caller sets every field.
    T& push() {
        if (size() == entries_.size()) grow();
        return (*this)[end_++];
    }
    void pop() { ++begin_; }

  private:
    void grow() {
        std::vector<T> larger(entries_.empty() ? 8 : entries_.size() * 2);
        for (uint64_t n = begin_; n != end_; ++n) larger[n & (larger.size() - 1)] = std::move((*this)[n]);
        entries_ = std::move(larger);
    }

    std::vector<T> entries_;
    uint64_t begin_ = 0, end_ = 0;
    size_t depth_;
};

}  // namespace smbdirect::fabric::soft
