#include "smb2/compound_guard.hpp"

#include <algorithm>

namespace smbdirect::smb2 {

using namespace wire::smb2;

bool CompoundGuard::take(std::span<const std::byte> bytes) {
    while (!bytes.empty() && !(last_ && to_skip_ == 0 && collected_ == 0)) {
        if (to_skip_) {
            const auto part = std::min<size_t>(to_skip_, bytes.size());
            to_skip_ -= static_cast<uint32_t>(part);
            bytes = bytes.subspan(part);
            continue;
        }
        const auto part = std::min<size_t>(wanted_ - collected_, bytes.size());
        std::copy_n(bytes.begin(), part, start_.begin() + collected_);
        collected_ += static_cast<uint32_t>(part);
        bytes = bytes.subspan(part);
        if (collected_ == wanted_ && !look()) return false;
    }
    return true;
}

bool CompoundGuard::look() {
    const auto header = parse_header(start_);
    if (!header) return false;
    const uint32_t next = header->next_command;
    if (next != 0 && next < kHeaderSize) return false;
    // A shorter one has no channel.
    if (is_transfer(header->command) && (next == 0 || next >= kRequestSize)) {
        if (collected_ < kRequestSize) {
            wanted_ = kRequestSize;
            return true;
        }
        if (parse_transfer(start_, header->command)->channel != Channel::none) return false;
    }
    last_ = next == 0;
    to_skip_ = last_ ? 0 : next - collected_;
    collected_ = 0;
    wanted_ = kHeaderSize;
    return true;
}

}  // namespace smbdirect::smb2
