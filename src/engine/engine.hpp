// The engine: everything that one engine process owns, and what a request of the session protocol does with
// it.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "engine/driver.hpp"
#include "engine/listeners.hpp"
#include "engine/settings.hpp"
#include "engine/trace_writer.hpp"
#include "fabric/fabric.hpp"

namespace smbdirect::engine {

struct Peer {  // of the session protocol
    int pid = 0;
    uid_t uid = 0;
};

class Engine final : public DriverEvents {
  public:
    struct Options {
        Settings settings;
        uid_t owner = 0;      // whose engine
        bool system = false;  // serves every uid
        int meeting_socket = -1;
        ListenerKeeper* keeper = nullptr;
        int monitor_pid = 0;
        uint64_t restarts = 0;
    };
    explicit Engine(const Options&);
    ~Engine();

    void restore(const ListenerRecord&, int rdma_socket, int knock_memfd);
    void run();    // until stopped or idle
    void stop() {  // also from a signal handler
        loop_.stop();
        loop_.wake();
    }

    // Requests. Descriptors in the answer are the caller's unless said otherwise.
    struct Answer {
        session::Reply reply;
        int fd[session::kMaxMessageFds] = {-1, -1};
        bool close_fd[session::kMaxMessageFds] = {false, false};
        std::string text;
    };
    Answer answer(const session::Request&, int passed_fd, const Peer&);

    fabric::EventLoop& loop() { return loop_; }
    Counters& counters() { return counters_; }

    void on_ready_to_accept(Driver*) override;
    void on_gone(Driver*) override;

  private:
    Result<void> check_right(const session::Request&, const Peer&) const;
    Result<void> check_port(uint16_t port, const Peer&) const;
    Result<void> answer_connect(const session::Request&, const Peer&, Answer*);
    Result<void> answer_listen(const session::Request&, int passed_fd, const Peer&, Answer*);
    Result<void> answer_claim(const session::Request&, const Peer&, Answer*);
    Result<void> answer_attach(int passed_fd, const Peer&, Answer*);
    Result<void> answer_linger(const session::Request&);
    Result<void> answer_attach_listener(uint64_t id, Answer*);
    Result<void> answer_trace(const session::Request&, const Peer&, Answer*);
    fabric::Fabric* choose_fabric(const session::Request&) const;
    void answer_counters(const session::Request&, Answer*);
    Driver* make_driver();
    void sweep();
    void look_whether_idle();
    void fill_gauges();

    const Options options_;
    const uint64_t id_;
    fabric::EventLoop loop_;
    Counters counters_;
    TraceWriter trace_;
    SpinGuard spin_guard_{&loop_};
    std::unique_ptr<fabric::Fabric> iwarp_, memory_;
    std::unique_ptr<fabric::VerbsFabric> verbs_;
    DriverContext context_;
    std::unique_ptr<ListenerTable> listeners_;
    std::unordered_map<uint64_t, std::unique_ptr<Driver>> drivers_;
    std::unique_ptr<class SessionServer> server_;
    uint64_t sweep_timer_ = 0;
    fabric::Nanoseconds started_ = 0, idle_since_ = 0;
};

}  // namespace smbdirect::engine
