// The layouts of MS-SMBD and the descriptor walk, fed with anything.
#include <array>
#include <cstring>
#include <vector>

#include "input.hpp"
#include "wire/descriptor_walk.hpp"
#include "wire/smbd.hpp"

using namespace smbdirect::wire;
using smbdirect::test::require;

namespace {

template <class T, size_t N>
void round_trip(const std::optional<T>& parsed, std::optional<T> (*parse)(std::span<const std::byte>)) {
    if (!parsed) return;
    std::array<std::byte, N> bytes;
    build(*parsed, std::span<std::byte, N>(bytes));
    require(parse(bytes) == parsed);
}

void walk(std::span<const std::byte> bytes) {
    if (bytes.size() < 16) return;
    uint64_t offset = 0, length = 0;
    std::memcpy(&offset, bytes.data(), 8);
    std::memcpy(&length, bytes.data() + 8, 8);
    offset &= (uint64_t{1} << (offset >> 58)) - 1;  // small ones are worth more
    length &= (uint64_t{1} << (length >> 58)) - 1;
    std::vector<BufferDescriptorV1> descriptors;
    for (bytes = bytes.subspan(16); const auto d = parse_buffer_descriptor(bytes); bytes = bytes.subspan(16))
        descriptors.push_back(*d);
    std::vector<BufferDescriptorV1> pieces(descriptors.size());
    const auto count = smbdirect::wire::walk_descriptors(descriptors, offset, length, pieces);
    if (!count) return;
    uint64_t sum = 0;
    size_t from = 0;
    for (const auto& piece : std::span(pieces).first(*count)) {
        const auto inside = [&](const BufferDescriptorV1& d) {
            return d.token == piece.token && piece.offset >= d.offset &&
                   piece.offset - d.offset + piece.length <= d.length;
        };
        while (from < descriptors.size() && !inside(descriptors[from])) ++from;  // in order, each once
        require(from++ < descriptors.size());
        require(piece.length > 0);
        sum += piece.length;
    }
    require(sum == length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    round_trip<NegotiateRequest, 20>(parse_negotiate_request(bytes), parse_negotiate_request);
    round_trip<NegotiateResponse, 32>(parse_negotiate_response(bytes), parse_negotiate_response);
    round_trip<DataTransferHeader, 24>(parse_data_transfer_header(bytes), parse_data_transfer_header);
    round_trip<BufferDescriptorV1, 16>(parse_buffer_descriptor(bytes), parse_buffer_descriptor);
    walk(bytes);
    return 0;
}
