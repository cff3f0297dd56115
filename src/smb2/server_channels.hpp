// The server's side of the channel translation, sans I/O: the peer is a client that sends READ and WRITE with
// RDMA channels, the program a server that knows nothing of them. What the peer asks becomes an inline
// request, and the program's inline answer becomes what the peer expects [MS-SMB2] 3.3.5.12, 3.3.5.13,
// [MS-SMBD] 3.1.4.3 to 3.1.4.6.
//
// Every request reaches the program, a bad one in a form that the program itself refuses: MessageIds and
// credits stay its business. No message is translated that is signed or encrypted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "smb2/channel_use.hpp"
#include "smb2/outstanding.hpp"

namespace smbdirect::smb2 {

struct ServerLimits {
    uint32_t max_transfer = 8u << 20;  // bytes in one READ or WRITE: our MaxReadWriteSize [MS-SMBD] 3.1.1.1
    uint32_t max_requests = 8192;      // outstanding; more are refused
    uint32_t max_descriptors = 64 * 1024;  // of READs outstanding, in all; more are refused
    uint32_t max_compound = 128 * 1024;    // bytes of a compound that has a channel in it
    uint32_t max_reply = 1u << 20;         // bytes of the reply to it: the peer's MaxFragmentedSize
    bool can_invalidate = true;            // the fabric sends with invalidate
    bool can_read = true;                  // the peer answers RDMA Reads
};

// A request as it goes on to the program: `bytes` with gaps for payload that is to be fetched from the peer.
struct TranslatedRequest {
    struct Fetch {
        uint32_t at = 0;  // position of the gap in the message
        uint32_t length = 0;
        uint32_t first_descriptor = 0, descriptors = 0;  // in `sources`
    };
    uint32_t length = 0;  // of the message, gaps included
    std::vector<std::byte> bytes;
    std::vector<Fetch> fetches;
    std::vector<Descriptor> sources;

    uint32_t reads = 0, writes = 0, refused = 0;  // for the counters
    const char* refusal = "";                     // why, of the last one refused
};

class ServerChannels {
  public:
    explicit ServerChannels(const ServerLimits&);

    // ---- requests
    enum class Look : uint8_t {
        pass,       // it goes to the program as it is
        whole,      // translate() it, when all of it is there; at most max_compound bytes
        oversized,  // a compound too large for that: it goes as it is, if a CompoundGuard finds no channel in
                    // it
    };
    // The first min(kLook, length) bytes.
    Look look_at_request(std::span<const std::byte> start, uint32_t length) const;
    // A whole message. Nothing: it has no channel and goes as it is. Error: the connection must end.
    Result<const TranslatedRequest*> translate(std::span<const std::byte> message);
    // The last look before anything goes to the program: true for a request whose channel the program would
    // overlook (of a compound, its first element).
    static bool carries_channel(std::span<const std::byte> start);

    // ---- replies
    struct ReplyLook {
        bool walk = false;              // walk over it; otherwise it goes as it is,
        std::optional<uint32_t> token;  // with this to be invalidated
    };
    // The first min(kLook, length) bytes.
    ReplyLook look_at_reply(std::span<const std::byte> start, uint32_t length);

    // One step of the walk over a reply whose data go by RDMA Write; begins at the reply's first byte.
    struct Step {
        enum class Kind : uint8_t {
            look,  // take_look() at the next `length` bytes, which stay next
            copy,  // take_copy() of at most the next `length` bytes
            push,  // at most the next `length` bytes go to push_destination(); then skipped()
            skip,  // at most the next `length` bytes are dropped; then skipped()
            done,  // reply() goes to the peer, with reply_token() to be invalidated
        };
        Kind kind;
        uint32_t length;
    };
    Step step() const;
    uint32_t position() const { return position_; }
    // Error: the reply does not fit its request.
    Result<void> take_look(std::span<const std::byte> bytes);
    void take_copy(std::span<const std::byte> bytes);
    void skipped(uint32_t length);
    RemoteCursor& push_destination() { return destination_; }
    std::span<const std::byte> reply() const { return reply_; }
    std::optional<uint32_t> reply_token() const { return reply_token_; }

    const Negotiated& negotiated() const { return negotiated_; }
    size_t outstanding() const { return outstanding_.size(); }

  private:
    struct Element {  // of a request
        std::span<const std::byte> bytes;
        wire::smb2::Header header;
        std::optional<wire::smb2::Transfer> transfer;  // of READ and WRITE
        bool has_channel() const;
        uint32_t amount() const;
        std::optional<std::span<const std::byte>> channel_info() const;
    };
    // Calls visit(element) for one after the other; false if the chain is broken.
    template <class Visit>
    static bool for_each_element(std::span<const std::byte> message, const Visit& visit);
    const char* refusal_of(const Element&) const;
    std::optional<uint32_t> token_of(const Element&) const;
    void append(const Element&);
    void append_transfer(const Element&);
    void remember(const Element&, bool refused);

    void begin_walk(uint32_t length);
    Result<void> begin_push(std::span<const std::byte> bytes, uint32_t length, const Request&);
    void begin_reply_element();

    const ServerLimits limits_;
    Negotiated negotiated_;
    Outstanding outstanding_;
    TranslatedRequest translated_;

    std::vector<Descriptor> remembered_;
    bool in_compound_ = false;  // of the message that is being translated
    uint64_t compound_first_ = 0, compound_last_ = 0;
    uint32_t last_start_ = 0;     // of the last element of translated_: in its bytes,
    uint32_t last_position_ = 0;  // and in the message

    // The walk over a reply: of the present element, `copy_left_` bytes are copied, or `skip_left_` skipped,
    // `push_left_` pushed and `tail_left_` skipped.
    uint32_t walk_length_ = 0, position_ = 0;
    uint32_t copy_left_ = 0, skip_left_ = 0, push_left_ = 0, tail_left_ = 0;
    std::optional<uint32_t> reply_element_;  // where the last element begins in reply_
    std::vector<Descriptor> destinations_;
    RemoteCursor destination_;
    std::vector<std::byte> reply_;
    std::optional<uint32_t> reply_token_;
};

}  // namespace smbdirect::smb2
