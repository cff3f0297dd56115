// The seam between the engine and a transport, in the language of verbs. An Endpoint is one RDMA connection:
// a connection identifier, a queue pair of its own (send queue, receive queue, one completion queue) and a
// protection domain of its own; nothing is shared between endpoints, so keys and buffers of one peer are
// unreachable for another.
//
// Threading: an endpoint, its listener and its EndpointEvents belong to one EventLoop and are only touched on
// its thread. Calls never block. Events are delivered from the loop, never from inside a call into the
// endpoint.
//
// Buffer ownership: what a posted work request points to belongs to the endpoint until its completion was
// polled, or until the endpoint was destroyed. After a failure every outstanding request completes with
// Status::flushed, so that every buffer comes back exactly once.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.hpp"
#include "fabric/event_loop.hpp"

namespace smbdirect::fabric {

// What this endpoint can do; fixed once it is established.
struct Limits {
    uint32_t max_sge = 1;       // elements in one work request
    uint32_t max_read_sge = 1;  // elements in the sink of one RDMA Read
    uint32_t max_send_wr = 1;   // work requests outstanding on the send queue
    uint32_t max_recv_wr = 1;   // receives outstanding
    uint32_t max_inline = 0;    // bytes that post_send() copies at once, without a registration
    uint32_t max_message = 0;   // bytes in one message of any kind
    uint32_t preferred_message =
        0;                // bytes of a Send that the wire carries best (one FPDU, say); 0 = no preference
    uint8_t max_ird = 0;  // inbound RDMA Reads that we serve at once
    uint8_t max_ord = 0;  // outbound RDMA Reads at once, after negotiation with the peer
    bool send_with_invalidate = false;          // we may send it
    bool remote_invalidate_registered = false;  // a peer may invalidate what register_memory() returned
    bool keep_write_source_until_completion =
        false;  // transmits by reference: the source must not change before completion
    // A registration pins its pages, which is limited and takes time: register what is used, in pieces of
    // about so many bytes. 0: a registration costs nothing.
    uint32_t registration_unit = 0;
    uint64_t lockable = UINT64_MAX;  // bytes that this process may pin in all
};

enum Access : uint32_t {  // besides local read and write, which every registration has
    access_none = 0,
    access_remote_read = 1,
    access_remote_write = 2,
    access_read_sink = 4,  // local sink of RDMA Reads: on iWARP that needs a right of its own
};

struct MemoryRegion {
    uint64_t handle = 0;  // for deregister_memory(); 0 = none
    uint32_t lkey = 0;
    uint32_t rkey = 0;           // the STag; the Token of a Buffer Descriptor V1 [MS-SMBD] 2.2.3.1
    uint64_t remote_offset = 0;  // what the peer must name as the first byte (Tagged Offset); opaque to it
    size_t length = 0;
};

struct Sge {
    std::byte* address;
    uint32_t length;
    uint32_t lkey;
};

enum class Opcode : uint8_t { send, send_with_invalidate, rdma_write, rdma_read, receive };
enum class Status : uint8_t { success, flushed, local_error, remote_access_error, remote_error };

struct SendRequest {
    uint64_t wr_id = 0;
    Opcode opcode = Opcode::send;
    std::span<const Sge> sges;  // rdma_read: the sink. The span itself is copied, what it points to is not.
    uint32_t invalidate_rkey = 0;  // send_with_invalidate
    uint32_t remote_rkey = 0;      // rdma_write, rdma_read
    uint64_t remote_offset = 0;
};

struct Completion {
    uint64_t wr_id = 0;
    Opcode opcode = Opcode::send;
    Status status = Status::success;
    uint32_t byte_length = 0;  // receive, rdma_read
    bool invalidated = false;  // receive: the peer invalidated invalidated_rkey
    uint32_t invalidated_rkey = 0;
};

// Private data of the connection request or reply, at most 56 bytes in a request (the least of all fabrics).
struct PrivateData {
    std::array<std::byte, 196> bytes{};
    uint8_t length = 0;
    std::span<const std::byte> view() const { return {bytes.data(), length}; }
};

class Endpoint;

class EndpointEvents {
  public:
    // The connection stands; private data is the peer's reply (initiator). Sends may be posted from now on. A
    // receive completion may overtake this event.
    virtual void on_established(const PrivateData& peer) = 0;
    // Something can be polled. Edge: called once, again only after poll() returned less than it had room for.
    virtual void on_completions() = 0;
    // Called once: the connection could not be made, or it ended. Posted work is flushed; poll() returns it,
    // and nothing but the caller touches the memory of posted work any more.
    // errnum is what TCP would report: 0 for an orderly end by the peer, ECONNREFUSED, ECONNRESET, ETIMEDOUT,
    // ...
    virtual void on_disconnected(Error error) = 0;

  protected:
    ~EndpointEvents() = default;
};

// The RDMA port of an address is what its sockaddr has on iWARP, and on InfiniBand and RoCE too unless
// `ib_port` names another one: SMB Direct is 5445 on the former and 445 on the latter [MS-SMBD] 1.9.
struct ConnectParameters {
    sockaddr_storage local{};  // ss_family AF_UNSPEC: any
    sockaddr_storage remote{};
    uint16_t ib_port = 0;  // host byte order
    PrivateData private_data;
    uint8_t ird = 32, ord = 8;                       // what we offer
    uint32_t send_queue = 256, receive_queue = 256;  // wanted depths
    Nanoseconds timeout = 10'000'000'000;            // for the whole of resolution and connection
};

struct AcceptParameters {
    PrivateData private_data;
    uint8_t ird = 32, ord = 8;
};

class Endpoint {
  public:
    virtual ~Endpoint() = default;  // abrupt: no event is delivered any more

    // Passive side, inside or after Listener's on_request: receives may be posted before accept().
    virtual Result<void> accept(const AcceptParameters&, EndpointEvents*) = 0;
    virtual void reject(const PrivateData&) = 0;

    // The bytes must stay mapped until deregistered. Local use needs a registration as well (lkey).
    virtual Result<MemoryRegion> register_memory(std::byte* address, size_t length, uint32_t access) = 0;
    // After this returns no remote access is possible [MS-SMBD] 3.1.4.4.
    virtual void deregister_memory(const MemoryRegion&) = 0;

    // The peer is known to run this same fabric (the engine tells by its private data): what only our own
    // kind takes, such as FPDUs beyond the path's segment size or a reset over verbs, may be used. Call it in
    // on_established(), or before accept().
    virtual void peer_is_own_kind() {}

    // At most limits().max_recv_wr outstanding.
    virtual Result<void> post_receive(uint64_t wr_id, std::span<const Sge>) = 0;
    // Queues; flush() puts all that is queued on the wire. Errors: ENOBUFS (queue full), ENOTCONN, EINVAL.
    virtual Result<void> post_send(const SendRequest&) = 0;
    virtual void flush() = 0;
    // Fills `out` with completions in posting order (per queue); returns how many.
    virtual size_t poll(std::span<Completion> out) = 0;

    // Orderly: what was posted goes out first; on_disconnected follows.
    virtual void disconnect() = 0;
    // Abortive: the peer sees a reset (over verbs one of our own kind, others an orderly end);
    // on_disconnected follows, for which the transport may have to be waited. Called again: at once.
    virtual void abort() = 0;

    virtual const Limits& limits() const = 0;
    virtual sockaddr_storage local_address() const = 0;
    virtual sockaddr_storage remote_address() const = 0;
    virtual const char* fabric_name() const = 0;
    // Bytes posted to the send queue that the peer's transport has not yet acknowledged, where known (for
    // SIOCOUTQ).
    virtual uint64_t unacknowledged_bytes() const = 0;
};

class ListenerEvents {
  public:
    // A connection request. Take the endpoint and accept() or reject() it, now or later; destroying it
    // rejects.
    virtual void on_request(std::unique_ptr<Endpoint> endpoint, const PrivateData& peer) = 0;
    // One that was refused for lack of something that an endpoint needs.
    virtual void on_refused(const sockaddr_storage& /*peer*/, Error) {}

  protected:
    ~ListenerEvents() = default;
};

class Listener {
  public:
    virtual ~Listener() = default;
    virtual sockaddr_storage local_address() const = 0;
    // The listening socket, for a successor of this process to go on with; -1 where there is none.
    virtual int fd() const = 0;
};

struct ListenParameters {
    sockaddr_storage address{};
    uint16_t ib_port = 0;  // as in ConnectParameters
    bool v6_only = true;
    int backlog = 128;
    int inherited_fd = -1;  // listen on this socket instead of opening one; stays the caller's
    uint32_t send_queue = 256, receive_queue = 256;  // wanted depths of the endpoints that arrive
};

class Fabric {
  public:
    virtual ~Fabric() = default;
    virtual std::string_view name() const = 0;
    virtual Result<std::unique_ptr<Listener>> listen(const ListenParameters&, ListenerEvents*) = 0;
    // Errors that are known at once are returned; later ones come through on_disconnected.
    virtual Result<std::unique_ptr<Endpoint>> connect(const ConnectParameters&, EndpointEvents*) = 0;
};

}  // namespace smbdirect::fabric
