// The listeners of programs, and how an arrival on the fabric reaches accept().
//
// A listener "beside" TCP stays the program's true TCP listener: the engine knocks on it with a loopback
// connection whose source address it published first in a table that the library can see; the interposed
// accept() recognises the knock, claims the connection and gets A for it. A listener that is SMBDIRECT only
// is an AF_UNIX listener that the engine made; the engine connects to it, and the accepted end is A.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "engine/driver.hpp"
#include "engine/listening.hpp"
#include "fabric/fabric.hpp"
#include "session/memory.hpp"
#include "session/messages.hpp"

namespace smbdirect::engine {

class ListenerTable;

// Tells somebody who outlives the engine about listeners (monitor.hpp).
class ListenerKeeper {
  public:
    virtual void keep(const ListenerRecord&, int rdma_socket, int knock_memfd) = 0;
    virtual void drop(uint64_t id) = 0;

  protected:
    ~ListenerKeeper() = default;
};

// One knock, from the publication of its source to the claim.
class Knock;

struct ProgramListener final : fabric::Watcher {
    ProgramListener(ListenerTable* owner, fabric::EventLoop* loop) : table_of_listeners(owner), loop(loop) {}
    ~ProgramListener();
    void on_ready(uint32_t) override;  // the process that registered it has ended

    ListenerTable* const table_of_listeners;
    fabric::EventLoop* const loop;
    ListenerRecord record;
    std::shared_ptr<fabric::ListenerEvents> arrivals;
    std::unique_ptr<Listening> listening;
    session::KnockTable* table = nullptr;
    int knock_memfd = -1;
    int registrar = 0;          // the process that registered it, in whose trace refused arrivals are told
    int inherited_socket = -1;  // the RDMA port, from a predecessor of this engine
    int pid_fd =
        -1;  // of the process that registered it: its death makes us look whether the listener is still there
    bool orphaned = false;  // that process is gone and others hold it: looked at now and then
};

class ListenerTable {
  public:
    struct Made {
        uint64_t id = 0;
        int fd = -1;  // knock memfd (the table's; do not close) or the AF_UNIX listener (the caller's)
        uint16_t rdma_port = 0;
        sockaddr_storage address{};
    };

    ListenerTable(const DriverContext&, const Fabrics&, std::function<Driver*()> make_driver,
                  ListenerKeeper* keeper);
    ~ListenerTable();

    Result<Made> listen_beside(int tcp_listener, const session::Request&, int pid);
    Result<Made> listen_only(const session::Request&, int pid);
    void restore(const ListenerRecord&, int rdma_socket, int knock_memfd);
    // A process closed it or died: is it still there?
    void look_whether_gone(uint64_t id);
    void sweep();
    void follow_addresses();

    // A driver has a valid Negotiate Request: announce it to the program of the listener that it arrived on.
    void announce(Driver*);
    void forget(Driver*);
    struct Claimed {
        Driver* driver = nullptr;
        int a = -1;
    };
    Result<Claimed> claim(uint64_t listener_id, uint64_t ticket);

    size_t size() const { return listeners_.size(); }
    const ListenerRecord* record(uint64_t id);  // null: unknown

  private:
    friend class Knock;
    class Arrivals;  // fabric::ListenerEvents of one listener

    ProgramListener* find(uint64_t id);
    Result<void> open(ProgramListener*, int inherited_fd);
    void look_at_all(bool orphaned_only);
    void remove(uint64_t id);
    bool may_arrive(const sockaddr_storage& peer) const;
    void knock(ProgramListener*, Driver*);
    void knock_for_waiting();
    void connect_unix(ProgramListener*, Driver*, int attempts_left);
    void end_knock(Knock*);
    void watch_registrar(ProgramListener*, int pid);

    const DriverContext context_;
    const Fabrics fabrics_;
    std::function<Driver*()> make_driver_;
    ListenerKeeper* const keeper_;
    std::map<uint64_t, std::unique_ptr<ProgramListener>> listeners_;
    std::map<Driver*, uint64_t> listener_of_;  // drivers not yet taken by a program
    std::list<std::unique_ptr<Knock>> knocks_;
    std::deque<Driver*> waiting_;  // for a free entry in the knock table of their listener
};

}  // namespace smbdirect::engine
