// One end of a simulated connection: our Connection with a random driver and a random program around it, or a
// model of another implementation. What one gives, the other takes, in order and without loss, as a queue
// pair does.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>

#include "connection/connection.hpp"
#include "support/bytes.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::test {

using connection::Connection;
using connection::Nanoseconds;
using connection::Role;
using connection::Settings;
using connection::State;

constexpr Nanoseconds kSecond = 1'000'000'000;

// A property does not hold. The runner adds the seed.
struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};
inline void hold(bool property, const char* what) {
    if (!property) throw Broken(what);
}

class Node {
  public:
    virtual ~Node() = default;
    virtual void take(const Bytes& message, Nanoseconds now) = 0;
    virtual std::optional<Bytes> give(Nanoseconds now) = 0;
    virtual void stir(Random&) {}  // something local happens, or nothing
    virtual void calm() {}         // the program writes all it has and reads all there is
    virtual void timer(Nanoseconds now) = 0;
    virtual std::optional<Nanoseconds> deadline() const = 0;
    virtual bool dead() const = 0;
    virtual bool established() const = 0;
    virtual bool all_sent() const = 0;
    virtual uint64_t send_credits() const = 0;
    virtual uint64_t receives_posted() const = 0;

    std::deque<Bytes> to_send;  // whole messages, the first may be under way
    std::vector<Bytes> sent, received;

    void send(Bytes message) {
        to_send.push_back(message);
        sent.push_back(std::move(message));
    }
};

class CoreNode : public Node {
  public:
    // `slots`: payload buffers, those posted and those that hold what the program has not read yet.
    CoreNode(Role role, const Settings& settings, uint32_t slots)
        : core(role, settings), slots_(std::max<uint32_t>(slots, core.settings().receive_credit_max)) {
        core.start(0);
    }

    void transport_established(Nanoseconds now) { core.on_transport_established(now); }
    void take(const Bytes& message, Nanoseconds now) override;
    std::optional<Bytes> give(Nanoseconds now) override;
    void stir(Random& random) override;
    void calm() override;
    void timer(Nanoseconds now) override { core.on_timer(now); }
    std::optional<Nanoseconds> deadline() const override { return core.deadline(); }
    bool dead() const override { return core.state() == State::terminated; }
    bool established() const override { return core.state() == State::established; }
    bool all_sent() const override { return to_send.empty(); }
    uint64_t send_credits() const override { return core.send_credits(); }
    uint64_t receives_posted() const override { return core.receives_outstanding(); }

    void write(uint32_t bytes);  // so many more bytes of the head of to_send are there
    void post(uint32_t at_most = ~0U);
    void read(uint32_t slots) { unread_ -= std::min(unread_, slots); }

    Connection core;
    bool reads = true, writes = true;  // the program; stir() and calm() respect it
    bool varies_ceiling = false;
    uint64_t continued = 0;  // fragments without a byte
    uint64_t digest = 0;     // of all that was given

  private:
    void check_given(const connection::OutgoingMessage& message, uint32_t credits_before);

    uint32_t slots_, unread_ = 0;
    uint32_t available_ = 0, handed_out_ = 0;
    Bytes partial_;
    uint32_t expected_length_ = 0;
};

}  // namespace smbdirect::test
