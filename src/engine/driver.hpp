// Driver: one SMBDIRECT connection of a program. It ties together the MS-SMBD state machine
// (connection::Connection), the transport (fabric::Endpoint), the program's shared memory and the readiness
// mirror, and owns all four.
//
// Everything happens in turns: whatever event comes first (completions, the doorbell, a timer), turn() looks
// at all of the connection, once, in one order: take what arrived, take back what the program consumed,
// publish, grant, send.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "connection/connection.hpp"
#include "engine/counters.hpp"
#include "engine/extents.hpp"
#include "engine/inbound.hpp"
#include "engine/private_ring.hpp"
#include "engine/registered_area.hpp"
#include "engine/settings.hpp"
#include "engine/slots.hpp"
#include "engine/spin_guard.hpp"
#include "engine/trace_writer.hpp"
#include "fabric/fabric.hpp"
#include "session/readiness.hpp"
#include "smb2/client_channels.hpp"
#include "smb2/compound_guard.hpp"
#include "smb2/server_channels.hpp"

namespace smbdirect::engine {

class Driver;

// What a driver tells its owner. May destroy the driver only later (EventLoop::defer).
class DriverEvents {
  public:
    // Passive side: a valid Negotiate Request arrived; the memory and B stand. Answer with Driver::proceed()
    // once the program has been told, or refuse().
    virtual void on_ready_to_accept(Driver*) = 0;
    virtual void on_gone(Driver*) = 0;  // nothing is left to do; called once

  protected:
    ~DriverEvents() = default;
};

struct DriverContext {
    fabric::EventLoop* loop;
    const Settings* settings;
    Counters* counters;
    TraceWriter* trace;
    SpinGuard* spin_guard;
    uint64_t engine_id;
};

class Driver final : public fabric::EndpointEvents, public fabric::Watcher, private fabric::Poller {
  public:
    Driver(const DriverContext&, DriverEvents*, uint64_t id);
    ~Driver();
    Driver(const Driver&) = delete;
    Driver& operator=(const Driver&) = delete;

    // Active side. `a` receives the program's descriptor (the caller's to pass and close).
    Result<void> start_connect(fabric::Fabric*, const fabric::ConnectParameters&,
                               const sockaddr_storage& peer_shown, uint32_t face, int* a);
    // Passive side: takes the endpoint of a connection request.
    Result<void> start_accept(std::unique_ptr<fabric::Endpoint>, const fabric::PrivateData& peer,
                              const sockaddr_storage& local_shown, uint32_t face);
    // Passive side, after on_ready_to_accept: a mirror pair whose A goes to the program by claim, or B alone,
    // connected to an AF_UNIX listener.
    Result<void> make_pair(bool connecting, int* a);
    void adopt_b(int b);
    void proceed();  // send the Negotiate Response
    void refuse(Error);
    void give_up(Error);  // after a start_accept() that failed: nothing more comes of it

    uint64_t id() const { return id_; }
    int memfd() const { return memfd_; }
    const session::ConnectionMemory* memory() const { return view_.memory; }
    sockaddr_storage remote_address() const {
        return endpoint_ ? endpoint_->remote_address() : sockaddr_storage{};
    }
    bool is_held() const { return mirror_.b() >= 0 && !mirror_.hung_up(); }  // by a program
    bool established() const { return core_ && core_->state() == connection::State::established; }
    void sweep();  // once a second: idle memory goes back, dead lock owners are noticed

    // EndpointEvents, Watcher
    void on_established(const fabric::PrivateData& peer) override;
    void on_completions() override;
    void on_disconnected(Error) override;
    void on_ready(uint32_t epoll_events) override;

  private:
    struct SendEntry {                   // of a work request on the send queue; what its completion sets free
        uint64_t transmit_end = 0;       // the program's ring is free up to here,
        uint64_t rewritten_end = 0;      // and the ring of rewritten messages up to here
        Inbound* fetched_for = nullptr;  // an RDMA Read of this message
    };
    // Of the message at the head of the program's stream.
    enum class Stage : uint8_t { none, look, reply, channel_read, channel_write, stream, rewritten };

    // driver.cpp: life
    Result<void> create_memory(bool accepted, uint32_t face);
    Result<void> register_private_buffers();
    void fit_to_wire();
    void create_core(connection::Role, const fabric::PrivateData& peer);
    uint8_t abilities() const;
    void settle_established();
    void attach_mirror(int b);
    void turn();
    bool may_rest();
    bool look() override { return mirror_.has_news(); }
    bool arm() override { return mirror_.b() >= 0 && mirror_.end_turn(); }
    void on_found() override { turn(); }
    bool work();
    void look_at_program();
    void arm_timer();
    void arm_push_timer();
    void on_timer();
    void spin_after_small_messages(uint64_t moved_before);
    bool answer_sends_after_end();
    bool stream_is_cut_off();

    // driver_end.cpp
    bool begin_end(Error);
    void fail_by_program(Reason);
    void fail(Error);             // this side ends it: the peer is disconnected, the program sees `error`
    void end_for_program(Error);  // publishes the end to the program
    void reset_peer(uint32_t at_most_ms = UINT32_MAX);
    void drop_mirror();
    void arm_close_timer(uint32_t at_most_ms = UINT32_MAX);  // and at most the settings' close_timeout_ms
    void finish_when_drained();
    bool both_halves_are_over() const;
    void hang_up();
    void end_stream_or_disconnect(bool whole);
    void tell_end_of_stream();
    void tell_drained();
    void finish();

    // driver_trace.cpp
    void trace_line(const char* what, Error);
    void trace_violation();
    void trace_negotiated();
    void trace_received(const connection::Delivery&, uint32_t length);
    void trace_sent(const connection::OutgoingMessage&);
    void trace_stall();
    void trace_channel(const smb2::TranslatedRequest&);
    void trace_unused(smb2::Unused);
    void trace_rdma(const char* what, const smb2::Descriptor& remote);
    void trace_client_channel(std::span<const smb2::Descriptor> buffer);

    // driver_receive.cpp
    Result<void> post_negotiate_receive();
    Result<void> prepare_receive_area();
    void take_completions();
    void take_receive(const fabric::Completion&);
    void take_negotiate_message(const fabric::Completion&);
    void settle_sizes();
    void adjust_window();
    void replenish();
    bool post_slot(uint32_t slot);
    void give_back_idle_memory();
    void drop_idle_receive();
    // Where the program has read all of what waits for it, which a HUP may wait for.
    uint64_t last_byte_read() const {
        return write_shut_ && slots_.published_count() != 0 ? slots_.head() : UINT64_MAX;
    }
    // Once the peer is gone: messages that wait for nothing but memory.
    bool more_is_to_come() const { return !inbound_.empty() && !inbound_.front().is_fetched(); }
    // Where it has read half: news, when memory is short.
    uint64_t half_read() const { return slots_.tail() + (slots_.published_count() + 1) / 2; }

    // driver_inbound.cpp: messages of the peer that are looked at, and put together, before the program sees
    // them
    void prepare_channels();
    void take_payload(uint32_t slot, const connection::Delivery&);
    void judge_message(std::span<const std::byte> start);
    void finish_gathered(uint32_t slot, const connection::Delivery&);
    bool take_client_reply(std::span<const std::byte> start, bool* taken);
    void deliver(const session::ReceiveDescriptor&, uint32_t block);
    void enqueue_slot(uint32_t slot, const connection::Delivery&);
    void enqueue_message(smb2::TranslatedRequest, uint32_t message_length);
    void enqueue_gathered();
    bool place(Inbound&);
    bool pump_inbound();
    void post_fetches();
    void publish(const session::ReceiveDescriptor&, uint32_t block);
    void note_unused(std::span<const std::byte> start, uint32_t length);
    uint32_t take_extent(uint32_t bytes, bool registered, uint32_t kept = 0);
    void drop_idle_extents();
    uint32_t extent_offset(uint32_t extent) const { return extent_base_ + Extents::offset_of(extent); }

    // driver_send.cpp
    bool take_program_stream();
    bool send_program_stream();
    void register_transmit();
    bool is_short_of_memory() const;
    bool drop_idle_transmit();
    std::array<uint8_t, 4> four_bytes_at(uint64_t position) const;
    bool take_length_header();
    bool announce_next();
    bool announce(Stage, uint32_t length, uint32_t available, std::optional<uint32_t> token);
    bool announce_stream(std::optional<uint32_t> token);
    void pump();
    bool post(const connection::OutgoingMessage&);
    size_t stream_pieces(uint64_t start, uint32_t length, std::span<fabric::Sge> out) const;
    void copy_from_stream(uint64_t position, std::span<std::byte> to) const;
    void consumed_to(uint64_t position);
    bool post_rdma(fabric::Opcode, const fabric::Sge& local, const smb2::Descriptor& remote,
                   const SendEntry&);
    bool post_work(fabric::SendRequest, const SendEntry&);
    void complete_send(const fabric::Completion&);
    bool has_room_for_work(size_t reserve) const { return send_head_ - send_tail_ + reserve < sends_.size(); }
    bool message_pending() const { return stage_ != Stage::none; }
    uint32_t message_length() const { return static_cast<uint32_t>(message_end_ - message_start_); }
    uint32_t message_bytes_there() const {
        return static_cast<uint32_t>(std::min(transmit_registered_, message_end_) - message_start_);
    }

    // driver_rewrite.cpp: messages of the program that are not sent as they are
    bool look_at_message();
    bool look_at_reply(std::span<const std::byte> start);
    bool look_at_request(std::span<const std::byte> start);
    bool walk_reply();
    bool push(uint32_t length);
    bool gather_client_write();
    bool start_client_transfer();
    bool announce_rewritten(std::span<const std::byte> message, std::optional<uint32_t> token);

    std::byte* header_of_slot(uint32_t slot) {
        return private_.data() + receive_headers_ + slot * kHeaderStride;
    }
    std::byte* header_of_send(uint32_t index) {
        return private_.data() + send_headers_ + index * kHeaderStride;
    }

    static constexpr uint64_t kMostForSpinning = 4;  // connections open; two ends of one exchange are two
    static constexpr size_t kHeaderStride = 32;
    static constexpr size_t kNegotiateBuffer = 512;  // [MS-SMBD] 3.1.4.1
    static constexpr uint64_t kNegotiateWrId = UINT64_MAX;
    static constexpr size_t kSendsKept = 8;  // of the send queue: for messages, beside RDMA Reads and Writes
    static constexpr size_t kMostHeldBack = 64;  // messages that wait for memory; then no more are asked for
    static constexpr uint32_t kMostInOneRdma = 1u << 20;  // bytes
    // In front of an extent's payload, which so begins at a cache line: for the header of its message.
    static constexpr uint32_t kHeaderRoom = 128;

    const DriverContext context_;
    DriverEvents* const events_;
    const uint64_t id_;

    std::unique_ptr<fabric::Endpoint> endpoint_;
    std::optional<connection::Connection> core_;
    connection::Settings core_settings_;
    session::ConnectionView view_;
    sockaddr_storage local_shown_{};
    uint32_t face_ = 6;
    std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // expires with us: for deferred tasks
    int memfd_ = -1;
    session::EngineMirror mirror_;

    // private buffers: negotiate receive, header per slot, header per send
    std::vector<std::byte> private_;
    size_t receive_headers_ = 0, send_headers_ = 0;
    uint32_t max_slots_ = 0;
    fabric::MemoryRegion private_region_;
    RegisteredArea receive_area_, transmit_area_;

    // receive
    SlotLedger slots_;
    uint32_t slot_size_ = 0;
    uint64_t bytes_published_ = 0;
    uint32_t usual_length_ = 0;  // of a message of the peer
    uint32_t ceiling_ = 0, initial_ceiling_ = 0, ceiling_max_ = 0;
    bool received_since_sweep_ = false;

    // messages on their way to the program, in the order in which they came; the first may wait for RDMA
    // Reads
    std::deque<Inbound> inbound_;
    Assembly assembly_ = Assembly::direct;  // of the message that is arriving
    std::vector<std::byte> gathered_;
    uint32_t arriving_length_ = 0;
    smb2::CompoundGuard compound_guard_;
    std::optional<smb2::ServerChannels> server_channels_;
    std::optional<smb2::ClientChannels> client_channels_;
    Extents extents_;
    uint32_t extent_base_ = 0;  // in the receive area
    RegisteredArea extent_area_;
    uint32_t reads_outstanding_ = 0, inbound_unplaced_ = 0;
    uint8_t unused_noted_ = 0;  // bits by smb2::Unused
    bool extents_used_since_sweep_ = false;

    // send
    Stage stage_ = Stage::none;
    PrivateRing rewritten_;
    uint64_t rewritten_start_ = 0;               // of the announced message in it
    std::array<std::byte, smb2::kLook> look_{};  // the start of the program's message
    uint32_t look_length_ = 0;
    uint32_t client_extent_ = Extents::kNone;  // of the program's request
    uint32_t client_amount_ = 0, client_copied_ = 0;
    std::vector<SendEntry> sends_;  // a ring of send_queue entries
    uint64_t send_head_ = 0, send_tail_ = 0;
    uint64_t transmit_head_ = 0;             // the program's head as last copied and checked
    uint64_t message_start_ = 0;             // stream position of the payload of the announced message
    uint64_t message_end_ = 0;               // stream position behind it
    std::optional<uint32_t> program_token_;  // explicit face: to be invalidated by the next message
    uint64_t transmit_released_ = 0, last_transmit_end_ = 0;
    bool stream_lost_ = false;  // something of the program's stream was posted and never arrived
    uint64_t transmit_head_at_sweep_ = 0;
    uint64_t transmit_registered_ = 0;        // the transport can read the stream up to here
    std::optional<Reason> transmit_refused_;  // and why no further

    uint64_t timer_ = 0;
    fabric::Nanoseconds timer_deadline_ = 0;
    uint64_t close_timer_ = 0, push_timer_ = 0;
    bool passive_ = false, own_kind_ = false, held_ = false;  // held_: the response waits for proceed()
    bool peer_gone_ = false;                                  // on_disconnected came, or we cut it
    bool program_gone_ = false;                               // the last holder of A closed it
    bool program_told_ = false;                               // the end was published
    bool disconnecting_ = false, finished_ = false, in_turn_ = false, counted_open_ = false;
    std::optional<Error> end_to_tell_;                   // to the program, by the peer: not yet
    bool peer_ended_ = false, stream_end_told_ = false;  // its stream: it came, the program knows
    bool stream_closed_ = false;  // transmit_head_ is its end, whatever the program writes there
    bool write_shut_ = false, sweep_due_ = false, b_has_news_ = true;
};

}  // namespace smbdirect::engine
