// The layouts of SMB2 that channels touch [MS-SMB2] 2.2: the header, READ and WRITE, and what NEGOTIATE says
// of the dialect. Parse and patch, nothing else; offsets count from the first byte of the SMB2 header. All
// fields are little endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace smbdirect::wire::smb2 {

constexpr uint32_t kProtocolId = 0x424d53fe;   // FE 53 4D 42: a plain message [MS-SMB2] 2.2.1
constexpr uint32_t kTransformId = 0x424d53fd;  // FD: encrypted [MS-SMB2] 2.2.41

enum class Command : uint16_t { negotiate = 0, tree_connect = 3, read = 8, write = 9, cancel = 12 };
constexpr bool is_transfer(Command command) { return command == Command::read || command == Command::write; }

enum HeaderFlags : uint32_t {  // [MS-SMB2] 2.2.1.2
    server_to_redirector = 0x1,
    async_command = 0x2,
    related_operations = 0x4,
    is_signed = 0x8,
};

enum class Channel : uint32_t {  // of READ and WRITE requests [MS-SMB2] 2.2.19, 2.2.21
    none = 0,
    rdma_v1 = 1,
    rdma_v1_invalidate = 2,
    rdma_transform = 3,
};

constexpr uint16_t kDialect300 = 0x0300, kDialect302 = 0x0302, kDialect311 = 0x0311;
constexpr uint16_t kDialectWildcard = 0x02ff;

constexpr uint32_t kStatusSuccess = 0;
constexpr uint32_t kStatusPending = 0x00000103;
constexpr uint32_t kStatusBufferOverflow = 0x80000005;

constexpr size_t kHeaderSize = 64;
constexpr size_t kRequestSize = 112;      // header and fixed part of READ and of WRITE requests alike
constexpr size_t kReadRequestSize = 113;  // with the one byte that the buffer of a READ has at least
constexpr size_t kReadReplySize = 80;     // header and fixed part; data follows at DataOffset
constexpr size_t kNegotiateReplySize = 128;
constexpr uint8_t kShareTypePipe = 2;         // [MS-SMB2] 2.2.10
constexpr uint16_t kReplyStructureSize = 17;  // of READ and WRITE responses [MS-SMB2] 2.2.20, 2.2.22

struct Header {
    uint32_t status = 0;
    Command command = Command::negotiate;
    uint32_t flags = 0;
    uint32_t next_command = 0;  // distance to the next element of a compound; 0: the last
    uint64_t message_id = 0;
    uint32_t tree_id = 0;  // unless async_command
    uint64_t session_id = 0;
};

// A READ or WRITE request. The two layouts have the same fields at other places.
struct Transfer {
    bool write = false;
    uint16_t data_offset = 0;  // WRITE
    uint32_t length = 0;
    Channel channel = Channel::none;
    uint32_t remaining_bytes = 0;
    uint16_t channel_info_offset = 0, channel_info_length = 0;
};

struct ReadReply {
    uint16_t structure_size = 0;
    uint8_t data_offset = 0;
    uint32_t data_length = 0, data_remaining = 0;
};

struct NegotiateReply {
    uint16_t dialect = 0;
    uint32_t max_read_size = 0, max_write_size = 0;
};

// 0 if there are fewer than 4 bytes.
uint32_t protocol_id(std::span<const std::byte> message);
// Nothing unless it is a plain SMB2 header.
std::optional<Header> parse_header(std::span<const std::byte> element);
// Nothing when it is shorter than its fixed part.
std::optional<Transfer> parse_transfer(std::span<const std::byte> element, Command);
std::optional<ReadReply> parse_read_reply(std::span<const std::byte> element);
std::optional<NegotiateReply> parse_negotiate_reply(std::span<const std::byte> message);
// The ShareType of a TREE_CONNECT response [MS-SMB2] 2.2.10.
std::optional<uint8_t> parse_share_type(std::span<const std::byte> message);

// These write into an element that has its fixed part.
void set_next_command(std::span<std::byte> element, uint32_t distance);
void set_transfer(std::span<std::byte> element, const Transfer&);
void set_read_reply(std::span<std::byte> element, const ReadReply&);

}  // namespace smbdirect::wire::smb2
