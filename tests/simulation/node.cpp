#include "node.hpp"

#include <algorithm>

namespace smbdirect::test {

void CoreNode::take(const Bytes& message, Nanoseconds now) {
    if (core.expects_negotiate_message()) {
        hold(core.on_negotiate_message(message, now).has_value(), "a negotiate message was refused");
        return;
    }
    hold(message.size() <= core.negotiated().max_receive_size,
         "property 12: larger than the receive posted for it");
    const std::span<const std::byte> bytes(message);
    const auto delivery = core.on_data_transfer(bytes.first(std::min<size_t>(24, bytes.size())),
                                                static_cast<uint32_t>(bytes.size()), {}, now);
    if (!delivery) throw Broken(core.termination_detail());
    if (delivery->length == 0) return;
    hold(unread_ + core.receives_outstanding() + 1 <= slots_, "a slot came from nowhere");
    unread_ += 1;
    hold(delivery->first_fragment == partial_.empty(), "property 3: a fragment out of place");
    if (delivery->first_fragment) expected_length_ = delivery->message_length;
    const auto payload = bytes.subspan(24 + delivery->slot_offset, delivery->length);
    partial_.insert(partial_.end(), payload.begin(), payload.end());
    hold((partial_.size() == expected_length_) == delivery->last_fragment,
         "property 3: a message is not whole");
    if (delivery->last_fragment) {
        received.push_back(std::move(partial_));
        partial_.clear();
    }
}

std::optional<Bytes> CoreNode::give(Nanoseconds now) {
    if (established() && !core.message_announced() && !to_send.empty())
        (void)core.announce_message(static_cast<uint32_t>(to_send.front().size()), available_, {});
    const uint32_t credits = core.send_credits();
    const bool data = established();
    const auto message = core.next_message(now);
    if (!message) return std::nullopt;
    if (data) check_given(*message, credits);
    Bytes bytes(message->header.begin(), message->header.end());
    if (message->payload_length != 0) {
        const auto payload =
            std::span(to_send.front()).subspan(message->payload_offset, message->payload_length);
        bytes.insert(bytes.end(), payload.begin(), payload.end());
        handed_out_ += message->payload_length;
    }
    if (message->last_fragment) {
        to_send.pop_front();
        available_ = handed_out_ = 0;
    }
    for (const std::byte b : message->header)
        digest = (digest ^ std::to_integer<uint64_t>(b)) * 0x100000001B3;
    return bytes;
}

void CoreNode::check_given(const connection::OutgoingMessage& message, uint32_t credits_before) {
    hold(credits_before > 0, "property 6: sent without a credit");
    hold(credits_before > 1 || message.credits_granted > 0,
         "property 7: the last credit went without a grant");
    hold(core.send_credits() == credits_before - 1, "property 6: one message, one credit");
    if (message.payload_length != 0) {
        hold(message.payload_offset == handed_out_, "property 3: fragments in order");
        hold(message.payload_offset + message.payload_length <= available_,
             "a byte that is not there was sent");
        hold(message.header.size() + message.payload_length <= core.negotiated().max_send_size,
             "property 12: larger than negotiated");
    } else if (handed_out_ != 0) {
        hold(handed_out_ == available_, "a fragment without a byte, though there was one");
        hold(message.remaining_data_length == to_send.front().size() - handed_out_,
             "the sequence is not continued");
        ++continued;
    }
}

void CoreNode::write(uint32_t bytes) {
    if (to_send.empty()) return;
    const auto length = static_cast<uint32_t>(to_send.front().size());
    available_ = bytes > length - available_ ? length : available_ + bytes;
    if (core.message_announced()) core.on_available(available_);
}

void CoreNode::post(uint32_t at_most) {
    const uint32_t free = slots_ - unread_ - core.receives_outstanding();
    core.on_receives_posted(std::min({core.receives_wanted(), at_most, free}));
    hold(core.receives_outstanding() <= core.settings().receive_credit_max, "property 5: too many receives");
}

void CoreNode::stir(Random& random) {
    switch (random.below(6)) {
        case 0:
            post(static_cast<uint32_t>(random.between(1, 4)));
            break;
        case 1:
            post();
            break;
        case 2:
            if (writes) write(static_cast<uint32_t>(random.between(1, 3000)));
            break;
        case 3:
            if (writes) write(~0U);
            break;
        case 4:
            if (reads) read(static_cast<uint32_t>(random.between(1, 4)));
            break;
        default:
            if (varies_ceiling && random.chance(20))
                core.set_receive_ceiling(
                    static_cast<uint32_t>(random.between(1, core.settings().receive_credit_max)));
    }
}

void CoreNode::calm() {
    if (writes) write(~0U);
    if (reads) read(~0U);
    post();
}

}  // namespace smbdirect::test
