// The layouts of MS-SMBD: the byte vectors of facts/ms-smbd.md section 7 in literal comparison, properties 1,
// 2, 20.
#include <algorithm>
#include <memory>

#include "support/bytes.hpp"
#include "support/catch.hpp"
#include "wire/descriptor_walk.hpp"
#include "wire/smbd.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using namespace smbdirect::wire;

namespace {

template <class T>
std::string built(const T& value) {
    std::array<std::byte, T::kSize> out;
    out.fill(std::byte{0xee});
    build(value, std::span<std::byte, T::kSize>(out));
    return to_hex(out);
}

std::string built(const DataTransferHeader& header) {
    std::array<std::byte, DataTransferHeader::kPaddedSize> out;
    out.fill(std::byte{0xee});
    build(header, std::span<std::byte, DataTransferHeader::kPaddedSize>(out));
    return to_hex(std::span(out).first(header.data_length ? 24 : 20));
}

void check_request(const char* hex, const NegotiateRequest& request) {
    CHECK(built(request) == hex);
    CHECK(parse_negotiate_request(from_hex(hex)) == request);
}
void check_response(const char* hex, const NegotiateResponse& response) {
    CHECK(built(response) == hex);
    CHECK(parse_negotiate_response(from_hex(hex)) == response);
}
void check_data(const char* hex, const DataTransferHeader& header) {
    CHECK(built(header) == hex);
    CHECK(parse_data_transfer_header(from_hex(hex)) == header);
}
void check_descriptor(const char* hex, const BufferDescriptorV1& descriptor) {
    CHECK(built(descriptor) == hex);
    CHECK(parse_buffer_descriptor(from_hex(hex)) == descriptor);
}

}  // namespace

TEST_CASE("vectors 7.1: the examples of the specification", "[smbd:4]") {
    check_request("0001000100000a00000400000004000000000200", {0x100, 0x100, 10, 1024, 1024, 131072});
    check_response("00010001000100000a000a000000000000001000000400000004000000000200",
                   {0x100, 0x100, 0x100, 10, 10, 0, 0x100000, 1024, 1024, 131072});
    check_data("0a000a000000000000000000180000004400000000000000", {10, 10, 0, 0, 24, 0x44});
    check_data("0a000100000000000000000018000000f401000000000000", {10, 1, 0, 0, 24, 500});
    check_data("0a0001000000000018fc000018000000e803000000000000", {10, 1, 0, 64536, 24, 1000});
    check_data("0a0001000000000030f8000018000000e803000000000000", {10, 1, 0, 63536, 24, 1000});
    check_data("0a0001000000000000000000180000001802000000000000", {10, 1, 0, 0, 24, 536});
    check_descriptor("12e0cdab0000000056bc001a00001000", {0xabcde012, 0x1a00bc56, 0x100000});
    check_descriptor("24a0cb0d0000000057bc001a00001000", {0x0dcba024, 0x1a00bc57, 0x100000});
}

TEST_CASE("vectors 7.2: the defaults of Linux and Windows") {
    check_request("000100010000ff00540500005405000056a70200", {0x100, 0x100, 255, 1364, 1364, 173910});
    check_request("000100010000ff00540500000020000000001000", {0x100, 0x100, 255, 1364, 8192, 1048576});
    check_response("0001000100010000ff00ff000000000000008000540500005405000056a70200",
                   {0x100, 0x100, 0x100, 255, 255, 0, 8388608, 1364, 1364, 173910});
    check_response("000100010000000000000000bb0000c000000000000000000000000000000000",
                   {0x100, 0x100, 0, 0, 0, kStatusNotSupported, 0, 0, 0, 0});
    check_response("0001000100000000000000009a0000c000000000000000000000000000000000",
                   {0x100, 0x100, 0, 0, 0, kStatusInsufficientResources, 0, 0, 0, 0});
}

TEST_CASE("vectors 7.3: data") {
    check_data("ff0001000000000000000000180000000800000000000000", {255, 1, 0, 0, 24, 8});
    check_data("ff0001000000000010000000180000000800000000000000", {255, 1, 0, 16, 24, 8});
    check_data("ff0000000000000008000000180000000800000000000000", {255, 0, 0, 8, 24, 8});
    check_data("ff0000000000000000000000180000000800000000000000", {255, 0, 0, 0, 24, 8});
    check_data("ff00000001000000000000000000000000000000", {255, 0, kSmbdResponseRequested, 0, 0, 0});
    check_data("ff00010000000000000000000000000000000000", {255, 1, 0, 0, 0, 0});
    check_data("ff00100000000000000000000000000000000000", {255, 16, 0, 0, 0, 0});
}

TEST_CASE("property 1: parse and build are inverse") {
    Random random(1);
    const auto u16 = [&] { return static_cast<uint16_t>(random.next()); };
    const auto u32 = [&] { return static_cast<uint32_t>(random.next()); };
    bool same = true;
    for (int i = 0; i < 20000; ++i) {
        const NegotiateRequest request{u16(), u16(), u16(), u32(), u32(), u32()};
        same &= parse_negotiate_request(from_hex(built(request))) == request;
        const NegotiateResponse response{u16(), u16(), u16(), u16(), u16(),
                                         u32(), u32(), u32(), u32(), u32()};
        same &= parse_negotiate_response(from_hex(built(response))) == response;
        const DataTransferHeader header{u16(), u16(), u16(), u32(), u32(), u32()};
        same &= parse_data_transfer_header(from_hex(built(header))) == header;
        const BufferDescriptorV1 descriptor{random.next(), u32(), u32()};
        same &= parse_buffer_descriptor(from_hex(built(descriptor))) == descriptor;

        Bytes bytes(32);  // the other way round: reserved fields and padding are zero, all else is random
        for (auto& b : bytes) b = static_cast<std::byte>(random.next());
        const auto text = [&](size_t size) { return to_hex(std::span(bytes).first(size)); };
        same &= built(*parse_buffer_descriptor(bytes)) == text(16);
        bytes[6] = bytes[7] = std::byte{0};
        same &= built(*parse_negotiate_response(bytes)) == text(32);
        bytes[20] = bytes[21] = bytes[22] = bytes[23] = std::byte{0};
        const auto data = *parse_data_transfer_header(bytes);
        same &= built(data) == text(data.data_length ? 24 : 20);
        bytes[4] = bytes[5] = std::byte{0};
        same &= built(*parse_negotiate_request(bytes)) == text(20);
    }
    CHECK(same);
}

TEST_CASE("property 2: nothing outside the input is read") {  // means something under AddressSanitizer
    Random random(2);
    for (int i = 0; i < 20000; ++i) {
        const size_t size = random.below(65);
        const auto bytes = std::make_unique<std::byte[]>(size);  // exactly as long, on the heap
        for (size_t k = 0; k < size; ++k) bytes[k] = static_cast<std::byte>(random.next());
        const std::span<const std::byte> view(bytes.get(), size);
        const bool parsed[] = {
            parse_negotiate_request(view).has_value(), parse_negotiate_response(view).has_value(),
            parse_data_transfer_header(view).has_value(), parse_buffer_descriptor(view).has_value()};
        const bool fits[] = {size >= 20, size >= 32, size >= 20, size >= 16};
        if (!std::ranges::equal(parsed, fits)) FAIL("size " << size);
    }
}

TEST_CASE("property 20: the descriptor walk covers exactly the range, or nothing", "[smbd:3.1.4.5]") {
    Random random(20);
    for (int round = 0; round < 5000; ++round) {
        std::vector<BufferDescriptorV1> descriptors(random.below(6));
        uint64_t sum = 0;
        for (auto& d : descriptors) {
            d = {random.next() >> 1, static_cast<uint32_t>(random.next()),
                 static_cast<uint32_t>(random.below(40))};
            sum += d.length;
        }
        const uint64_t offset = random.below(sum + 8), length = random.below(sum + 8);
        std::vector<BufferDescriptorV1> pieces(descriptors.size());
        const auto count = walk_descriptors(descriptors, offset, length, pieces);
        INFO("round " << round << " offset " << offset << " length " << length << " sum " << sum);
        if (length != 0 && offset + length > sum) {
            REQUIRE(!count);
            REQUIRE(count.error() == Error{Reason::descriptor_range, EINVAL});
            continue;
        }
        REQUIRE(count);
        // Byte by byte: the address of the n-th byte of the buffer by the descriptors, and by the pieces.
        std::vector<std::pair<uint32_t, uint64_t>> wanted, got;
        for (const auto& d : descriptors)
            for (uint32_t k = 0; k < d.length; ++k) wanted.emplace_back(d.token, d.offset + k);
        wanted = length == 0 ? decltype(wanted){}
                             : decltype(wanted)(wanted.begin() + static_cast<long>(offset),
                                                wanted.begin() + static_cast<long>(offset + length));
        for (const auto& p : std::span(pieces).first(*count)) {
            REQUIRE(p.length > 0);
            for (uint32_t k = 0; k < p.length; ++k) got.emplace_back(p.token, p.offset + k);
        }
        REQUIRE(got == wanted);
    }
}

TEST_CASE("property 20: sums are 64 bits wide, an address may not wrap", "[smbd:3.1.4.5]") {
    constexpr uint32_t kMost = 0xffffffff;
    const BufferDescriptorV1 big[] = {{0, 1, kMost}, {0, 2, kMost}, {0, 3, kMost}};
    BufferDescriptorV1 pieces[3];
    CHECK(walk_descriptors(big, uint64_t{2} * kMost + 5, 7, pieces) == 1);
    CHECK(pieces[0] == BufferDescriptorV1{5, 3, 7});
    CHECK(walk_descriptors(big, 0, uint64_t{3} * kMost, pieces) == 3);
    CHECK(!walk_descriptors(big, 1, uint64_t{3} * kMost, pieces));
    CHECK(!walk_descriptors(big, ~uint64_t{0}, 2, pieces));  // offset + length wraps
    CHECK(!walk_descriptors(big, 2, ~uint64_t{0}, pieces));
    CHECK(walk_descriptors(big, 0, uint64_t{3} * kMost, std::span(pieces).first(2)).error().errnum ==
          ENOBUFS);
    const BufferDescriptorV1 high[] = {{~uint64_t{0} - 3, 1, 8}};
    CHECK(walk_descriptors(high, 0, 4, pieces) == 1);
    CHECK(!walk_descriptors(high, 0, 5, pieces));
    CHECK(!walk_descriptors(high, 4, 1, pieces));
}
