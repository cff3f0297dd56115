// A Connection in each state, driven and fed by the input: hostile messages, and a driver that does anything
// legal in any order. What is checked after every step is what the engine relies on.
//
// The input: one byte that chooses role and starting state, then operations of one byte and its arguments.
#include <algorithm>
#include <array>
#include <memory>

#include "connection/connection.hpp"
#include "input.hpp"
#include "wire/smbd.hpp"

using namespace smbdirect;
using namespace smbdirect::connection;
using test::Input;
using test::require;

namespace {

class Harness {
  public:
    Harness(Role role, const Settings& settings) : core_(role, settings), role_(role) {}

    void prepare(unsigned depth);
    void operate(Input& input);
    void check();

  private:
    void message(std::span<const std::byte> bytes, uint32_t unseen);
    void pump();

    Connection core_;
    Role role_;
    Nanoseconds now_ = 0;
    uint32_t announced_ = 0, available_ = 0, sent_ = 0;
    uint64_t receive_left_ = 0;
    bool ended_ = false, stream_ended_ = false;
};

// 0: nothing happened, 1: started, 2: the transport stands, 3: negotiated.
void Harness::prepare(unsigned depth) {
    if (depth >= 1) core_.start(now_);
    if (depth >= 2) core_.on_transport_established(now_);
    if (depth < 3) return;
    pump();
    std::array<std::byte, 32> bytes;
    if (role_ == Role::active)
        wire::build(wire::NegotiateResponse{0x100, 0x100, 0x100, 16, 16, 0, 1 << 20, 128, 1024, 1 << 20},
                    std::span(bytes));
    else
        wire::build(wire::NegotiateRequest{0x100, 0x100, 16, 1024, 1024, 1 << 20},
                    std::span(bytes).first<20>());
    require(core_.on_negotiate_message(bytes, now_).has_value());
    core_.on_receives_posted(core_.receives_wanted());
    pump();
    require(core_.state() == State::established);
}

void Harness::pump() {
    // A few is enough: with 65535 credits and a large message it would take long.
    for (int i = 0; i < 64; ++i) {
        const bool established = core_.state() == State::established;
        const uint32_t credits = core_.send_credits(), posted = core_.receives_outstanding();
        const auto m = core_.next_message(now_);
        if (!m) return;
        require(m->header.size() == 20 || m->header.size() == 24 || m->header.size() == 32);
        if (!established) continue;
        require(credits > 0 && core_.send_credits() == credits - 1);
        require(credits > 1 || m->credits_granted > 0);  // property 7
        require(m->credits_granted <= posted && core_.receives_outstanding() == posted);
        const auto header = wire::parse_data_transfer_header(m->header);
        require(header && header->credits_requested > 0);
        require(m->header.size() + m->payload_length <= core_.negotiated().max_send_size);
        require(uint64_t{m->payload_offset} + m->payload_length <= available_);
        const bool ends = header->flags & wire::kSmbdEndOfStream;
        require(!ends || (core_.settings().half_close && !stream_ended_));
        stream_ended_ = stream_ended_ || ends;
        require(m->payload_length == 0 || !stream_ended_);
        if (m->payload_length == 0) continue;
        require(m->payload_offset == sent_);
        sent_ += m->payload_length;
        require(m->remaining_data_length == announced_ - sent_ && m->last_fragment == (sent_ == announced_));
        if (m->last_fragment) announced_ = available_ = sent_ = 0;
    }
}

void Harness::message(std::span<const std::byte> bytes, uint32_t unseen) {
    const auto exact = std::make_unique<std::byte[]>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), exact.get());
    const std::span<const std::byte> view(exact.get(), bytes.size());
    if (core_.expects_negotiate_message()) {
        (void)core_.on_negotiate_message(view, now_);
        return;
    }
    // Like the driver: the first 24 bytes in a private buffer, the rest unseen in a slot.
    const auto head = view.first(std::min<size_t>(24, view.size()));
    const auto length = static_cast<uint32_t>(view.size() + (view.size() >= 24 ? unseen : 0));
    const auto delivery = core_.on_data_transfer(head, length, std::nullopt, now_);
    if (!delivery) {
        require(core_.state() == State::terminated || core_.state() == State::idle);
        return;
    }
    if (delivery->length == 0) return;
    require(uint64_t{24} + delivery->slot_offset + delivery->length <= length);
    require(delivery->first_fragment == (receive_left_ == 0));
    if (delivery->first_fragment) {
        require(delivery->message_length <= core_.settings().max_fragmented_receive_size);
        receive_left_ = delivery->message_length;
    }
    require(delivery->length <= receive_left_);
    receive_left_ -= delivery->length;
    require(delivery->last_fragment == (receive_left_ == 0));
}

void Harness::operate(Input& input) {
    switch (input.number(1) % 16) {
        case 0:
        case 1:
        case 2:
        case 3: {
            const auto bytes = input.take(input.number(1) % 64);
            message(bytes, input.number(2));
            break;
        }
        case 4:
            core_.on_receives_posted(core_.receives_wanted());
            break;
        case 5:
            core_.on_receives_posted(std::min(core_.receives_wanted(), input.number(1)));
            break;
        case 6:
            pump();
            break;
        case 7: {
            const uint32_t length = input.number(4) >> (input.number(1) % 32), available = input.number(2);
            if (!core_.announce_message(length, available, 7)) break;
            announced_ = length;
            available_ = std::min(length, available);
            sent_ = 0;
            break;
        }
        case 8:
            available_ =
                std::max(available_, std::min(announced_, input.number(4) >> (input.number(1) % 32)));
            core_.on_available(available_);
            break;
        case 9:
            now_ += Nanoseconds{input.number(1)} * 1'000'000'000;
            break;
        case 10:
            if (const auto due = core_.deadline()) now_ = std::max(now_, *due);
            core_.on_timer(now_);
            break;
        case 11:
            core_.set_receive_ceiling(input.number(2));
            break;
        case 12:
            core_.start(now_);
            break;
        case 13:
            core_.on_transport_established(now_);
            break;
        case 14:
            core_.on_no_receives();
            break;
        default:
            switch (input.number(1)) {
                case 77:
                    core_.on_transport_lost();
                    break;
                case 78:
                    core_.push();
                    break;
                case 79:
                    core_.end_stream();
            }
    }
}

void Harness::check() {
    require(core_.receives_outstanding() <= core_.settings().receive_credit_max);
    require(core_.receives_outstanding() + core_.receives_wanted() <= core_.settings().receive_credit_max);
    require(core_.negotiated().max_receive_size >= 128 && core_.negotiated().max_send_size >= 128);
    require(core_.termination_detail() != nullptr);
    if (core_.state() != State::terminated) {
        require(!core_.termination() && !ended_);
        return;
    }
    ended_ = true;  // property 15
    require(core_.receives_wanted() == 0 && !core_.deadline() && !core_.expects_negotiate_message());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(std::as_bytes(std::span(data, size)));
    const uint32_t choice = input.number(1);
    Settings settings;
    settings.max_send_size = settings.max_receive_size = choice & 8 ? 128 : 1364;
    settings.max_fragmented_receive_size = 131072;
    settings.receive_credit_max = choice & 16 ? 4 : 255;
    settings.half_close = choice & 32;
    Harness harness(choice & 4 ? Role::active : Role::passive, settings);
    harness.prepare(choice & 3);
    harness.check();
    while (!input.empty()) {
        harness.operate(input);
        harness.check();
    }
    return 0;
}
