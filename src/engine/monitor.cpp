#include "engine/monitor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>

#include "engine/engine.hpp"
#include "session/names.hpp"
#include "session/rights.hpp"

namespace smbdirect::engine {
namespace {

struct KeeperMessage {
    uint32_t drop = 0;
    uint32_t has_rdma_socket = 0, has_knock_memfd = 0;
    ListenerRecord record;
};

struct Kept {
    ListenerRecord record;
    int rdma_socket = -1, knock_memfd = -1;
};

// The engine's end: tells the monitor over a socketpair.
class PipeKeeper final : public ListenerKeeper {
  public:
    explicit PipeKeeper(int socket) : socket_(socket) {
        timeval limit{0, 500'000};
        setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }

    void keep(const ListenerRecord& record, int rdma_socket, int knock_memfd) override {
        KeeperMessage message;
        message.record = record;
        message.has_rdma_socket = rdma_socket >= 0;
        message.has_knock_memfd = knock_memfd >= 0;
        int fds[2], count = 0;
        if (rdma_socket >= 0) fds[count++] = rdma_socket;
        if (knock_memfd >= 0) fds[count++] = knock_memfd;
        send(message, fds, count);
    }

    void drop(uint64_t id) override {
        KeeperMessage message;
        message.drop = 1;
        message.record.id = id;
        send(message, nullptr, 0);
        // The monitor holds the RDMA port open as long as it knows the listener, and a successor of the
        // listener may bind it next: so wait for the answer. SO_RCVTIMEO bounds it.
        char answer;
        [[maybe_unused]] auto taken = recv(socket_, &answer, 1, 0);
    }

  private:
    void send(const KeeperMessage& message, const int* fds, int count) {
        iovec part{const_cast<KeeperMessage*>(&message), sizeof message};
        session::Rights<2> rights;
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        if (count) rights.pass(header, fds, count);
        // Without a monitor there is no successor to tell.
        [[maybe_unused]] auto sent = sendmsg(socket_, &header, MSG_NOSIGNAL);
    }

    const int socket_;
};

class Monitor {
  public:
    explicit Monitor(const MonitorOptions& options) : options_(options) {}
    int run();

  private:
    bool open_meeting_socket();
    bool start_engine();
    [[noreturn]] void engine_process(int keeper_socket);
    void take_keeper_messages();
    void take_keeper_message(const KeeperMessage&, int* fds, int count);
    bool engine_ended(int status);
    void forget(Kept&);

    const MonitorOptions options_;
    int meeting_socket_ = -1, keeper_socket_ = -1;
    pid_t engine_ = -1;
    std::map<uint64_t, Kept> kept_;
    uint64_t restarts_ = 0;
    timespec last_start_{};
    int quick_deaths_ = 0;
};

bool Monitor::open_meeting_socket() {
    const auto name = options_.socket_name ? session::meeting_name_override(options_.socket_name)
                      : options_.system    ? session::meeting_name_system()
                                           : session::meeting_name_user(getuid());
    meeting_socket_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return meeting_socket_ >= 0 &&
           bind(meeting_socket_, reinterpret_cast<const sockaddr*>(&name.address), name.length) == 0 &&
           listen(meeting_socket_, 512) == 0;
}

// RDMA pins memory. What we may raise ourselves nobody has to set up: to infinity with CAP_SYS_RESOURCE, or
// else to the hard limit.
void raise_memory_limit() {
    rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
}

void Monitor::engine_process(int keeper_socket) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (options_.rename) options_.rename("smbdirectd");  // a successor is forked from a renamed monitor
    prctl(PR_SET_NAME, "smbdirectd");
    PipeKeeper keeper(keeper_socket);
    Engine::Options options;
    options.settings = options_.settings;
    options.owner = getuid();
    options.system = options_.system;
    options.meeting_socket = meeting_socket_;
    options.keeper = &keeper;
    options.monitor_pid = getppid();
    options.restarts = restarts_;
    raise_memory_limit();
    static Engine* running = nullptr;
    {
        Engine engine(options);
        running = &engine;
        struct sigaction action {};
        action.sa_handler = [](int) { running->stop(); };
        sigaction(SIGTERM, &action, nullptr);
        sigaction(SIGINT, &action, nullptr);
        for (auto& [id, kept] : kept_) {
            engine.restore(kept.record, kept.rdma_socket, kept.knock_memfd);  // which takes both descriptors
        }
        engine.run();
    }
    _exit(0);
}

bool Monitor::start_engine() {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
    engine_ = fork();
    if (engine_ == 0) {
        close(pair[0]);
        if (keeper_socket_ >= 0) close(keeper_socket_);
        if (options_.ready_fd >= 0 && restarts_ == 0)
            close(options_.ready_fd);  // the monitor's alone to close
        engine_process(pair[1]);
    }
    close(pair[1]);
    if (keeper_socket_ >= 0) close(keeper_socket_);
    keeper_socket_ = pair[0];
    clock_gettime(CLOCK_MONOTONIC, &last_start_);
    return engine_ > 0;
}

void Monitor::forget(Kept& kept) {
    if (kept.rdma_socket >= 0) close(kept.rdma_socket);
    if (kept.knock_memfd >= 0) close(kept.knock_memfd);
}

void Monitor::take_keeper_message(const KeeperMessage& message, int* fds, int count) {
    if (auto old = kept_.find(message.record.id); old != kept_.end()) {
        forget(old->second);
        kept_.erase(old);
    }
    int next = 0;
    if (!message.drop) {
        Kept kept{message.record, -1, -1};
        if (message.has_rdma_socket && next < count) kept.rdma_socket = fds[next++];
        if (message.has_knock_memfd && next < count) kept.knock_memfd = fds[next++];
        kept_[message.record.id] = kept;
    }
    while (next < count) close(fds[next++]);
    if (message.drop) [[maybe_unused]]
        auto sent = send(keeper_socket_, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Monitor::take_keeper_messages() {
    for (;;) {
        KeeperMessage message;
        iovec part{&message, sizeof message};
        session::Rights<2> rights;
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        rights.expect(header);
        if (recvmsg(keeper_socket_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof message) return;
        int fds[2], count = 0;
        session::for_each_passed_fd(header, [&](int fd) { fds[count++] = fd; });
        take_keeper_message(message, fds, count);
    }
}

// False: it is over.
bool Monitor::engine_ended(int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return false;
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    quick_deaths_ = now.tv_sec - last_start_.tv_sec < 2 ? quick_deaths_ + 1 : 0;
    if (options_.foreground)
        std::fprintf(stderr, "smbdirectd: the engine died (status 0x%x), starting another\n", status);
    ++restarts_;
    if (quick_deaths_ >
        5) {  // something is wrong that a restart may not mend: slowly, but never give up the listeners
        const timespec pause{quick_deaths_ > 20 ? 1 : 0, 200'000'000};
        nanosleep(&pause, nullptr);
    }
    return start_engine();
}

int Monitor::run() {
    if (!open_meeting_socket()) {
        const int error = errno;
        if (options_.foreground)
            std::fprintf(stderr, "smbdirectd: the meeting socket: %s\n", std::strerror(error));
        return error == EADDRINUSE ? 4 : 1;
    }
    sigset_t watched;
    sigemptyset(&watched);
    for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&watched, signal);
    sigprocmask(SIG_BLOCK, &watched, nullptr);
    signal(SIGPIPE, SIG_IGN);
    const int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0 || !start_engine()) return 1;
    if (options_.ready_fd >= 0) close(options_.ready_fd);
    if (options_.rename) options_.rename("smbdirect-monitor");
    prctl(PR_SET_NAME, "smbdirect-monit");
    if (options_.foreground)
        std::fprintf(stderr, "smbdirectd: engine %d is ready, monitor is %d\n", engine_, getpid());
    for (;;) {
        pollfd watch[2] = {{signals, POLLIN, 0}, {keeper_socket_, POLLIN, 0}};
        if (poll(watch, 2, -1) < 0 && errno != EINTR) return 1;
        if (watch[1].revents & POLLIN) take_keeper_messages();
        signalfd_siginfo info;
        bool child = (watch[1].revents & POLLHUP) != 0;
        while (read(signals, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo == SIGCHLD)
                child = true;
            else
                kill(engine_, SIGTERM);
        }
        if (!child) continue;
        int status = 0;
        const pid_t ended = waitpid(engine_, &status, watch[1].revents & POLLHUP ? 0 : WNOHANG);
        if (ended == engine_) {
            take_keeper_messages();
            if (!engine_ended(status)) return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
    }
}

}  // namespace

int run_monitor(const MonitorOptions& options) { return Monitor(options).run(); }

}  // namespace smbdirect::engine
