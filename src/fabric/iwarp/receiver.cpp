#include "fabric/iwarp/receiver.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace smbdirect::fabric::iwarp {
namespace {

constexpr size_t turn_budget = 512 * 1024;
constexpr uint32_t least_guess =
    4096;  // below, one copy out of the tail is cheaper than more elements in the iovec
constexpr unsigned most_misses = 4;  // small FPDUs in a row after which we no longer expect a large one
constexpr size_t iov_reserve = soft::max_sge + 4;

}  // namespace

// ---- the bytes of this turn

std::span<std::byte> Receiver::front() const {
    const iovec& iov = staging_.iov[view_.index];
    return {static_cast<std::byte*>(iov.iov_base) + view_.position,
            std::min(iov.iov_len - view_.position, view_.left)};
}

void Receiver::advance(size_t count) {
    view_.position += count;
    view_.left -= count;
    while (view_.left && view_.position == staging_.iov[view_.index].iov_len) {
        ++view_.index;
        view_.position = 0;
    }
}

// The guess was wrong: what has not been parsed yet must leave the user's memory before anything is placed
// there.
void Receiver::linearise() {
    const size_t total = view_.left;
    std::byte* to = staging_.repair.data();
    while (view_.left) {
        const auto bytes = front();
        std::memcpy(to, bytes.data(), bytes.size());
        to += bytes.size();
        advance(bytes.size());
    }
    staging_.iov[0] = {staging_.repair.data(), total};
    view_ = {.left = total};
}

// ---- laying out the next read

void Receiver::lay(std::byte* at, size_t length) {
    if (length == 0) return;
    staging_.iov[iov_count_++] = {at, length};
    laid_ += length;
}

bool Receiver::lay_payload(Target target, uint64_t number, uint64_t offset, uint32_t length) {
    while (length) {
        if (iov_count_ + iov_reserve > ReceiveStaging::max_iov) return false;
        const Sge piece = destination(target, number, offset, length);
        const uint32_t n = std::min(piece.length, length);
        if (!piece.address || n == 0) return false;
        lay(piece.address, n);
        offset += n, length -= n;
    }
    return true;
}

// The FPDU that is guessed to come after `count` others that were: where its payload goes, how long it is.
// Only memory is guessed at whose content means nothing before its completion: posted receives, and the rest
// of a read's sink. A region open to RDMA Writes is not; stray bytes there would be damage.
Receiver::Guess Receiver::guess(uint32_t count) const {
    const bool in_segment = phase_ != Phase::header;
    if (guess_kind_ == Target::sink) {
        if (stream_.outbound_reads.empty()) return {};
        const OutboundRead& read = stream_.outbound_reads[stream_.outbound_reads.begin_number()];
        const uint64_t done = read.placed +
                              (in_segment && target_ == Target::sink ? segment_.payload_length : 0) +
                              uint64_t{count} * guess_length_;
        if (done >= read.length) return {};
        return {read.work, done,
                static_cast<uint32_t>(std::min<uint64_t>(guess_length_, read.length - done))};
    }
    const bool in_send = in_segment && target_ == Target::receive;
    if (in_send ? !segment_.last : message_open_) return {};
    const uint64_t receive = stream_.receives.begin_number() + (in_send ? 1 : 0) + count;
    if (receive >= stream_.receives.end_number() || stream_.receives[receive].capacity < guess_length_)
        return {};
    return {receive, 0, guess_length_};
}

// `gap`: bytes of trailer and header before the next payload; left as what is to come behind the last guess.
void Receiver::lay_guesses(size_t& gap) {
    const size_t header = guess_header_size();
    for (uint32_t count = 0;; ++count) {
        const Guess next = guess(count);
        if (next.length == 0 || laid_ + next.length > ReceiveStaging::guess_size ||
            iov_count_ + 2 * iov_reserve > ReceiveStaging::max_iov) {
            return;
        }
        // The gap is only laid when its payload fits.
        const size_t place = iov_count_++, laid = laid_;
        if (!lay_payload(guess_kind_, next.number, next.offset, next.length)) {
            iov_count_ = place, laid_ = laid;
            return;
        }
        staging_.iov[place] = {staging_.scratch[scratch_used_++].data(), gap};
        laid_ += gap;
        view_.guarded = iov_count_;
        const auto ulpdu = static_cast<uint32_t>(next.length + header - wire::fpdu_length_size);
        gap = wire::fpdu_pad(ulpdu) + wire::crc_size + header;
    }
}

size_t Receiver::guess_header_size() const {
    return guess_kind_ == Target::receive ? wire::fpdu_untagged_header : wire::fpdu_tagged_header;
}

// Fills the iovec for the next read; returns the bytes it asks for.
size_t Receiver::lay_out() {
    iov_count_ = laid_ = scratch_used_ = 0;
    view_ = {};
    size_t gap = 0;  // bytes of the current FPDU before the next one
    if (phase_ == Phase::payload) {
        const uint32_t rest = segment_.payload_length - placed_;
        if (!lay_payload(target_, target_number_, target_base_ + placed_, rest)) {
            iov_count_ = laid_ = 0;  // may no longer be touched: the parser decides
            lay(staging_.tail.data(), staging_.tail.size());
            return laid_;
        }
        view_.guarded = iov_count_;
        gap = trailer_size();
    } else if (phase_ == Phase::trailer) {
        gap = trailer_size() - have_;
    }
    size_t tail = staging_.tail.size();
    const size_t had = phase_ == Phase::header ? have_ : 0, header = guess_header_size();
    if (guess_length_ && had < header) {
        // With bulk under way, no more than the header is read of what is not guessed: its payload then comes
        // in place with the next read instead of being copied out of the tail.
        tail = gap + header - had;
        if (guess_kind_ != Target::region) lay_guesses(tail);
    }
    lay(staging_.tail.data(), tail);
    return laid_;
}

// ---- a turn

Receiver::Turn Receiver::turn(ByteSource& source) {
    for (size_t total = 0; total < turn_budget;) {
        const size_t asked = lay_out();
        const ssize_t n = source.read_bytes(staging_.iov.data(), static_cast<int>(iov_count_));
        if (n == 0) return Turn::end_of_stream;
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) return Turn::drained;
            io_errno_ = errno;
            return Turn::io_error;
        }
        view_.left = static_cast<size_t>(n);
        if (!consume()) return Turn::fault;
        if (static_cast<size_t>(n) < asked) return Turn::drained;  // spares the read that would say EAGAIN
        total += static_cast<size_t>(n);
    }
    return Turn::more;
}

bool Receiver::consume() {
    while (view_.left) {
        switch (phase_) {
            case Phase::header:
                if (!take_header()) return false;
                break;
            case Phase::payload:
                if (!take_payload()) return false;
                break;
            case Phase::trailer:
                if (!take_trailer()) return false;
                break;
        }
    }
    return true;
}

bool Receiver::take_header() {
    const auto bytes = front();
    const auto n = static_cast<uint32_t>(std::min<size_t>(bytes.size(), need_ - have_));
    std::memcpy(header_.data() + have_, bytes.data(), n);
    have_ += n;
    advance(n);
    if (have_ < need_) return true;
    if (need_ == wire::fpdu_control_size) {
        const auto size = wire::fpdu_header_size(std::span(header_).first<wire::fpdu_control_size>());
        if (!size) return fail_with(size.error());
        need_ = static_cast<uint32_t>(*size);
        return true;
    }
    return begin_segment();
}

bool Receiver::take_payload() {
    const auto bytes = front();
    const auto rest = segment_.payload_length - placed_;
    const Sge to = destination(target_, target_number_, target_base_ + placed_, rest);
    if (!to.address) {
        // Judged good when the segment began: the memory was deregistered since.
        return target_ == Target::region
                   ? fail_with(wire::violation::tagged_stag, Reason::remote_access_violation)
                   : fail_with(wire::violation::rdmap_catastrophic, Reason::transport_error);
    }
    const auto n = static_cast<uint32_t>(std::min({bytes.size(), size_t{rest}, size_t{to.length}}));
    if (to.address != bytes.data()) {
        if (target_ != Target::control && view_.index < view_.guarded) {
            linearise();
            return true;
        }
        std::memcpy(to.address, bytes.data(), n);
    }
    if (stream_.crc) crc_.add(to.address, n);
    placed_ += n;
    advance(n);
    if (placed_ == segment_.payload_length) {
        phase_ = Phase::trailer;
        have_ = 0;
    }
    return true;
}

bool Receiver::take_trailer() {
    const auto bytes = front();
    const auto n = static_cast<uint32_t>(std::min<size_t>(bytes.size(), trailer_size() - have_));
    std::memcpy(trailer_.data() + have_, bytes.data(), n);
    have_ += n;
    advance(n);
    if (have_ < trailer_size()) return true;
    if (stream_.crc) {
        const size_t pad = trailer_size() - wire::crc_size;
        crc_.add(trailer_.data(), pad);
        if (!crc_.matches(trailer_.data() + pad))
            return fail_with(wire::violation::mpa_crc, Reason::crc_error);
    }
    phase_ = Phase::header;
    have_ = 0;
    need_ = wire::fpdu_control_size;
    stream_.may_send = true;
    if (!finish_segment()) return false;
    header_known_ = false;
    note_for_guessing();
    return true;
}

void Receiver::note_for_guessing() {
    if (segment_.payload_length < least_guess) {
        if (++guess_misses_ >= most_misses) guess_length_ = 0;
        return;
    }
    guess_misses_ = 0;
    const bool whole_send = segment_.is_send() && segment_.last && segment_.offset == 0;
    const bool goes_on = segment_.tagged && !segment_.last;
    guess_length_ = whole_send || goes_on ? segment_.payload_length : 0;
    guess_kind_ = target_;
}

}  // namespace smbdirect::fabric::iwarp
