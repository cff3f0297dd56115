// The client's side of the channel translation, sans I/O: the program is a client that sends large READ and
// WRITE inline, the peer a server that can do better. A large request goes out with a channel, and the peer's
// answer comes back to the program as the inline one that it expects
// [MS-SMB2] 3.2.4.6, 3.2.4.7, 3.2.5.11, 3.2.5.12.
//
// Always SMB2_CHANNEL_RDMA_V1: not every provider lets a peer invalidate a region that was registered from
// user space.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "smb2/channel_use.hpp"
#include "smb2/outstanding.hpp"

namespace smbdirect::smb2 {

struct ClientLimits {
    uint32_t threshold =
        kChannelThreshold;  // bytes from which a transfer goes by channel; UINT32_MAX: only what must
    bool allowed = true;    // false: no channel whatever its size
    uint32_t max_transfer = 8u << 20;                  // the peer's MaxReadWriteSize [MS-SMBD] 3.1.1.1
    uint32_t max_message_out = 0, max_message_in = 0;  // MaxFragmentedSize of the peer and ours
    uint32_t max_requests = 8192;
    uint32_t max_descriptors = 1024;  // of one request: descriptors of our buffer
};

class ClientChannels {
  public:
    explicit ClientChannels(const ClientLimits&);

    // ---- requests of the program
    struct RequestLook {
        enum class Kind : uint8_t {
            pass,
            read,   // goes by channel: into a buffer of `amount` bytes
            write,  // goes by channel: from a buffer with the `amount` bytes that follow the first
                    // kRequestSize ones
        };
        Kind kind = Kind::pass;
        uint32_t amount = 0;
    };
    // The first min(kLook, length) bytes. Error: too large to go inline, and it cannot go by channel.
    Result<RequestLook> look_at_request(std::span<const std::byte> start, uint32_t length) const;
    // The request as it goes out, for a look that said read or write. `start` are the same bytes; `cookie`
    // comes back with the reply. Valid until the next call.
    std::span<const std::byte> build_request(std::span<const std::byte> start,
                                             std::span<const Descriptor> buffer, uint32_t cookie);

    // ---- replies of the peer
    struct ReplyLook {
        enum class Kind : uint8_t {
            pass,     // as it is
            release,  // as it is, and the buffer is free again
            data,     // the program gets `header` and behind it `amount` bytes from the start of the buffer
        };
        Kind kind = Kind::pass;
        uint32_t cookie = 0, amount = 0;
        std::array<std::byte, wire::smb2::kReadReplySize> header;
    };
    // The first min(kLook, length) bytes. Error: it does not fit its request.
    Result<ReplyLook> look_at_reply(std::span<const std::byte> start, uint32_t length);

    const Negotiated& negotiated() const { return negotiated_; }
    size_t outstanding() const { return outstanding_.size(); }

  private:
    struct Tree {
        uint64_t session;
        uint32_t tree;
        bool operator==(const Tree&) const = default;
    };
    static Tree tree_of(const wire::smb2::Header& header) { return {header.session_id, header.tree_id}; }
    void learn_tree(const wire::smb2::Header&, std::span<const std::byte> reply);
    bool is_pipe(const wire::smb2::Header& request) const;

    static constexpr size_t kPipesKnown = 16;  // shares of pipes; a session has one
    const ClientLimits limits_;
    Negotiated negotiated_;
    Outstanding outstanding_;
    std::vector<std::byte> request_;
    std::vector<Tree> pipes_;  // the latest last
};

}  // namespace smbdirect::smb2
