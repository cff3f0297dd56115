// The literal text of [MS-SMBD] 3.1.5.6, 3.1.5.7 and 3.1.5.8 as a receiver, without the additions that the
// Connection makes. It has its own reading of the bytes, so that both can be wrong only apart from each
// other.
#pragma once

#include <algorithm>

#include "support/bytes.hpp"

namespace smbdirect::test {

struct LiteralReceiver {
    uint32_t own_max_send = 1364, own_max_receive = 1364, own_max_fragmented = 131072;
    uint32_t max_receive = 1364, max_send = 1364;
    uint64_t send_credits = 0;
    uint32_t reassembly_remaining = 0;
    bool terminated = false;
    std::vector<Bytes> delivered;
    Bytes reassembly;

    enum class Answer { accept, not_supported, terminate };

    static uint32_t read(std::span<const std::byte> b, size_t offset, size_t size) {
        uint32_t value = 0;
        for (size_t i = 0; i < size; ++i) value |= std::to_integer<uint32_t>(b[offset + i]) << (8 * i);
        return value;
    }

    Answer request(std::span<const std::byte> b) {  // 3.1.5.6
        if (b.size() < 20) return Answer::terminate;
        if (!(read(b, 0, 2) <= 0x100 && 0x100 <= read(b, 2, 2))) return Answer::not_supported;
        if (read(b, 6, 2) == 0 || read(b, 12, 4) < 128 || read(b, 16, 4) < 131072) return Answer::terminate;
        max_receive = std::max(128U, std::min(own_max_receive, read(b, 8, 4)));
        max_send = std::min(own_max_send, read(b, 12, 4));
        return Answer::accept;
    }

    Answer response(std::span<const std::byte> b) {  // 3.1.5.7
        if (b.size() < 32 || read(b, 4, 2) != 0x100 || read(b, 24, 4) < 128 || read(b, 28, 4) < 131072 ||
            read(b, 10, 2) == 0 || read(b, 8, 2) == 0 || read(b, 20, 4) > own_max_receive ||
            read(b, 12, 4) != 0)
            return Answer::terminate;
        max_receive = std::max(128U, std::min(own_max_receive, read(b, 20, 4)));
        max_send = std::min(own_max_send, read(b, 24, 4));
        send_credits = read(b, 10, 2);
        return Answer::accept;
    }

    void data(std::span<const std::byte> b) {  // 3.1.5.8
        terminated = terminated || !take(b);
    }

  private:
    bool take(std::span<const std::byte> b) {
        if (b.size() < 20) return false;
        const uint32_t remaining = read(b, 8, 4), offset = read(b, 12, 4), length = read(b, 16, 4);
        if (read(b, 0, 2) == 0 || offset % 8 != 0 || uint64_t{offset} + length > b.size() ||
            uint64_t{length} + remaining > own_max_fragmented)
            return false;
        send_credits += read(b, 2, 2);
        reassembly.insert(reassembly.end(), b.begin() + offset, b.begin() + offset + length);
        if (reassembly_remaining == 0)
            reassembly_remaining = remaining;
        else
            reassembly_remaining -= length;  // wraps, as the text does
        if (remaining == 0) {
            if (reassembly_remaining > 0) return false;
            if (!reassembly.empty())
                delivered.push_back(std::move(reassembly));  // an empty buffer is nothing
            reassembly.clear();
        }
        return true;
    }
};

}  // namespace smbdirect::test
