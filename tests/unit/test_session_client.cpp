// Asking an engine, and starting one invisibly. The engine is this very test program, started again with an
// argument in its environment: SMBDIRECT_TEST_ROLE.
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "session/client.hpp"
#include "session/names.hpp"
#include "session_bench.hpp"

using namespace session_test;
using smbdirect::Reason;

namespace {

std::string own_path() {
    char path[4096];
    ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
    return {path, static_cast<size_t>(n)};
}

std::string unique_name() {
    static int n = 0;
    return "smbdirect-test/" + std::to_string(::getpid()) + "/" + std::to_string(++n);
}

int listen_as(const std::string& name) {
    int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    Name where = meeting_name_override(name.c_str());
    REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&where.address), where.length) == 0);
    REQUIRE(::listen(fd, 8) == 0);
    return fd;
}

struct Answer {
    Reply reply;
    std::string text;
    int fds[2] = {-1, -1};
    bool hang_up = false;
};

// A child that answers requests with the given answers, one a connection; exits 0 if the passed fd arrived as
// hoped.
pid_t serve(int listener, const std::vector<Answer>& answers) {
    pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid != 0) return pid;
    for (const Answer& answer : answers) {
        int fd = ::accept(listener, nullptr, nullptr);
        Request request;
        if (answer.hang_up || ::recv(fd, &request, sizeof request, 0) != sizeof request) {
            ::close(fd);
            continue;
        }
        iovec iov[2] = {{const_cast<Reply*>(&answer.reply), sizeof(Reply)},
                        {const_cast<char*>(answer.text.data()), answer.text.size()}};
        alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
        msghdr message{};
        message.msg_iov = iov;
        message.msg_iovlen = 2;
        if (answer.fds[0] >= 0) {
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            cmsghdr* header = CMSG_FIRSTHDR(&message);
            *header = {CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
            std::memcpy(CMSG_DATA(header), answer.fds, sizeof answer.fds);
        }
        ::sendmsg(fd, &message, 0);
        ::close(fd);
    }
    _exit(0);
}

ClientOptions options_for(const std::string& name, int wait_ms = 3000) {
    ClientOptions options;
    options.socket_name = name.c_str();
    options.uid = ::getuid();
    options.wait_ms = wait_ms;
    return options;
}

struct Served {
    std::string name = unique_name();
    int listener = listen_as(name);
    pid_t pid;
    explicit Served(const std::vector<Answer>& answers) : pid(serve(listener, answers)) { ::close(listener); }
    ~Served() { ::kill(pid, SIGKILL), ::waitpid(pid, nullptr, 0); }
};

}  // namespace

TEST_CASE("a request is answered, with descriptors and text") {
    Answer answer;
    answer.reply.connection_id = 77;
    answer.text = "some text";
    answer.reply.text_length = 9;
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    answer.fds[0] = ends[0], answer.fds[1] = ends[1];
    Served served({answer});
    ReplyFds fds;
    char text[100];
    errno = 4321;
    auto reply = ask_engine(options_for(served.name), Request{}, ends[0], &fds, text, sizeof text);
    CHECK(errno == 4321);
    REQUIRE(reply.has_value());
    CHECK(reply->connection_id == 77);
    CHECK(std::string(text, reply->text_length) == "some text");
    REQUIRE(fds.fd[0] >= 0);
    REQUIRE(fds.fd[1] >= 0);
    CHECK((::fcntl(fds.fd[0], F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(::write(fds.fd[1], "z", 1) == 1);
    char z;
    CHECK(::read(ends[0], &z, 1) == 1);
    for (int fd : {fds.fd[0], fds.fd[1], ends[0], ends[1]}) ::close(fd);
}

TEST_CASE("refusals, other versions and hang-ups") {
    Answer refusal, other, gone, good;
    refusal.reply.error = ENETUNREACH;
    refusal.reply.reason = 302;
    other.reply.version = kVersion + 1;
    gone.hang_up = true;
    Served served({refusal, other, gone, good});
    auto ask = [&] { return ask_engine(options_for(served.name), Request{}, -1, nullptr); };
    auto first = ask();
    REQUIRE_FALSE(first.has_value());
    CHECK(first.error().reason == Reason::connect_unreachable);
    CHECK(first.error().errnum == ENETUNREACH);
    auto second = ask();
    REQUIRE_FALSE(second.has_value());
    CHECK(second.error().reason == Reason::engine_version);
    CHECK(ask().has_value());  // the third connection hung up; the fourth was answered
}

TEST_CASE("nobody there") {
    const std::string name = unique_name();
    auto none = ask_engine(options_for(name), Request{}, -1, nullptr);
    REQUIRE_FALSE(none.has_value());
    CHECK(none.error().reason == Reason::engine_unreachable);
    ClientOptions options = options_for(name, 300);
    options.engine_path = "/nonexistent/smbdirectd";
    CHECK(ask_engine(options, Request{}, -1, nullptr).error().reason == Reason::engine_unreachable);
    options.engine_path = "/bin/true";  // starts, and never listens
    auto before = smbdirect::session::raw::clock_ns(CLOCK_MONOTONIC);
    CHECK(ask_engine(options, Request{}, -1, nullptr).error().reason == Reason::engine_unreachable);
    CHECK(smbdirect::session::raw::clock_ns(CLOCK_MONOTONIC) - before < 3'000'000'000u);
    CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("an engine of another user is not trusted") {
    if (::getuid() != 0) return;
    const std::string name = unique_name();
    pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        if (::setuid(65534) != 0) _exit(1);
        int fd = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
        Name where = meeting_name_override(name.c_str());
        ::bind(fd, reinterpret_cast<sockaddr*>(&where.address), where.length);
        ::listen(fd, 8);
        for (;;) ::pause();
    }
    Reason reason = Reason::engine_unreachable;
    for (int i = 0; i < 200 && reason == Reason::engine_unreachable; ++i) {
        ::usleep(5000);
        reason = ask_engine(options_for(name), Request{}, -1, nullptr).error().reason;
    }
    CHECK(reason == Reason::engine_untrusted);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
}

// A script that becomes this program as an engine, for tests that start one ("role: engine").
struct EngineScript {
    const std::string path = "/tmp/smbdirect-engine-test." + std::to_string(::getpid());
    explicit EngineScript(const std::string& first = "") {
        std::ofstream(path) << "#!/bin/sh\n"
                            << first << "exec " << own_path() << " 'role: engine' >/dev/null 2>&1\n";
        ::chmod(path.c_str(), 0700);
    }
    ~EngineScript() { ::unlink(path.c_str()); }
    EngineScript(const EngineScript&) = delete;
    EngineScript& operator=(const EngineScript&) = delete;
};

// In a network namespace of its own, since the names are the real ones. The exit status: the number of the
// first line that does not hold.
#define HOLDS(condition) \
    if (!(condition)) _exit(__LINE__ % 256)

TEST_CASE("somebody squats on the system's name with a full backlog") {
    const EngineScript script;
    pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) _exit(0);
        const auto at_name = [](const Name& name, auto call) {
            int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            HOLDS(call(fd, reinterpret_cast<const sockaddr*>(&name.address), name.length) == 0);
            return fd;
        };
        const Name system = meeting_name_system(), own = meeting_name_user(::getuid());
        HOLDS(::listen(at_name(system, ::bind), 0) == 0);
        at_name(system, ::connect);  // and nobody accepts it
        const auto milliseconds = [] {
            return smbdirect::session::raw::clock_ns(CLOCK_MONOTONIC) / 1'000'000;
        };
        ClientOptions options;
        options.uid = ::getuid();
        options.wait_ms = 400;
        // Nobody else there, and no engine to start.
        auto before = milliseconds();
        HOLDS(ask_engine(options, Request{}, -1, nullptr).error().reason == Reason::engine_unreachable);
        HOLDS(milliseconds() - before < 1000);
        // An engine can be started.
        ::setenv(
            "SMBDIRECT_SOCKET",
            std::string(own.address.sun_path + 1, own.length - offsetof(sockaddr_un, sun_path) - 1).c_str(),
            1);
        options.engine_path = script.path.c_str();
        options.wait_ms = 8000;
        before = milliseconds();
        HOLDS(ask_engine(options, Request{}, -1, nullptr).has_value());
        HOLDS(milliseconds() - before < 3000);
        // It runs.
        before = milliseconds();
        HOLDS(ask_engine(options, Request{}, -1, nullptr).has_value());
        HOLDS(milliseconds() - before < 200);
        _exit(0);
    }
    int status = -1;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
}

TEST_CASE("an engine whose backlog is full is waited for") {
    const std::string name = unique_name();
    int listener = listen_as(name);
    REQUIRE(::listen(listener, 0) == 0);
    const Name where = meeting_name_override(name.c_str());
    int first = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    REQUIRE(::connect(first, reinterpret_cast<const sockaddr*>(&where.address), where.length) == 0);
    ::close(first);
    auto late = ask_engine(options_for(name, 200), Request{}, -1, nullptr);
    REQUIRE_FALSE(late.has_value());
    CHECK(late.error().reason == Reason::engine_unreachable);
    Answer gone, good;
    gone.hang_up = true;
    pid_t pid = serve(listener, {gone, good});
    CHECK(ask_engine(options_for(name), Request{}, -1, nullptr).has_value());
    ::close(listener);
    ::waitpid(pid, nullptr, 0);
}

namespace {
volatile sig_atomic_t g_children = 0;
volatile sig_atomic_t g_alarms = 0;

std::string file_contents(const std::string& path) {
    std::ifstream file(path);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}
}  // namespace

TEST_CASE("an engine starts as nobody's child") {
    struct sigaction counting {
    }, old{};
    counting.sa_handler = [](int) { g_children = g_children + 1; };
    ::sigaction(SIGCHLD, &counting, &old);
    g_children = 0;
    ::signal(SIGUSR1, SIG_IGN);
    ::setenv("LD_PRELOAD", "", 1);
    ::setenv("SMBDIRECT_TEST_MARK", "kept", 1);
    const std::string out = "/tmp/smbdirect-spawn-test." + std::to_string(::getpid());
    const std::string script =
        "{ echo $PPID; ps -o sid= -p $$; echo $$; ls /proc/$$/fd | tr '\\n' ' '; echo; "
        "readlink /proc/$$/fd/0; readlink /proc/$$/fd/1; pwd; "
        "grep -E 'Sig(Blk|Ign)' /proc/$$/status | tr '\\n\\t' '  '; echo; "
        "env | grep -c -E '^LD_PRELOAD=' ; echo $SMBDIRECT_TEST_MARK; } > " +
        out + ".part 2>&1; mv " + out + ".part " + out;
    const char* const arguments[] = {"sh", "-c", script.c_str(), nullptr};
    int low = ::open("/etc/passwd", O_RDONLY);
    int leak = ::fcntl(low, F_DUPFD, 77);  // not CLOEXEC, and no number that a shell would use
    ::close(low);
    sigset_t before{}, after{};
    ::sigprocmask(SIG_BLOCK, nullptr, &before);
    errno = 99;
    REQUIRE(spawn_invisibly("/bin/sh", arguments));
    CHECK(errno == 99);
    ::sigprocmask(SIG_BLOCK, nullptr, &after);
    CHECK(std::memcmp(&before, &after, sizeof before) == 0);
    CHECK(::waitpid(-1, nullptr, 0) == -1);
    CHECK(errno == ECHILD);
    std::string text;
    for (int i = 0; i < 400 && text.empty(); ++i) ::usleep(10'000), text = file_contents(out);
    std::istringstream lines(text);
    std::string parent, session, self, fds, in, stdout_path, directory, signals, preload, mark;
    std::getline(lines, parent), std::getline(lines, session), std::getline(lines, self),
        std::getline(lines, fds);
    std::getline(lines, in), std::getline(lines, stdout_path), std::getline(lines, directory),
        std::getline(lines, signals);
    std::getline(lines, preload), std::getline(lines, mark);
    INFO(text);
    CHECK(parent != std::to_string(::getpid()));
    CHECK(std::stoi(session) == std::stoi(self));
    CHECK(fds.find(std::to_string(leak) + " ") == std::string::npos);
    CHECK(in == "/dev/null");
    CHECK(directory == "/");
    CHECK(signals.find("SigBlk: 0000000000000000") != std::string::npos);
    CHECK(signals.find("SigIgn: 0000000000000000") != std::string::npos);
    CHECK(preload == "0");
    CHECK(mark == "kept");
    CHECK(g_children == 0);
    CHECK_FALSE(spawn_invisibly("/nonexistent", arguments));
    CHECK(errno == ENOENT);
    CHECK(g_children == 0);
    ::close(leak);
    ::unlink(out.c_str());
    ::unsetenv("LD_PRELOAD");
    ::signal(SIGUSR1, SIG_DFL);
    ::sigaction(SIGCHLD, &old, nullptr);
}

// What an EngineScript becomes.
TEST_CASE("role: engine", "[.role]") {
    const char* name = std::getenv("SMBDIRECT_SOCKET");
    if (!name) return;
    int listener = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    Name where = meeting_name_override(name);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&where.address), where.length) != 0) _exit(4);
    ::usleep(50'000);  // bound, not listening: connecting is refused
    ::listen(listener, 64);
    ::close(3);
    for (;;) {
        pollfd entry{listener, POLLIN, 0};
        if (::poll(&entry, 1, 1500) <= 0) _exit(0);
        int fd = ::accept(listener, nullptr, nullptr);
        Request request;
        Reply reply;
        reply.engine_id = static_cast<uint64_t>(::getpid());
        if (::recv(fd, &request, sizeof request, 0) > 0) ::send(fd, &reply, sizeof reply, 0);
        ::close(fd);
    }
}

TEST_CASE("several that start an engine at once, among signals, all reach the one that won") {
    const std::string name = unique_name();
    const EngineScript script;
    ::setenv("SMBDIRECT_SOCKET", name.c_str(), 1);
    int results[2];
    REQUIRE(::pipe(results) == 0);
    constexpr int kAskers = 5;
    pid_t askers[kAskers];
    for (pid_t& pid : askers) {
        pid = ::fork();
        if (pid != 0) continue;
        struct sigaction ticking {};
        ticking.sa_handler = [](int) { g_alarms = g_alarms + 1; };
        ::sigaction(SIGALRM, &ticking, nullptr);
        itimerval often{{0, 500}, {0, 500}};
        ::setitimer(ITIMER_REAL, &often, nullptr);
        ClientOptions options = options_for(name, 8000);
        options.engine_path = script.path.c_str();
        auto reply = ask_engine(options, Request{}, -1, nullptr);
        uint64_t engine = reply ? reply->engine_id : 0;
        if (::waitpid(-1, nullptr, 0) != -1 || errno != ECHILD) engine = 0;
        _exit(::write(results[1], &engine, sizeof engine) == sizeof engine ? 0 : 1);
    }
    uint64_t engines[kAskers] = {};
    for (uint64_t& engine : engines) CHECK(::read(results[0], &engine, sizeof engine) == sizeof engine);
    for (uint64_t engine : engines) {
        CHECK(engine != 0);
        CHECK(engine == engines[0]);
    }
    for (pid_t pid : askers) ::waitpid(pid, nullptr, 0);
    ::close(results[0]);
    ::close(results[1]);
    ::unsetenv("SMBDIRECT_SOCKET");
}

TEST_CASE("an engine whose file comes from a slow disk is waited for longer than for an answer") {
    const std::string name = unique_name();
    const EngineScript script("sleep 1.2\n");
    constexpr int kPatienceMs = 1000;
    ::setenv("SMBDIRECT_SOCKET", name.c_str(), 1);
    ClientOptions options = options_for(name, kPatienceMs);
    options.engine_path = script.path.c_str();
    CHECK(ask_engine(options, Request{}, -1, nullptr).has_value());
    ::unsetenv("SMBDIRECT_SOCKET");
}
