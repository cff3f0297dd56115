// Models of other implementations, as far as facts/ms-smbd.md tells: the literal text of [MS-SMBD], the Linux
// client of 6.12 ("LC"), and the common code of Linux 7.x ("LX"). Made from the sheet's sentences alone, for
// the questions whether both sides fall silent, and whether ours survives theirs. Their programs read at
// once.
#pragma once

#include "node.hpp"

namespace smbdirect::test {

enum class ModelKind { literal, lc, lx };

class PeerModel : public Node {
  public:
    struct Sizes {
        uint32_t max_send = 1364, max_receive = 1364, max_fragmented = 1 << 20;
        uint16_t target = 255, credit_max = 255;
    };
    PeerModel(ModelKind kind, Role role, const Sizes& sizes) : kind_(kind), role_(role), own_(sizes) {
        request_due_ = role == Role::active;
    }

    void take(const Bytes& message, Nanoseconds now) override;
    std::optional<Bytes> give(Nanoseconds now) override;
    void timer(Nanoseconds now) override;
    std::optional<Nanoseconds> deadline() const override;
    bool dead() const override { return dead_; }
    bool established() const override { return established_; }
    bool all_sent() const override { return to_send.empty() && queue_.empty(); }
    uint64_t send_credits() const override { return send_credits_; }
    uint64_t receives_posted() const override { return known_ + pool_; }
    bool asks = true;  // whether it sends keep-alives at all

  private:
    enum class Keepalive { none, pending, sent };
    struct Entry {
        Bytes payload;
        uint32_t remaining = 0;
        uint32_t granted = 0;
    };

    void take_data(const Bytes& message, Nanoseconds now);
    void establish(Nanoseconds now);
    void manage_credits();  // 3.1.5.9, or what Linux does instead; new ones go to pool_
    void after_receive(bool was_empty_queue, bool target_raised);
    void segment_next();
    bool may_send_head();

    ModelKind kind_;
    Role role_;
    Sizes own_;
    bool request_due_ = false, response_due_ = false, established_ = false, dead_ = false;
    uint32_t max_send_ = 0;
    uint64_t send_credits_ = 0;
    uint32_t known_ = 0, pool_ = 0, receive_target_ = 1;  // granted and unused; posted and not announced
    uint32_t peer_holds_least_ = 0;
    std::deque<Entry> queue_;
    Keepalive keepalive_ = Keepalive::none;
    bool send_immediate_ = false;
    Nanoseconds idle_ = 0;
    uint32_t reassembly_left_ = 0;
    Bytes partial_;
};

}  // namespace smbdirect::test
