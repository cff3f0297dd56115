#include "fabric/iwarp/transmitter.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fabric/soft/random.hpp"

namespace smbdirect::fabric::iwarp {
namespace {

constexpr size_t turn_budget = 512 * 1024;
constexpr size_t most_idle_batches = 16;
// The most that one FPDU takes of a batch besides payload that stays where it is.
constexpr size_t arena_reserve = wire::fpdu_untagged_header + wire::read_request_size + soft::max_inline + 8;
constexpr size_t iov_reserve = soft::max_sge + 3;
constexpr uint32_t rtr_stag = 1;  // not 0: Chelsio hardware faults tagged FPDUs with STag 0

}  // namespace

// ---- batches

void Batch::clear() {
    first = count = arena_used = bytes = 0;
    carries_responses = holds_large = false;
    rescued.clear();
}

void Batch::append(std::byte* at, size_t length) {
    if (length == 0) return;
    bytes += length;
    if (count) {
        iovec& last = iov[count - 1];
        if (static_cast<std::byte*>(last.iov_base) + last.iov_len == at) {
            last.iov_len += length;
            return;
        }
    }
    iov[count++] = {at, length};
}

void Batch::accept(size_t written) {
    while (written) {
        iovec& part = iov[first];
        const size_t n = std::min(written, part.iov_len);
        part.iov_base = static_cast<std::byte*>(part.iov_base) + n;
        part.iov_len -= n;
        written -= n;
        if (part.iov_len == 0) ++first;
    }
}

std::unique_ptr<Batch> BatchPool::take() {
    if (free_.empty()) return std::make_unique<Batch>();
    auto batch = std::move(free_.back());
    free_.pop_back();
    return batch;
}

void BatchPool::give(std::unique_ptr<Batch> batch) {
    batch->clear();
    if (free_.size() < most_idle_batches) free_.push_back(std::move(batch));
}

Transmitter::~Transmitter() {
    if (batch_) batches_.give(std::move(batch_));
}

// ---- writing

Transmitter::Turn Transmitter::turn(ByteSink& sink) {
    for (size_t total = 0;;) {
        if (!batch_ && !assemble()) return faulted_ ? Turn::fault : Turn::idle;
        const ssize_t n = sink.write_bytes(batch_->iov.data() + batch_->first,
                                           static_cast<int>(batch_->count - batch_->first));
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) return Turn::blocked;
            io_errno_ = errno;
            return Turn::io_error;
        }
        take(static_cast<size_t>(n));
        if (batch_) return Turn::blocked;  // taken in part: the buffer is full
        total += static_cast<size_t>(n);
        if (total >= turn_budget) return Turn::more;
    }
}

void Transmitter::take(size_t written) {
    batch_->accept(written);
    taken_ += written;
    if (batch_->empty()) batches_.give(std::move(batch_));
    while (!marks_.empty() && marks_.front().end <= taken_) {
        const Mark done = marks_.front();
        marks_.pop();
        if (done.source == Source::work) {
            stream_.sends[done.number].done = true;
        } else {
            stream_.inbound_reads.pop();
        }
    }
}

void Transmitter::mark(Source source, uint64_t number) { marks_.push() = {assembled_, number, source}; }

uint64_t Transmitter::untaken_bytes() const {
    uint64_t sum = 0;
    for (uint64_t n = stream_.sends.begin_number(); n != stream_.sends.end_number(); ++n) {
        const soft::SendWork& work = stream_.sends[n];
        if (!work.done && work.opcode != Opcode::rdma_read) sum += work.length;
    }
    return sum;
}

// A read response that is on its way was sampled now (RFC 5040 5.5 leaves the moment open): the region may
// go.
void Transmitter::on_deregistered(std::span<std::byte> region) {
    if (!batch_ || !batch_->carries_responses) return;
    for (size_t i = batch_->first; i < batch_->count; ++i) {
        iovec& part = batch_->iov[i];
        const auto* begin = static_cast<std::byte*>(part.iov_base);
        if (begin >= region.data() + region.size() || begin + part.iov_len <= region.data()) continue;
        auto copy = std::make_unique<std::byte[]>(part.iov_len);
        std::memcpy(copy.get(), begin, part.iov_len);
        part.iov_base = copy.get();
        batch_->rescued.push_back(std::move(copy));
    }
}

// ---- assembling

bool Transmitter::assemble() {
    if (!stream_.may_send || faulted_) return false;
    batch_ = batches_.take();
    while (!(batch_->count && large_is_next()) && !batch_->holds_large && batch_->bytes < Batch::max_bytes &&
           batch_->count + iov_reserve <= Batch::max_iov &&
           batch_->arena_used + arena_reserve <= Batch::arena_size && add_fpdu()) {
    }
    if (batch_->empty()) batches_.give(std::move(batch_));
    return batch_ != nullptr;
}

// FPDUs far beyond the path's segments fill one of loopback's or of a GSO device's, and each goes in one of
// its own: a capture then shows a Send a frame, and Wireshark, which reassembles only the first Send of a
// frame, sees every message.
bool Transmitter::large_is_next() const {
    constexpr uint32_t least_mulpdu = 16 * 1024, large = 4096;
    if (stream_.mulpdu < least_mulpdu) return false;
    if (current_ == Source::work) return stream_.sends[next_work_].length - offset_ >= large;
    if (current_ == Source::response) return true;
    const bool work = work_ready() && stream_.sends[next_work_].length >= large;
    return work || next_response_ != stream_.inbound_reads.end_number();
}

bool Transmitter::add_fpdu() {
    if (rtr_ != Rtr::none) return add_rtr();
    batch_->holds_large = large_is_next();
    if (current_ == Source::none) choose();
    switch (current_) {
        case Source::none:
            return false;
        case Source::work:
            add_work_segment();
            return true;
        case Source::response:
            return add_response_segment();
    }
    return false;
}

bool Transmitter::work_ready() const {
    if (next_work_ == stream_.sends.end_number()) return false;
    // No more reads than the peer serves at once; what was posted later waits with it.
    return stream_.sends[next_work_].opcode != Opcode::rdma_read ||
           stream_.outbound_reads.size() < stream_.ord;
}

// Whole messages, in turn: two tagged ones must not interleave (RFC 5041 5.1), and siw sends no other way
// either.
void Transmitter::choose() {
    const bool work = work_ready(), response = next_response_ != stream_.inbound_reads.end_number();
    if (!work && !response) return;
    current_ = response && (response_next_ || !work) ? Source::response : Source::work;
    response_next_ = current_ == Source::work;
    offset_ = 0;
}

void Transmitter::add_work_segment() {
    const soft::SendWork& work = stream_.sends[next_work_];
    if (work.opcode == Opcode::rdma_read) {
        add_read_request(work);
    } else {
        wire::Segment segment;
        segment.tagged = work.opcode == Opcode::rdma_write;
        const uint32_t header = segment.tagged ? wire::tagged_header_size : wire::untagged_header_size;
        const uint32_t room = stream_.mulpdu - header, left = work.length - offset_;
        segment.payload_length = std::min(left, room);
        segment.last = segment.payload_length == left;
        if (segment.tagged) {
            segment.opcode = wire::Rdmap::write;
            segment.stag = work.remote_rkey;
            segment.offset = work.remote_offset + offset_;
        } else {
            const bool invalidate = work.opcode == Opcode::send_with_invalidate;
            segment.opcode = invalidate ? wire::Rdmap::send_invalidate : wire::Rdmap::send;
            segment.stag = invalidate ? work.invalidate_rkey : 0;
            segment.queue = wire::queue_send;
            segment.msn = send_msn_;
            segment.offset = offset_;
        }
        open_fpdu(segment);
        add_work_payload(work, offset_, segment.payload_length);
        close_fpdu(segment);
        offset_ += segment.payload_length;
        if (!segment.last) return;
        if (!segment.tagged) ++send_msn_;
        mark(Source::work, next_work_);
    }
    ++next_work_;
    current_ = Source::none;
}

void Transmitter::add_read_request(const soft::SendWork& work) {
    OutboundRead& read = stream_.outbound_reads.push();
    read = {.work = next_work_,
            .sink_stag = soft::unguessable32() | 0x100,  // never 0
            .sink_offset = soft::unguessable64() >> 16,
            .length = work.length};
    const wire::Segment segment{.last = true,
                                .opcode = wire::Rdmap::read_request,
                                .payload_length = wire::read_request_size,
                                .queue = wire::queue_read_request,
                                .msn = read_msn_++};
    std::byte bytes[wire::read_request_size];
    wire::build_read_request(
        {read.sink_stag, read.sink_offset, work.length, work.remote_rkey, work.remote_offset}, bytes);
    open_fpdu(segment);
    add_arena(bytes, sizeof bytes);
    close_fpdu(segment);
}

// RFC 6581 9: the initiator's first FPDU.
bool Transmitter::add_rtr() {
    wire::Segment segment{.last = true};
    if (rtr_ == Rtr::write) {
        segment.tagged = true;
        segment.opcode = wire::Rdmap::write;
        segment.stag = rtr_stag;
        open_fpdu(segment);
    } else {
        segment.opcode = wire::Rdmap::read_request;
        segment.payload_length = wire::read_request_size;
        segment.queue = wire::queue_read_request;
        segment.msn = read_msn_++;
        stream_.outbound_reads.push() = {.work = no_work, .sink_stag = rtr_stag};
        std::byte bytes[wire::read_request_size];
        wire::build_read_request({.sink_stag = rtr_stag, .source_stag = rtr_stag}, bytes);
        open_fpdu(segment);
        add_arena(bytes, sizeof bytes);
    }
    close_fpdu(segment);
    rtr_ = Rtr::none;
    return true;
}

bool Transmitter::add_response_segment() {
    const wire::ReadRequest& request = stream_.inbound_reads[next_response_].request;
    const uint32_t room = stream_.mulpdu - wire::tagged_header_size, left = request.length - offset_;
    wire::Segment segment{.tagged = true, .opcode = wire::Rdmap::read_response, .stag = request.sink_stag};
    segment.payload_length = std::min(left, room);
    segment.last = segment.payload_length == left;
    segment.offset = request.sink_offset + offset_;
    std::byte* source = nullptr;
    if (segment.payload_length) {
        // Judged again for every segment: what is no longer registered is no longer sent (RFC 5042 7.3).
        const auto at = stream_.regions.remote(request.source_stag, request.source_offset + offset_,
                                               segment.payload_length, access_remote_read);
        if (!at) {
            fault_ = {wire::violation::rdmap_stag, Reason::remote_access_violation};
            faulted_ = true;
            return false;
        }
        source = *at;
    }
    open_fpdu(segment);
    add_payload(source, segment.payload_length);
    close_fpdu(segment);
    batch_->carries_responses = true;
    offset_ += segment.payload_length;
    if (!segment.last) return true;
    mark(Source::response, next_response_++);
    current_ = Source::none;
    return true;
}

// ---- the parts of an FPDU

void Transmitter::open_fpdu(const wire::Segment& segment) {
    std::byte* at = batch_->arena.data() + batch_->arena_used;
    const size_t size = wire::build_segment(segment, at);
    batch_->arena_used += size;
    batch_->append(at, size);
    assembled_ += size;
    if (stream_.crc) {
        crc_.reset();
        crc_.add(at, size);
    }
}

void Transmitter::add_arena(const std::byte* from, size_t length) {
    std::byte* at = batch_->arena.data() + batch_->arena_used;
    std::memcpy(at, from, length);
    batch_->arena_used += length;
    batch_->append(at, length);
    assembled_ += length;
    if (stream_.crc) crc_.add(at, length);
}

void Transmitter::add_payload(std::byte* at, uint32_t length) {
    if (length == 0) return;
    batch_->append(at, length);
    assembled_ += length;
    if (stream_.crc) crc_.add(at, length);
}

void Transmitter::add_work_payload(const soft::SendWork& work, uint32_t offset, uint32_t length) {
    if (work.is_inline) return add_arena(work.inline_bytes.data() + offset, length);
    while (length) {
        const Sge piece = soft::piece_at(work.list(), offset);
        const uint32_t n = std::min(piece.length, length);
        add_payload(piece.address, n);
        offset += n, length -= n;
    }
}

void Transmitter::close_fpdu(const wire::Segment& segment) {
    constexpr std::byte zeros[3]{};
    const uint32_t ulpdu =
        segment.payload_length + (segment.tagged ? wire::tagged_header_size : wire::untagged_header_size);
    if (const uint32_t pad = wire::fpdu_pad(ulpdu)) add_arena(zeros, pad);
    std::byte crc[wire::crc_size]{};  // zero when unused, as siw has it
    if (stream_.crc) crc_.store(crc);
    add_arena(crc, sizeof crc);
}

size_t build_terminate_fpdu(const wire::Violation& why, uint16_t segment_length,
                            std::span<const std::byte> header, bool crc, std::byte* out) {
    std::byte payload[wire::terminate_max_size];
    const size_t length = wire::build_terminate(why, segment_length, header, payload);
    const wire::Segment segment{.last = true,
                                .opcode = wire::Rdmap::terminate,
                                .payload_length = static_cast<uint32_t>(length),
                                .queue = wire::queue_terminate,
                                .msn = 1};
    size_t size = wire::build_segment(segment, out);
    std::memcpy(out + size, payload, length);
    size += length;
    for (uint32_t pad = wire::fpdu_pad(static_cast<uint32_t>(wire::untagged_header_size + length)); pad;
         --pad) {
        out[size++] = std::byte{0};
    }
    std::memset(out + size, 0, wire::crc_size);
    if (crc) {
        Crc32c sum;
        sum.add(out, size);
        sum.store(out + size);
    }
    return size + wire::crc_size;
}

}  // namespace smbdirect::fabric::iwarp
