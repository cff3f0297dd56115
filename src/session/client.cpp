#include "session/client.hpp"

#include <unistd.h>

#include "session/names.hpp"
#include "session/raw_calls.hpp"
#include "session/rights.hpp"
#include "session/spawn.hpp"

namespace smbdirect::session {
namespace {

class Deadline {
  public:
    explicit Deadline(int ms)
        : end_(raw::clock_ns(CLOCK_MONOTONIC) + static_cast<uint64_t>(ms > 0 ? ms : 0) * 1'000'000u) {}
    int left_ms() const {
        uint64_t now = raw::clock_ns(CLOCK_MONOTONIC);
        return now >= end_ ? 0 : static_cast<int>((end_ - now) / 1'000'000u) + 1;
    }

  private:
    uint64_t end_;
};

// Waits for the mask, whatever signals arrive. 0: time is up.
int wait_for(int fd, short events, const Deadline& deadline) {
    for (;;) {
        int left = deadline.left_ms();
        if (int mask = raw::poll_one(fd, events, left)) return mask;
        if (left == 0) return 0;
    }
}

void sleep_ms(int ms) {
    timespec pause{ms / 1000, (ms % 1000) * 1'000'000L};
    raw::call(SYS_nanosleep, raw::address(&pause), 0);
}

class Socket {
  public:
    explicit Socket(long fd = -1) : fd_(static_cast<int>(fd)) {}
    ~Socket() { reset(-1); }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    int fd() const { return fd_; }
    void reset(int fd) {
        if (fd_ >= 0) raw::close(fd_);
        fd_ = fd;
    }
    int release() {
        int fd = fd_;
        fd_ = -1;
        return fd;
    }

  private:
    int fd_;
};

// Outcome of one try at one name.
enum class Found { yes, nobody, busy, stranger, failed };

Found try_name(const Name& name, uid_t owner, Socket& socket, int* error) {
    long fd = raw::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return *error = static_cast<int>(-fd), Found::failed;
    socket.reset(static_cast<int>(fd));
    long connected = raw::connect(socket.fd(), &name.address, name.length);
    while (connected == -EINTR) connected = raw::connect(socket.fd(), &name.address, name.length);
    if (connected == -EAGAIN) return Found::busy;  // its backlog is full
    if (connected < 0) return Found::nobody;
    ucred peer{};
    socklen_t size = sizeof peer;
    if (raw::get_option(socket.fd(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return Found::nobody;
    return peer.uid == 0 || peer.uid == owner ? Found::yes : Found::stranger;
}

// The names where an engine for this user may be met, in order.
struct Candidates {
    Name name[2];
    uid_t owner[2];  // whom to trust besides root
    int count;

    explicit Candidates(const ClientOptions& options) {
        if (options.socket_name && *options.socket_name) {
            name[0] = meeting_name_override(options.socket_name);
            owner[0] = options.uid;
            count = 1;
        } else {
            name[0] = meeting_name_system();
            owner[0] = 0;
            name[1] = meeting_name_user(options.uid);
            owner[1] = options.uid;
            count = 2;
        }
    }
};

// Starts the engine and waits until it listens, or has ended (perhaps because another one was quicker), or
// time is up: more of it than an engine has to answer, as its file may come from a slow disk, and the
// deadline begins anew then.
bool start_engine(const ClientOptions& options, Deadline* deadline) {
    constexpr int kMoreToStart = 3;
    int pipe[2] = {-1, -1};
    if (raw::call(SYS_pipe2, raw::address(pipe), O_CLOEXEC) < 0) return false;
    Socket read_end(pipe[0]);
    const char* const arguments[] = {options.engine_path, "--ready-fd=3", nullptr};
    int saved = errno;
    bool started = spawn_invisibly_with(options.engine_path, arguments, pipe[1]);
    errno = saved;
    raw::close(pipe[1]);
    if (!started) return false;
    wait_for(read_end.fd(), POLLIN, Deadline(kMoreToStart * options.wait_ms));
    *deadline = Deadline(options.wait_ms);
    return true;
}

// A full backlog on the system's name is an engine that has much to do, or somebody who squats there: who it
// is cannot be asked. For so long it is waited for where we have no engine of our own yet.
constexpr int kBusyPatienceMs = 250;

Result<int> find_engine(const ClientOptions& options, Deadline* deadline, bool* spawned) {
    const Candidates candidates(options);
    const Deadline patience(kBusyPatienceMs);
    for (int pause_ms = 1;; pause_ms = pause_ms < 100 ? pause_ms * 2 : 100) {
        Found found = Found::nobody;
        bool stranger = false, busy = false;
        for (int i = 0; i < candidates.count; ++i) {
            Socket socket;
            int error = 0;
            found = try_name(candidates.name[i], candidates.owner[i], socket, &error);
            if (found == Found::yes) return socket.release();
            if (found == Found::failed) return fail(Reason::engine_resources, error);
            stranger |= found == Found::stranger;
            busy |= found == Found::busy;
        }
        // A stranger on the system's name must not keep us from an engine of our own; on the last name, ours,
        // it does.
        const Reason reason = stranger ? Reason::engine_untrusted : Reason::engine_unreachable;
        const auto give_up = fail(reason, stranger ? EACCES : ECONNREFUSED);
        if (found == Found::stranger) return give_up;
        const bool worth_waiting = found == Found::busy || (busy && patience.left_ms() > 0);
        if (!worth_waiting && !*spawned) {
            if (!options.engine_path || !start_engine(options, deadline)) return give_up;
            *spawned = true;
            continue;
        }
        if (deadline->left_ms() == 0) return give_up;
        sleep_ms(pause_ms);
    }
}

long send_request(int fd, const Request& request, int pass_fd, const Deadline& deadline) {
    iovec part{const_cast<Request*>(&request), sizeof request};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    Rights<1> rights;
    if (pass_fd >= 0) rights.pass(message, &pass_fd, 1);
    for (;;) {
        long sent = raw::send_message(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent == -EINTR) continue;
        if (sent != -EAGAIN) return sent;
        if (wait_for(fd, POLLOUT, deadline) == 0) return -ETIMEDOUT;
    }
}

void take_fds(const msghdr& message, ReplyFds* fds) {
    int taken = 0;
    for_each_passed_fd(message, [&](int fd) {
        if (fds && taken < kMaxMessageFds)
            fds->fd[taken++] = fd;
        else
            raw::close(fd);
    });
}

void close_fds(ReplyFds* fds) {
    for (int& fd : fds->fd) {
        if (fd >= 0) raw::close(fd);
        fd = -1;
    }
}

// Bytes of the reply; 0 when the engine went without one.
long receive_reply(int fd, Reply* reply, ReplyFds* fds, char* text, uint32_t text_size,
                   const Deadline& deadline) {
    iovec parts[2] = {{reply, sizeof *reply}, {text, text ? text_size : 0}};
    Rights<kMaxMessageFds> rights;
    for (;;) {
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = text ? 2 : 1;
        rights.expect(message);
        long got = raw::receive_message(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got == -EINTR) continue;
        if (got == -EAGAIN) {
            if (wait_for(fd, POLLIN, deadline) == 0) return -ETIMEDOUT;
            continue;
        }
        if (got < 0) return got;
        take_fds(message, fds);
        return message.msg_flags & MSG_CTRUNC ? -EMFILE : got;
    }
}

Result<Reply> judge(const Reply& reply, long size, uint32_t text_size) {
    if (size == -ETIMEDOUT) return fail(Reason::engine_unreachable, ETIMEDOUT);
    if (size == -EMFILE) return fail(Reason::engine_resources, EMFILE);
    if (size < 0) return fail(Reason::engine_lost, static_cast<int>(-size));
    // Magic and version stand first in every version; the rest may be of another size.
    if (static_cast<size_t>(size) < offsetof(Reply, error) || reply.magic != kMessageMagic ||
        reply.version != kVersion)
        return fail(Reason::engine_version, EPROTONOSUPPORT);
    if (static_cast<size_t>(size) < sizeof reply) return fail(Reason::engine_version, EPROTO);
    if (reply.error != 0)
        return fail(reply.reason ? static_cast<Reason>(reply.reason) : Reason::engine_refused, reply.error);
    Reply checked = reply;
    auto here = static_cast<uint32_t>(static_cast<size_t>(size) - sizeof reply);
    if (checked.text_length > here || checked.text_length > text_size) checked.text_length = here;
    return checked;
}

}  // namespace

Result<Reply> ask_engine(const ClientOptions& options, const Request& request, int pass_fd, ReplyFds* fds,
                         char* text, uint32_t text_size) {
    Deadline deadline(options.wait_ms);
    bool spawned = false;
    for (;;) {
        auto found = find_engine(options, &deadline, &spawned);
        if (!found) return std::unexpected(found.error());
        Socket socket(*found);
        ReplyFds received;
        Reply reply;
        long size = send_request(socket.fd(), request, pass_fd, deadline);
        if (size >= 0) size = receive_reply(socket.fd(), &reply, &received, text, text_size, deadline);
        // The engine died, or was about to leave when we came: its successor answers on the same name.
        bool gone = size == 0 || size == -EPIPE || size == -ECONNRESET;
        if (gone && deadline.left_ms() > 0) {
            sleep_ms(2);
            continue;
        }
        auto result = judge(reply, size == 0 ? -ECONNRESET : size, text ? text_size : 0);
        if (result && fds)
            *fds = received;
        else
            close_fds(&received);
        return result;
    }
}

}  // namespace smbdirect::session
