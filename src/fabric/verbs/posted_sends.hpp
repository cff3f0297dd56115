// The send queue as the device has it, oldest first: which of its requests are complete, and in which order
// their owner hears of it. Pure bookkeeping.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <deque>
#include <optional>

#include "fabric/fabric.hpp"

namespace smbdirect::fabric::verbs {

struct PostedSend {
    uint64_t wr_id;
    Opcode opcode;
    uint32_t length;
    bool is_own = false;       // the endpoint's own: nobody else hears of it
    bool is_signaled = false;  // the device tells of its completion, also if it succeeds
    std::optional<ibv_wc> completion = {};
};

class PostedSends {
  public:
    size_t size() const { return sends_.size(); }
    bool empty() const { return sends_.empty(); }
    void push(const PostedSend& send) {
        ++next_number_;
        sends_.push_back(send);
    }
    PostedSend& from_last(size_t distance) { return sends_[sends_.size() - 1 - distance]; }
    // The wr_id for the device of the next one pushed.
    uint64_t next_number() const { return next_number_; }

    // A completion of the device. What went before without a word has succeeded, but for requests that are
    // signaled and whose own is still to come: RFC 5040 5.5 and InfiniBand have completions in the order of
    // the requests, and siw completes a Send that was posted behind an RDMA Read when it is sent, while the
    // data of the Read are still on their way.
    void complete(const ibv_wc& completion) {
        const uint64_t place = completion.wr_id - (next_number_ - sends_.size());
        if (place >= sends_.size()) return;  // was flushed already, by us
        sends_[place].completion = completion;
        for (uint64_t before = place; before-- > 0 && !sends_[before].completion;)
            if (!sends_[before].is_signaled)
                sends_[before].completion.emplace(ibv_wc{.status = IBV_WC_SUCCESS});
    }
    // The next one in order that is complete.
    std::optional<PostedSend> take_completed() {
        if (sends_.empty() || !sends_.front().completion) return std::nullopt;
        return take();
    }
    // The oldest one, complete or not.
    PostedSend take() {
        const PostedSend first = sends_.front();
        sends_.pop_front();
        return first;
    }

  private:
    std::deque<PostedSend> sends_;
    uint64_t next_number_ = 0;
};

}  // namespace smbdirect::fabric::verbs
