// Hostile bytes in each state of an iWARP stream. The first byte picks the state, the second the sizes of the
// reads; the rest is the stream. In half of the runs it is taken as a script of well-formed FPDUs with
// hostile fields and right CRCs, so that the fuzzer gets behind the checks of the framing.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "fabric/iwarp/negotiation.hpp"
#include "fabric/iwarp/receiver.hpp"
#include "fabric/iwarp/transmitter.hpp"

using namespace smbdirect;
using namespace smbdirect::fabric;

namespace {

constexpr size_t region_size = 20'000, receive_size = 9'000, guard = 64;

class Input {
  public:
    Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
    bool empty() const { return size_ == 0; }
    uint8_t byte() {
        if (!size_) return 0;
        --size_;
        return *data_++;
    }
    uint32_t word() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i) value = value << 8 | byte();
        return value;
    }
    size_t left() const { return size_; }
    const uint8_t* data() const { return data_; }

  private:
    const uint8_t* data_;
    size_t size_;
};

struct Feed final : iwarp::ByteSource {
    std::vector<std::byte> bytes;
    size_t at = 0, step = 1, calls = 0;

    ssize_t read_bytes(const iovec* iov, int count) override {
        if (++calls % 3 == 0) {
            errno = EAGAIN;
            return -1;
        }
        size_t budget = std::min(step, bytes.size() - at);
        const size_t before = at;
        for (int i = 0; i < count && budget; ++i) {
            const size_t n = std::min(budget, iov[i].iov_len);
            std::memcpy(iov[i].iov_base, &bytes[at], n);
            at += n;
            budget -= n;
        }
        return static_cast<ssize_t>(at - before);
    }
};

struct Swallow final : iwarp::ByteSink {
    size_t step = 1, calls = 0;
    ssize_t write_bytes(const iovec* iov, int count) override {
        if (++calls % 4 == 0) {
            errno = EAGAIN;
            return -1;
        }
        size_t total = 0;
        for (int i = 0; i < count && total < step; ++i) {
            volatile std::byte seen = static_cast<std::byte*>(iov[i].iov_base)[iov[i].iov_len - 1];
            (void)seen;
            total += std::min(iov[i].iov_len, step - total);
        }
        return static_cast<ssize_t>(total);
    }
};

struct Ends final : iwarp::ReceiverEvents {
    soft::Ring<soft::SendWork>& sends;
    explicit Ends(soft::Ring<soft::SendWork>& queue) : sends(queue) {}
    void on_message(const soft::PostedReceive& receive, uint32_t length, std::optional<uint32_t>) override {
        if (length > receive.capacity) std::abort();
    }
    void on_read_done(uint64_t work) override {
        if (work != iwarp::no_work) sends[work].done = true;
    }
    void on_read_requested() override {}
};

std::vector<std::byte>& shared_memory() {
    static std::vector<std::byte> memory;  // fresh pages for every input would be most of the work
    memory.assign(3 * region_size + 4 * guard, std::byte{0x5a});
    return memory;
}

// One endpoint's memory, with guards around it that nobody may touch.
struct Side {
    soft::RegionTable regions;
    soft::Ring<soft::PostedReceive> receives{64};
    soft::Ring<soft::SendWork> sends{64};
    std::vector<std::byte>& memory = shared_memory();
    MemoryRegion writable, readable, local;

    std::byte* part(size_t i) { return memory.data() + guard + i * (region_size + guard); }
    Side() {
        writable = *regions.add(part(0), region_size, access_remote_write);
        readable = *regions.add(part(1), region_size, access_remote_read);
        local = *regions.add(part(2), region_size, access_none);
        for (uint64_t i = 0; i < 2; ++i) {
            auto& receive = receives.push();
            receive = {.wr_id = i, .capacity = receive_size, .sge_count = 2};
            receive.sges[0] = {part(2) + i * 24, 24, local.lkey};
            receive.sges[1] = {part(2) + 48 + i * receive_size, receive_size - 24, local.lkey};
        }
        for (int i = 0; i < 2; ++i) {
            auto& work = sends.push();
            work = {};
            work.opcode = Opcode::rdma_read;
            work.length = 900;
            work.sge_count = 1;
            work.sges[0] = {part(2) + 19'000, 900, local.lkey};
        }
    }
    void check_guards() const {
        for (size_t i = 0; i < 4; ++i) {
            const auto* at = memory.data() + i * (region_size + guard);
            if (!std::all_of(at, at + guard, [](std::byte b) { return b == std::byte{0x5a}; })) std::abort();
        }
    }
};

// FPDUs whose fields are near what would be right: `script` decides how near.
std::vector<std::byte> write_script(Input& in, Side& side, const iwarp::Stream& stream) {
    std::vector<std::byte> out;
    uint32_t send_msn = 1, read_msn = 1;
    uint64_t sink_progress = 0;
    while (!in.empty() && out.size() < 70'000) {
        wire::Segment s;
        const uint8_t what = in.byte(), how = in.byte();
        s.opcode = static_cast<wire::Rdmap>(what & 7);
        s.tagged = s.opcode == wire::Rdmap::write || s.opcode == wire::Rdmap::read_response;
        s.last = !(how & 1);
        s.payload_length = how & 2 ? (in.byte() << 8 | in.byte()) % 65'000 : in.byte() * (how & 4 ? 32u : 1u);
        if (s.tagged) {
            s.stag = how & 8 ? in.word() : side.writable.rkey;
            s.offset = side.writable.remote_offset + (how & 16 ? in.word() : in.byte());
            if (s.opcode == wire::Rdmap::read_response && !stream.outbound_reads.empty()) {
                const auto& read = stream.outbound_reads[stream.outbound_reads.begin_number()];
                if (!(how & 8)) s.stag = read.sink_stag;
                s.offset = read.sink_offset + sink_progress + (how & 16 ? in.byte() : 0);
                if (how & 32)
                    s.payload_length = sink_progress < 900 ? static_cast<uint32_t>(900 - sink_progress) : 0,
                    s.last = true;
                sink_progress += s.payload_length;
            }
        } else {
            s.queue = how & 8                                 ? in.byte()
                      : s.opcode == wire::Rdmap::read_request ? 1
                      : s.opcode == wire::Rdmap::terminate    ? 2
                                                              : 0;
            s.msn = how & 16 ? in.word() : s.queue == 1 ? read_msn++ : send_msn;
            s.offset = how & 32 ? in.word() : 0;
            s.stag = how & 64 ? side.writable.rkey : in.byte();
            if (s.queue == 0 && s.last) ++send_msn;
        }
        if (s.opcode == wire::Rdmap::read_request && !(how & 64)) s.payload_length = 28, s.last = true;
        std::byte header[20];
        const size_t begin = out.size(), size = wire::build_segment(s, header);
        out.insert(out.end(), header, header + size);
        std::vector<std::byte> payload(s.payload_length, std::byte{what});
        if (s.opcode == wire::Rdmap::read_request && payload.size() == 28) {
            wire::build_read_request({in.word(), in.byte(), what & 128 ? in.word() : in.byte() * 16u,
                                      what & 64 ? in.word() : side.readable.rkey,
                                      side.readable.remote_offset + (what & 32 ? in.word() : in.byte())},
                                     payload.data());
        }
        out.insert(out.end(), payload.begin(), payload.end());
        while ((out.size() - begin) % 4) out.push_back(std::byte{0});
        iwarp::Crc32c crc;
        crc.add(&out[begin], out.size() - begin);
        std::byte trailer[4];
        crc.store(trailer);
        out.insert(out.end(), trailer, trailer + 4);
    }
    return out;
}

void fuzz_stream(Input in, uint8_t state) {
    Side side;
    iwarp::Stream stream{.regions = side.regions, .receives = side.receives, .sends = side.sends};
    stream.crc = state & 1;
    stream.ird = 2;
    stream.ord = 2;
    stream.mulpdu = state & 2 ? wire::max_mulpdu : 1442;
    stream.may_send = state & 4;
    static iwarp::ReceiveStaging staging;
    static iwarp::BatchPool batches;
    Ends ends(side.sends);
    iwarp::Receiver receiver(stream, ends, staging);
    iwarp::Transmitter transmitter(stream, batches);
    Swallow sink;
    sink.step = 1 + in.byte() * 97u;
    if (state & 4) transmitter.turn(sink);  // the two reads are outstanding

    Feed feed;
    feed.step = 1 + in.byte() * (state & 8 ? 1u : 700u);
    if (state & 16) {
        feed.bytes = write_script(in, side, stream);
    } else {
        const auto* bytes = reinterpret_cast<const std::byte*>(in.data());
        feed.bytes.assign(bytes, bytes + in.left());
    }
    feed.step = std::max(feed.step, feed.bytes.size() / 500);
    const size_t deregister_at = state & 32 ? feed.bytes.size() / 2 : ~size_t{0};
    for (int turns = 0; turns < 100'000; ++turns) {
        const auto turn = receiver.turn(feed);
        side.check_guards();
        if (turn == iwarp::Receiver::Turn::fault) {
            std::byte out[128];
            iwarp::build_terminate_fpdu(receiver.fault().violation, 0, receiver.fault_header(), stream.crc,
                                        out);
            return;
        }
        if (turn == iwarp::Receiver::Turn::end_of_stream || turn == iwarp::Receiver::Turn::io_error) return;
        if (feed.at >= deregister_at) {
            transmitter.on_deregistered(side.regions.remove(side.readable));
            side.regions.remove(side.writable);
        }
        if (transmitter.turn(sink) == iwarp::Transmitter::Turn::fault) return;
    }
}

void fuzz_handshake(Input in, bool as_request) {
    const auto* bytes = reinterpret_cast<const std::byte*>(in.data());
    const auto kind = as_request ? wire::MpaKind::request : wire::MpaKind::reply;
    size_t size = 0;
    const auto frame = wire::parse_mpa(kind, {bytes, in.left()}, &size);
    if (!frame) return;
    if (size > in.left() || frame->private_data.size() > 512) std::abort();
    std::array<std::byte, wire::mpa_max_frame> out;
    const iwarp::Wishes wishes{.crc = false, .ird = 32, .ord = 8};
    if (as_request) {
        if (iwarp::judge_request(*frame) != iwarp::Verdict::acceptable) return;
        const auto answer = iwarp::make_reply(*frame, wishes, {});
        const size_t reply_size = wire::build_mpa(answer.reply, out);
        // What we answer, we would take.
        if (!wire::parse_mpa(wire::MpaKind::reply, std::span(out).first(reply_size), nullptr)) std::abort();
        if (answer.agreement.ird > 32 || answer.agreement.ord > 8) std::abort();
        wire::build_mpa(iwarp::make_rejection(*frame, {}), out);
    } else if (const auto agreement = iwarp::judge_reply(*frame, wishes, 2)) {
        if (agreement->ird > 128 || agreement->ord > 8) std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input in(data, size);
    const uint8_t state = in.byte();
    if (state >= 0xfe) {
        fuzz_handshake(in, state & 1);
    } else {
        fuzz_stream(in, state);
    }
    return 0;
}
