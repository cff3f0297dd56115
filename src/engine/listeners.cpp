#include "engine/listeners.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/knock.hpp"
#include "engine/socket_diag.hpp"
#include "fabric/address.hpp"
#include "session/names.hpp"

namespace smbdirect::engine {

using fabric::port_of;
using fabric::same_host;
using fabric::set_port;

ProgramListener::~ProgramListener() {
    if (table) munmap(table, sizeof *table);
    if (knock_memfd >= 0) close(knock_memfd);
    listening.reset();  // uses the inherited socket
    if (inherited_socket >= 0) close(inherited_socket);
    if (pid_fd < 0) return;
    loop->unwatch(pid_fd, this);
    close(pid_fd);
}

void ProgramListener::on_ready(uint32_t) {
    loop->unwatch(pid_fd, this);
    close(pid_fd);
    pid_fd = -1;
    orphaned = true;
    table_of_listeners->look_whether_gone(record.id);  // may destroy us, later
}

// What arrives for one listener.
class ListenerTable::Arrivals final : public fabric::ListenerEvents {
  public:
    Arrivals(ListenerTable* table, ProgramListener* listener) : table_(table), listener_(listener) {}

    void on_request(std::unique_ptr<fabric::Endpoint> endpoint, const fabric::PrivateData& peer) override {
        if (!table_->may_arrive(endpoint->remote_address())) return endpoint->reject({});
        Driver* driver = table_->make_driver_();
        table_->listener_of_[driver] = listener_->record.id;
        // Until a process takes it: an arrival that ends before is told of as well.
        table_->context_.trace->bind_connection(driver->id(), listener_->registrar);
        sockaddr_storage shown = endpoint->local_address();
        set_port(shown, port_of(listener_->record.address));
        if (auto started = driver->start_accept(std::move(endpoint), peer, shown, listener_->record.face);
            !started)
            driver->give_up(started.error());
    }

    void on_refused(const sockaddr_storage& peer, Error error) override {
        ++table_->context_.counters->connections_failed;
        if (!table_->context_.trace->active()) return;
        table_->context_.trace->write_to(
            listener_->registrar,
            fmt::format("an arrival from {} is refused: {}", fabric::text_of(peer), in_words(error)), true);
    }

  private:
    ListenerTable* const table_;
    ProgramListener* const listener_;
};

ListenerTable::ListenerTable(const DriverContext& context, const Fabrics& fabrics,
                             std::function<Driver*()> make_driver, ListenerKeeper* keeper)
    : context_(context), fabrics_(fabrics), make_driver_(std::move(make_driver)), keeper_(keeper) {}

ListenerTable::~ListenerTable() = default;

ProgramListener* ListenerTable::find(uint64_t id) {
    auto it = listeners_.find(id);
    return it == listeners_.end() ? nullptr : it->second.get();
}

const ListenerRecord* ListenerTable::record(uint64_t id) {
    ProgramListener* listener = find(id);
    return listener ? &listener->record : nullptr;
}

Result<void> ListenerTable::open(ProgramListener* listener, int inherited_fd) {
    listener->arrivals = std::make_shared<Arrivals>(this, listener);
    listener->listening = std::make_unique<Listening>(fabrics_, listener->record, listener->arrivals.get());
    auto opened = listener->listening->open(inherited_fd);
    if (opened) return opened;
    const int error = opened.error().errnum;
    const Reason reason = error == EADDRINUSE ? Reason::rdma_port_taken
                          : error == EACCES   ? Reason::rdma_port_denied
                                              : Reason::listen_failed;
    return smbdirect::fail(reason, error);
}

void ListenerTable::follow_addresses() {
    for (auto& [id, listener] : listeners_) {
        const int before = listener->listening->socket();
        listener->listening->follow_addresses();
        if (listener->listening->socket() == before) continue;
        // The keeper holds the port open as well.
        keeper_->drop(id);
        keeper_->keep(listener->record, listener->listening->socket(), listener->knock_memfd);
    }
}

Result<ListenerTable::Made> ListenerTable::listen_beside(int tcp, const session::Request& request, int pid) {
    ListenerRecord record;
    socklen_t length = sizeof record.cookie;
    int listening = 0, v6_only = 0;
    if (getsockopt(tcp, SOL_SOCKET, SO_COOKIE, &record.cookie, &length) != 0)
        return smbdirect::fail(Reason::engine_refused, EINVAL);
    for (auto& [id, listener] : listeners_)
        if (listener->record.kind == ListenerKind::beside && listener->record.cookie == record.cookie)
            return Made{id, listener->knock_memfd, listener->record.rdma_port, listener->record.address};
    length = sizeof listening;
    getsockopt(tcp, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    length = sizeof record.address;
    if (!listening || getsockname(tcp, reinterpret_cast<sockaddr*>(&record.address), &length) != 0 ||
        (record.address.ss_family != AF_INET && record.address.ss_family != AF_INET6))
        return smbdirect::fail(Reason::engine_refused, EINVAL);
    uint64_t cookie_of_namespace = 0;
    length = sizeof cookie_of_namespace;
    if (getsockopt(tcp, SOL_SOCKET, SO_NETNS_COOKIE, &cookie_of_namespace, &length) == 0 &&
        cookie_of_namespace != session::network_namespace_cookie())
        return smbdirect::fail(Reason::listener_other_namespace, EINVAL);
    char device[32] = {};
    length = sizeof device;
    if (getsockopt(tcp, SOL_SOCKET, SO_BINDTODEVICE, device, &length) == 0 && device[0] &&
        std::strcmp(device, "lo") != 0)
        return smbdirect::fail(Reason::listener_bound_to_device, EINVAL);
    length = sizeof v6_only;
    if (record.address.ss_family == AF_INET6 &&
        getsockopt(tcp, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, &length) == 0)
        record.v6_only = v6_only != 0;
    record.face = request.face;
    record.fabric = request.fabric;
    constexpr uint32_t kTcpFace = 6;  // beside TCP, whatever the request says
    const RdmaPorts ports = rdma_ports_for(request.rdma_port, kTcpFace, port_of(record.address));
    record.rdma_port = ports.iwarp;
    record.ib_port = ports.ib;
    if (record.rdma_port == 0) return smbdirect::fail(Reason::rdma_port_overflow, EADDRNOTAVAIL);
    if (getrandom(&record.id, sizeof record.id, 0) != sizeof record.id)
        return smbdirect::fail(Reason::engine_resources);

    look_at_all(false);  // a predecessor that nobody told us has gone
    auto listener = std::make_unique<ProgramListener>(this, context_.loop);
    listener->record = record;
    listener->knock_memfd = session::create_knock_table(record.id, &listener->table);
    if (listener->knock_memfd < 0) return smbdirect::fail(Reason::engine_resources);
    if (auto opened = open(listener.get(), -1); !opened) return std::unexpected(opened.error());
    record = listener->record;
    watch_registrar(listener.get(), pid);
    keeper_->keep(record, listener->listening->socket(), listener->knock_memfd);
    Made made{record.id, listener->knock_memfd, record.rdma_port, record.address};
    listeners_[record.id] = std::move(listener);
    return made;
}

Result<ListenerTable::Made> ListenerTable::listen_only(const session::Request& request, int pid) {
    ListenerRecord record;
    record.kind = ListenerKind::only;
    record.face = request.face;
    record.fabric = request.fabric;
    record.address = request.local;
    record.v6_only = request.v6_only;
    const uint16_t port = port_of(record.address);
    // An explicit 257 socket is taken at its word; a converted one follows the rule of ports.
    const RdmaPorts ports = rdma_ports_for(request.rdma_port, port ? request.face : 0, port);
    record.rdma_port = ports.iwarp;
    record.ib_port = ports.ib;
    if (port && record.rdma_port == 0) return smbdirect::fail(Reason::rdma_port_overflow, EADDRNOTAVAIL);
    if (getrandom(&record.id, sizeof record.id, 0) != sizeof record.id)
        return smbdirect::fail(Reason::engine_resources);
    record.name_engine_id = context_.engine_id;

    look_at_all(false);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto name = session::listener_name(record.name_engine_id, record.id);
    if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&name.address), name.length) != 0 ||
        ::listen(fd, std::max<int>(request.backlog, 1)) != 0) {
        if (fd >= 0) close(fd);
        return smbdirect::fail(Reason::engine_resources);
    }
    auto listener = std::make_unique<ProgramListener>(this, context_.loop);
    listener->record = record;
    if (auto opened = open(listener.get(), -1); !opened) {
        close(fd);
        return std::unexpected(opened.error());
    }
    record = listener->record;
    if (port == 0) set_port(record.address, record.rdma_port);
    listener->record.address = record.address;
    watch_registrar(listener.get(), pid);
    keeper_->keep(record, listener->listening->socket(), -1);
    listeners_[record.id] = std::move(listener);
    return Made{record.id, fd, record.rdma_port, record.address};
}

void ListenerTable::restore(const ListenerRecord& record, int rdma_socket, int knock_memfd) {
    auto listener = std::make_unique<ProgramListener>(this, context_.loop);
    listener->record = record;
    listener->knock_memfd = knock_memfd;
    listener->inherited_socket = rdma_socket;
    if (knock_memfd >= 0 && !session::map_knock_table(knock_memfd, &listener->table))
        return keeper_->drop(record.id);
    if (listener->table) {  // what the predecessor had under way died with it
        for (auto& entry : listener->table->entry) entry.state.store(session::KnockState::free);
        listener->table->knocking.store(0);
    }
    if (!open(listener.get(), rdma_socket)) {
        listener.reset();
        return keeper_->drop(record.id);
    }
    listener->orphaned = true;
    listeners_[record.id] = std::move(listener);
    look_whether_gone(record.id);
}

void ListenerTable::watch_registrar(ProgramListener* listener, int pid) {
    listener->registrar = pid;
    if (pid > 0) listener->pid_fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (listener->pid_fd >= 0)
        context_.loop->watch(listener->pid_fd, EPOLLIN, listener);
    else
        listener->orphaned = true;
}

void ListenerTable::look_whether_gone(uint64_t id) {
    ProgramListener* listener = find(id);
    if (!listener) return;
    bool exists;
    if (listener->record.kind == ListenerKind::beside) {
        exists = tcp_listener_exists(listener->record.address, listener->record.cookie);
    } else {
        // An abstract name is bound as long as a holder of the listener lives.
        const auto name = session::listener_name(listener->record.name_engine_id, id);
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (probe < 0) return;  // a listener is only given up for certain
        exists = bind(probe, reinterpret_cast<const sockaddr*>(&name.address), name.length) != 0 &&
                 errno == EADDRINUSE;
        close(probe);
    }
    if (!exists) remove(id);
}

void ListenerTable::sweep() { look_at_all(true); }

void ListenerTable::look_at_all(bool orphaned_only) {
    std::vector<uint64_t> ids;
    for (auto& [id, listener] : listeners_)
        if (listener->orphaned || !orphaned_only) ids.push_back(id);
    for (auto id : ids) look_whether_gone(id);
}

void ListenerTable::remove(uint64_t id) {
    ProgramListener* listener = find(id);
    if (!listener) return;
    std::vector<Driver*> waiting;
    for (auto& [driver, of] : listener_of_)
        if (of == id) waiting.push_back(driver);
    for (auto it = knocks_.begin(); it != knocks_.end();)
        it = (*it)->listener() == listener ? knocks_.erase(it) : std::next(it);
    for (auto* driver : waiting) {
        listener_of_.erase(driver);
        driver->refuse({Reason::listener_gone, ECONNREFUSED});
    }
    // The monitor holds a copy of the socket for a moment longer, and the port shall be free at once.
    if (listener->listening && listener->listening->socket() >= 0)
        shutdown(listener->listening->socket(), SHUT_RDWR);
    listener->listening.reset();
    if (listener->inherited_socket >= 0) close(std::exchange(listener->inherited_socket, -1));
    keeper_->drop(id);
    // Its arrivals may be on the stack above us.
    context_.loop->defer([old = std::shared_ptr<ProgramListener>(std::move(listeners_[id]))] {});
    listeners_.erase(id);
}

void ListenerTable::announce(Driver* driver) {
    auto of = listener_of_.find(driver);
    ProgramListener* listener = of == listener_of_.end() ? nullptr : find(of->second);
    if (!listener) return driver->refuse({Reason::listener_gone, ECONNREFUSED});
    if (listener->record.kind == ListenerKind::beside)
        knock(listener, driver);
    else
        connect_unix(listener, driver, 250);
}

void ListenerTable::knock(ProgramListener* listener, Driver* driver) {
    ++context_.counters->knocks;
    knocks_.push_back(std::make_unique<Knock>(this, listener, driver));
    if (auto started = knocks_.back()->start(context_.loop, listener->record.address); !started) {
        const Error error = started.error();
        const uint64_t id = listener->record.id;
        knocks_.pop_back();
        if (error.errnum == ENOBUFS) {  // as TCP holds a SYN: the negotiation timer bounds the wait
            waiting_.push_back(driver);
            return;
        }
        driver->refuse(error);
        if (error.reason == Reason::listener_gone) look_whether_gone(id);
    }
}

void ListenerTable::end_knock(Knock* knock) {
    listener_of_.erase(knock->driver());
    knocks_.remove_if([knock](const auto& k) { return k.get() == knock; });
    knock_for_waiting();
}

void ListenerTable::knock_for_waiting() {
    if (waiting_.empty()) return;
    Driver* next = waiting_.front();
    waiting_.pop_front();
    context_.loop->defer([this, next, id = next->id()] {
        auto of = listener_of_.find(next);
        if (of != listener_of_.end() && next->id() == id)
            announce(next);
        else
            knock_for_waiting();  // it has gone meanwhile
    });
}

// A flood of peers that get no further than the MPA Request holds up nobody's memory.
bool ListenerTable::may_arrive(const sockaddr_storage& peer) const {
    constexpr size_t kMostInAll = 2048, kMostPerHost = 512;
    if (listener_of_.size() < kMostPerHost) return true;
    if (listener_of_.size() >= kMostInAll) return false;
    size_t same = 0;
    for (auto& [driver, id] : listener_of_) same += same_host(driver->remote_address(), peer);
    return same < kMostPerHost;
}

// The AF_UNIX listener's backlog gives no event when it has room again, so a full one is tried again for a
// while.
void ListenerTable::connect_unix(ProgramListener* listener, Driver* driver, int attempts_left) {
    constexpr fabric::Nanoseconds kRetry = 20'000'000;
    const uint64_t id = listener->record.id;
    int b = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const auto own = session::mirror_name(context_.engine_id, driver->id(), 'b');
    const auto target = session::listener_name(listener->record.name_engine_id, id);
    if (b >= 0 && bind(b, reinterpret_cast<const sockaddr*>(&own.address), own.length) == 0 &&
        connect(b, reinterpret_cast<const sockaddr*>(&target.address), target.length) == 0) {
        listener_of_.erase(driver);
        driver->adopt_b(b);
        driver->proceed();
        return;
    }
    const int error = errno;
    if (b >= 0) close(b);
    if (error == EAGAIN && attempts_left > 0) {
        context_.loop->add_timer(
            context_.loop->now() + kRetry, [this, id, driver, driver_id = driver->id(), attempts_left] {
                auto of = listener_of_.find(driver);
                if (of == listener_of_.end() || of->second != id || of->first->id() != driver_id)
                    return;  // the driver has gone meanwhile
                if (auto* still = find(id)) connect_unix(still, driver, attempts_left - 1);
            });
        return;
    }
    listener_of_.erase(driver);
    driver->refuse({error == ECONNREFUSED ? Reason::listener_gone : Reason::listener_backlog, ECONNREFUSED});
    if (error == ECONNREFUSED) look_whether_gone(id);
}

void ListenerTable::forget(Driver* driver) {
    listener_of_.erase(driver);
    std::erase(waiting_, driver);
    if (knocks_.remove_if([driver](const auto& knock) { return knock->driver() == driver; }))
        knock_for_waiting();
}

Result<ListenerTable::Claimed> ListenerTable::claim(uint64_t listener_id, uint64_t ticket) {
    for (auto& knock : knocks_) {
        if (knock->listener()->record.id != listener_id || knock->ticket() != ticket) continue;
        Claimed claimed{knock->driver(), -1};
        if (auto paired = claimed.driver->make_pair(false, &claimed.a); !paired)
            return std::unexpected(paired.error());
        end_knock(knock.get());
        ++context_.counters->knocks_claimed;
        claimed.driver->proceed();
        return claimed;
    }
    return smbdirect::fail(Reason::peer_closed, ECONNABORTED);
}

}  // namespace smbdirect::engine
