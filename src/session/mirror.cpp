#include <sys/un.h>

#include "session/mirror_protocol.hpp"
#include "session/names.hpp"

namespace smbdirect::session {
namespace {

using Steps = MirrorSteps<Correct>;

bool stuff(int a) {
    return raw::send(a, kStuffingJunk.byte, kStuffing) == kStuffing && raw::send(a, &kRing, 1) == 1;
}

bool out_is_on(int a) { return (raw::poll_one(a, POLLOUT, 0) & POLLOUT) != 0; }

bool prepare(int a) {
    int size = mirror_send_buffer();
    if (size == 0) return false;
    long done = raw::set_option(a, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (done == 0) done = raw::send(a, &kRing, 1);
    return done == 1 ? true : raw::failed(done < 0 ? done : -EPROTO);
}

// Poison and doorbell leave OUT on, stuffing alone (a doorbell's read may have taken the old poison) switches
// it off, and with everything but one byte read it is on again.
bool send_buffer_fits(int size) {
    int pair[2];
    if (raw::socket_pair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, pair) < 0) return false;
    char bytes[kStuffing + 2];
    bool fits = raw::set_option(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0 &&
                raw::send(pair[0], &kRing, 1) == 1 && raw::send(pair[0], &kRing, 1) == 1 &&
                out_is_on(pair[0]) && stuff(pair[0]) && !out_is_on(pair[0]) &&
                raw::receive(pair[1], bytes, 2) == 2 && !out_is_on(pair[0]) &&
                raw::receive(pair[1], bytes, kStuffing) == kStuffing && out_is_on(pair[0]) &&
                stuff(pair[0]) && stuff(pair[0]);  // and there is room for two of them
    raw::close(pair[0]);
    raw::close(pair[1]);
    return fits;
}

int measure_send_buffer() {
    int first = 0, last = 0;  // the middle of what fits has the most to spare either way
    for (int size = 2304; size <= 32768; size += 256) {
        if (send_buffer_fits(size)) {
            if (!first) first = size;
            last = size;
        } else if (first) {
            break;
        }
    }
    return (first + last) / 2;
}

int bind_to(int fd, const Name& name) { return static_cast<int>(raw::bind(fd, &name.address, name.length)); }

}  // namespace

int mirror_send_buffer() {
    static std::atomic<int> measured{0};
    int size = measured.load(std::memory_order_relaxed);
    if (size == 0) {
        size = measure_send_buffer();
        if (size == 0) errno = ENOTSUP;
        measured.store(size, std::memory_order_relaxed);
    }
    return size;
}

bool make_mirror_pair(ConnectionMemory* memory, bool connecting, MirrorPair* pair) {
    int ends[2];
    long made = raw::socket_pair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ends);
    if (made < 0) return raw::failed(made);
    long done = bind_to(ends[0], mirror_name(memory->engine_id, memory->connection_id, 'a'));
    if (done == 0) done = bind_to(ends[1], mirror_name(memory->engine_id, memory->connection_id, 'b'));
    if (done == 0 && !prepare(ends[0])) done = -errno;
    if (done == 0 && connecting && !stuff(ends[0])) done = -ENOBUFS;
    if (done < 0) {
        raw::close(ends[0]);
        raw::close(ends[1]);
        return raw::failed(done);
    }
    memory->stuffed.store(connecting ? 1 : 0);
    *pair = {ends[0], ends[1]};
    return true;
}

bool adopt_accepted_end(int a) { return prepare(a); }

// ---------------------------------------------------------------- EngineMirror

void EngineMirror::attach(const ConnectionView& view, int b) {
    ConnectionMemory& m = *view.memory;
    state_ = {};
    state_.view = view;
    state_.b = b;
    state_.hold_out = m.stuffed.load() != 0;
    state_.transmit_tail = m.transmit_tail.load();
    state_.receive_head = m.receive_head.load();
}

bool EngineMirror::begin_turn(bool b_has_news) { return Steps::begin_turn(state_, b_has_news); }
bool EngineMirror::end_turn() { return Steps::end_turn(state_); }
bool EngineMirror::has_news() { return state_.b >= 0 && Steps::something_new(state_); }
void EngineMirror::announce(uint64_t head, uint64_t bytes) { Steps::announce(state_, head, bytes); }
void EngineMirror::release(uint64_t transmit_tail) { Steps::release(state_, transmit_tail); }
bool EngineMirror::sweep() { return Steps::sweep(state_); }

bool EngineMirror::read_transmit_head(uint64_t* head) const {
    uint64_t found = state_.view.memory->transmit_head.load(std::memory_order_acquire);
    if (found - state_.transmit_tail > state_.view.transmit_size) return false;
    if (found < state_.transmit_head_seen) return false;
    *head = state_.transmit_head_seen = found;
    return true;
}

bool EngineMirror::read_receive_tail(uint64_t* tail) const {
    uint64_t found = state_.view.memory->receive_tail.load(std::memory_order_acquire);
    if (found > state_.receive_head || found < state_.receive_tail_seen) return false;
    *tail = state_.receive_tail_seen = found;
    return true;
}

void EngineMirror::request_return_at(uint64_t receive_tail) {
    state_.return_mark = receive_tail;
    state_.view.memory->return_mark.store(receive_tail,
                                          std::memory_order_seq_cst);  // end_turn() looks once more
}

void EngineMirror::switch_out_on() {
    state_.hold_out = false;
    Steps::unstuff(state_, true);
}

void EngineMirror::end_of_stream() {
    if (state_.b < 0 || state_.ended) return;
    state_.ended = true;  // A stays readable from here on: no more tokens
    raw::shut_down(state_.b, SHUT_WR);
}

void EngineMirror::close_orderly() {
    if (state_.b < 0) return;
    raw::shut_down(state_.b,
                   SHUT_RDWR);  // first, or a doorbell could arrive between the last read and the close
    unsigned char buffer[2048];
    while (raw::receive(state_.b, buffer, sizeof buffer) > 0) {
    }
    raw::close(state_.b);
    state_.b = -1;
}

void EngineMirror::close_reset() {
    if (state_.b < 0) return;
    raw::close(state_.b);
    state_.b = -1;
}

bool EngineMirror::hung_up() const {
    return state_.b < 0 || (raw::poll_one(state_.b, 0, 0) & (POLLHUP | POLLERR)) != 0;
}

}  // namespace smbdirect::session
