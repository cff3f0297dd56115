#include "engine/engine.hpp"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "engine/session_server.hpp"
#include "fabric/address.hpp"
#include "fabric/iwarp/iwarp_fabric.hpp"
#include "fabric/memory/memory_fabric.hpp"
#include "session/names.hpp"

namespace smbdirect::engine {

using fabric::port_of;
using fabric::set_port;

namespace {

constexpr fabric::Nanoseconds kSecond = 1'000'000'000;

uint64_t random_id() {
    uint64_t id = 0;
    while (id == 0)
        if (getrandom(&id, sizeof id, 0) != sizeof id) id = static_cast<uint64_t>(getpid());
    return id;
}

}  // namespace

Engine::Engine(const Options& options)
    : options_(options),
      id_(random_id()),
      trace_(&loop_, &counters_.trace_dropped),
      iwarp_(fabric::make_iwarp_fabric(loop_, options_.settings.iwarp)),
      memory_(fabric::make_memory_fabric(loop_)),
      verbs_(fabric::make_verbs_fabric(loop_)),
      context_{&loop_, &options_.settings, &counters_, &trace_, &spin_guard_, id_},
      listeners_(std::make_unique<ListenerTable>(
          context_, Fabrics{iwarp_.get(), memory_.get(), verbs_.get()}, [this] { return make_driver(); },
          options.keeper)),
      server_(std::make_unique<SessionServer>(this, options.meeting_socket)),
      started_(loop_.now()),
      idle_since_(loop_.now()) {
    counters_.engine_restarts = options.restarts;
    verbs_->on_change([this] { listeners_->follow_addresses(); });
    sweep();
}

Engine::~Engine() {
    if (sweep_timer_) loop_.cancel_timer(sweep_timer_);
    server_.reset();
    for (auto& [id, driver] : drivers_) listeners_->forget(driver.get());
    drivers_.clear();
    listeners_.reset();
}

void Engine::restore(const ListenerRecord& record, int rdma_socket, int knock_memfd) {
    listeners_->restore(record, rdma_socket, knock_memfd);
}

void Engine::run() { loop_.run(); }

// Once a second, and only while there is something to look after or the idle time runs.
void Engine::sweep() {
    for (auto& [id, driver] : drivers_) driver->sweep();
    listeners_->sweep();
    look_whether_idle();
    const bool nothing_to_do =
        options_.settings.idle_exit_seconds == 0 && drivers_.empty() && listeners_->size() == 0;
    const auto interval = nothing_to_do ? 60 * kSecond : kSecond;
    sweep_timer_ = loop_.add_timer(loop_.now() + interval, [this] { sweep(); });
}

void Engine::look_whether_idle() {
    if (!drivers_.empty() || listeners_->size() != 0 || trace_.active()) idle_since_ = loop_.now();
    const auto& settings = options_.settings;
    const uint32_t limit =
        verbs_->addresses().empty() ? settings.idle_exit_seconds : settings.idle_exit_with_device_seconds;
    if (limit && loop_.now() - idle_since_ >= limit * kSecond) loop_.stop();
}

Driver* Engine::make_driver() {
    // Not to be foreseen: names are made of it, and anybody may bind names.
    uint64_t id = 0;
    while (id == 0 || drivers_.contains(id)) id = random_id() >> 32;
    auto driver = std::make_unique<Driver>(context_, this, id);
    Driver* raw = driver.get();
    drivers_[id] = std::move(driver);
    idle_since_ = loop_.now();
    return raw;
}

void Engine::on_ready_to_accept(Driver* driver) { listeners_->announce(driver); }

void Engine::on_gone(Driver* driver) {
    listeners_->forget(driver);
    drivers_.erase(driver->id());
}

// ---------------------------------------------------------------- requests

Engine::Answer Engine::answer(const session::Request& request, int passed_fd, const Peer& peer) {
    Answer answer;
    answer.reply.engine_id = id_;
    idle_since_ = loop_.now();
    Result<void> result = check_right(request, peer);
    if (result) switch (request.type) {
            case session::RequestType::connect:
                result = answer_connect(request, peer, &answer);
                break;
            case session::RequestType::listen_beside:
            case session::RequestType::listen_only:
                result = answer_listen(request, passed_fd, peer, &answer);
                break;
            case session::RequestType::claim:
                result = answer_claim(request, peer, &answer);
                break;
            case session::RequestType::attach:
                result = answer_attach(passed_fd, peer, &answer);
                break;
            case session::RequestType::forget_listener:
                // As with TCP the port is free when close() returns; where the close() comes after this
                // message, a little later.
                listeners_->look_whether_gone(request.listener_id);
                loop_.add_timer(loop_.now() + kSecond / 10,
                                [this, id = request.listener_id] { listeners_->look_whether_gone(id); });
                break;
            case session::RequestType::trace:
                result = answer_trace(request, peer, &answer);
                break;
            case session::RequestType::counters:
                answer_counters(request, &answer);
                break;
            case session::RequestType::stop:
                loop_.defer([this] { loop_.stop(); });
                break;
            case session::RequestType::linger:
                result = answer_linger(request);
                break;
            default:
                result = fail(Reason::engine_refused, EINVAL);
        }
    if (!result) {
        answer.reply.error = static_cast<uint16_t>(result.error().errnum ? result.error().errnum : EIO);
        answer.reply.reason = static_cast<uint32_t>(result.error().reason);
    }
    return answer;
}

// Holding A, or the ticket of a knock, is authority enough, whatever the euid of the moment (DESIGN D2), and
// linger changes nothing. All else is for the owner, for root, and on a system engine for everybody but stop.
Result<void> Engine::check_right(const session::Request& request, const Peer& peer) const {
    using enum session::RequestType;
    const bool possession = request.type == attach || request.type == claim ||
                            request.type == forget_listener || request.type == linger;
    const bool owner = peer.uid == options_.owner || peer.uid == 0;
    if (possession || owner || (options_.system && request.type != stop)) return {};
    return fail(Reason::engine_refused, EPERM);
}

// What the kernel would say, were it the caller who binds: a system engine does it with root's rights.
Result<void> Engine::check_port(uint16_t port, const Peer& peer) const {
    if (peer.uid == 0 || peer.uid == geteuid() || port == 0) return {};
    unsigned first = 1024;
    if (FILE* file = std::fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "r")) {
        if (std::fscanf(file, "%u", &first) != 1) first = 1024;
        std::fclose(file);
    }
    constexpr uint16_t kSmb = 445, kIwarp = 5445;  // 5445 is as privileged as 445
    if (port < first || (port == kIwarp && kSmb < first)) return fail(Reason::rdma_port_denied, EACCES);
    return {};
}

// By rule; otherwise a way that leads over an RDMA device is taken by verbs, and any other in software.
fabric::Fabric* Engine::choose_fabric(const session::Request& request) const {
    switch (request.fabric) {
        case session::FabricChoice::memory:
            return memory_.get();
        case session::FabricChoice::verbs:
            return verbs_.get();
        case session::FabricChoice::iwarp:
            return iwarp_.get();
        case session::FabricChoice::automatic:
            break;
    }
    if (verbs_->route(request.remote, request.local)) return verbs_.get();
    return iwarp_.get();
}

Result<void> Engine::answer_connect(const session::Request& request, const Peer& peer, Answer* answer) {
    if (auto allowed = check_port(port_of(request.local), peer); !allowed) return allowed;
    fabric::ConnectParameters parameters;
    parameters.local = request.local;
    parameters.remote = request.remote;
    const uint16_t port = port_of(request.remote);
    const RdmaPorts ports = rdma_ports_for(request.rdma_port, request.face, port);
    if (ports.iwarp == 0) return fail(Reason::rdma_port_overflow, EADDRNOTAVAIL);
    set_port(parameters.remote, ports.iwarp);
    parameters.ib_port = ports.ib;
    const uint32_t timeout = request.timeout_ms ? request.timeout_ms : options_.settings.connect_timeout_ms;
    parameters.timeout = int64_t{timeout} * 1'000'000;
    fabric::Fabric* chosen = choose_fabric(request);
    Driver* driver = make_driver();
    int a = -1;
    auto started = driver->start_connect(chosen, parameters, request.remote, request.face, &a);
    if (!started) {
        ++counters_.connections_failed;
        if (a >= 0) close(a);
        drivers_.erase(driver->id());
        const bool nobody =
            request.fabric == session::FabricChoice::memory && started.error().errnum == ECONNREFUSED;
        return nobody ? fail(Reason::not_a_local_listener, ECONNREFUSED) : started;
    }
    trace_.bind_connection(driver->id(), peer.pid);
    answer->reply.connection_id = driver->id();
    answer->fd[0] = a;
    answer->close_fd[0] = true;
    answer->fd[1] = driver->memfd();
    return {};
}

Result<void> Engine::answer_listen(const session::Request& request, int passed_fd, const Peer& peer,
                                   Answer* answer) {
    const bool beside = request.type == session::RequestType::listen_beside;
    if (beside && passed_fd < 0) return fail(Reason::engine_refused, EBADF);
    // A listener beside TCP has proved its right to the default RDMA port by having the TCP port.
    if (auto allowed = check_port(request.rdma_port, peer); !allowed) return allowed;
    if (!beside)
        if (auto allowed = check_port(port_of(request.local), peer); !allowed) return allowed;
    auto made = beside ? listeners_->listen_beside(passed_fd, request, peer.pid)
                       : listeners_->listen_only(request, peer.pid);
    if (!made) return std::unexpected(made.error());
    answer->reply.listener_id = made->id;
    answer->reply.rdma_port = made->rdma_port;
    answer->reply.local = made->address;
    answer->fd[0] = made->fd;
    answer->close_fd[0] = !beside;  // the knock table's descriptor stays with the table
    return {};
}

Result<void> Engine::answer_claim(const session::Request& request, const Peer& peer, Answer* answer) {
    auto claimed = listeners_->claim(request.listener_id, request.ticket);
    if (!claimed) return std::unexpected(claimed.error());
    trace_.bind_connection(claimed->driver->id(), peer.pid);
    answer->reply.connection_id = claimed->driver->id();
    answer->fd[0] = claimed->a;
    answer->close_fd[0] = true;
    answer->fd[1] = claimed->driver->memfd();
    return {};
}

Result<void> Engine::answer_attach(int passed_fd, const Peer& peer, Answer* answer) {
    sockaddr_un name{};
    socklen_t length = sizeof name;
    uint64_t engine_id = 0, connection_id = 0, listener_id = 0;
    char end = 0;
    if (passed_fd < 0 || getsockname(passed_fd, reinterpret_cast<sockaddr*>(&name), &length) != 0)
        return fail(Reason::engine_refused, EBADF);
    const socklen_t name_length = length;
    int listening = 0;  // what a listener accepted carries its name as well
    length = sizeof listening;
    getsockopt(passed_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    if (listening && session::parse_listener_name(name, name_length, nullptr, &listener_id))
        return answer_attach_listener(listener_id, answer);
    // Names can be bound by anybody in another network namespace; that this process made the pair, or
    // connected to the listener, only the kernel can say.
    ucred maker{};
    length = sizeof maker;
    if (getsockopt(passed_fd, SOL_SOCKET, SO_PEERCRED, &maker, &length) != 0 || maker.pid != getpid())
        return fail(Reason::engine_refused, EPERM);
    if (!session::parse_mirror_name(name, name_length, &engine_id, &connection_id, &end)) {
        // The accepted end of an AF_UNIX listener has no name of its own; its peer, which is ours, has one.
        length = sizeof name;
        if (getpeername(passed_fd, reinterpret_cast<sockaddr*>(&name), &length) != 0 ||
            !session::parse_mirror_name(name, length, &engine_id, &connection_id, &end) || end != 'b')
            return fail(Reason::engine_refused, EINVAL);
    }
    auto it = drivers_.find(connection_id);
    if (engine_id != id_ || it == drivers_.end()) return fail(Reason::engine_lost, ECONNRESET);
    trace_.bind_connection(connection_id, peer.pid);
    answer->reply.connection_id = connection_id;
    answer->fd[0] = it->second->memfd();
    return {};
}

Result<void> Engine::answer_linger(const session::Request& request) {
    const auto it = drivers_.find(request.connection_id);
    if (it == drivers_.end()) return fail(Reason::none, ENOENT);
    if (it->second->is_held()) return fail(Reason::none, EBUSY);
    return {};
}

// A listener that is SMBDIRECT only, in a process that did not make it: what it has to know of itself.
Result<void> Engine::answer_attach_listener(uint64_t id, Answer* answer) {
    const ListenerRecord* record = listeners_->record(id);
    if (!record) return fail(Reason::listener_gone, ENOENT);
    answer->reply.listener_id = id;
    answer->reply.local = record->address;
    answer->reply.rdma_port = record->rdma_port;
    answer->reply.face = record->face;
    return {};
}

Result<void> Engine::answer_trace(const session::Request& request, const Peer& peer, Answer* answer) {
    // The engine opens the file with its own rights: only for somebody who has the same.
    if (peer.uid != geteuid() && peer.uid != 0) return fail(Reason::engine_refused, EPERM);
    auto memfd = trace_.open(peer.pid, request.program, request.directory);
    if (!memfd) return std::unexpected(memfd.error());
    answer->fd[0] = *memfd;
    answer->close_fd[0] = true;
    return {};
}

void Engine::answer_counters(const session::Request& request, Answer* answer) {
    fill_gauges();
    answer->text = request.text_format == 1 ? counters_as_json(counters_) : counters_as_lines(counters_);
}

void Engine::fill_gauges() {
    counters_.pid = static_cast<uint64_t>(getpid());
    counters_.monitor_pid = static_cast<uint64_t>(options_.monitor_pid);
    counters_.uptime_seconds = static_cast<uint64_t>((loop_.now() - started_) / kSecond);
    counters_.listeners = listeners_->size();
    counters_.spin_us =
        options_.settings.spin_us.value_or(static_cast<uint32_t>(spin_guard_.usual_wait() / 1000));
    counters_.fds = 0;
    if (DIR* directory = opendir("/proc/self/fd")) {
        while (readdir(directory)) ++counters_.fds;
        closedir(directory);
        counters_.fds -= 3;  // ".", ".." and the directory itself
    }
    if (FILE* file = std::fopen("/proc/self/statm", "r")) {
        unsigned long size = 0, resident = 0;
        if (std::fscanf(file, "%lu %lu", &size, &resident) == 2) counters_.memory_kib = resident * 4;
        std::fclose(file);
    }
}

}  // namespace smbdirect::engine
