// smbdirect-stream: bandwidth and round trips of a stream socket that carries messages as SMB does. It knows
// nothing of RDMA: the same program runs over TCP, over rsockets (LD_PRELOAD=librspreload.so) and over
// SMBDIRECT (LD_PRELOAD=libsmbdirect.so). So it keeps to the calls that librspreload knows: no socket type
// but a bare SOCK_STREAM, no accept4(), no epoll.
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "stream_channel.hpp"

namespace {

using namespace stream;

constexpr const char* kUsage =
    "usage: smbdirect-stream server ADDRESS PORT\n"
    "       smbdirect-stream bandwidth ADDRESS PORT SIZE SECONDS [--reverse]\n"
    "       smbdirect-stream latency ADDRESS PORT SIZE ROUNDS\n"
    "\n"
    "SIZE counts the payload of a message (8 to 16777215); four bytes of SMB's header come on top.\n"
    "server says when it listens, then serves one client after the other until it is ended.\n"
    "bandwidth sends messages for so long, one after the other; the receiver takes the time.\n"
    "latency sends a message and waits until it has come back.\n"
    "\n"
    "  --reverse      the server sends\n"
    "  --poll         both ends wait in poll() with non-blocking sockets; else in read() and writev()\n"
    "  --hold         connects, then waits for a line on stdin before it begins\n"
    "  --warm-up X    seconds (bandwidth, 0.3) or rounds (latency, a tenth) that come before and do not "
    "count\n"
    "  --protocol N   the third argument of socket() (0)\n"
    "\n"
    "The result is one line of JSON: bandwidth in MiB/s, round trips in microseconds. What was received is\n"
    "checked: each 4 KiB by a stamp, the first and the last message in full.\n"
    "exit status: 0 done; 1 failure, also if what came was not what was sent; 2 usage\n";

enum class Test : uint32_t { upload, download, echo };

// What the client asks for, as the first message of a test. The magic differs if byte orders do.
struct Request {
    uint32_t magic = 0x73747231;
    Test test = Test::echo;
    Waiting waiting = Waiting::blocking;
    uint32_t size = 0;
    double seconds = 0, warm_up = 0;  // of upload and download
};

struct Report {
    uint64_t messages = 0, bytes = 0;
    double seconds = 0;
};

struct Arguments {
    std::string_view command;
    const char *address = nullptr, *port = nullptr;
    double amount = 0;  // seconds or rounds
    double warm_up = -1;
    int protocol = 0;
    bool hold = false;
    Request request;
};

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
Result<void> send_value(Channel& channel, const T& value) {
    return channel.send(std::as_bytes(std::span(&value, 1)));
}

template <class T>
Result<T> value_in(std::span<const std::byte> payload) {
    T value;
    if (payload.size() != sizeof value) return fail("the peer speaks another language");
    std::memcpy(static_cast<void*>(&value), payload.data(), sizeof value);
    return value;
}

// ---------------------------------------------------------------- the tests, either end

// Sends messages until the time is over, then one that says that it is the last.
Result<void> pump(Channel& channel, const Request& request) {
    std::vector<std::byte> payload(request.size);
    fill(payload);
    const uint64_t between_looks = std::max<uint64_t>(1, 65536 / request.size);  // a clock can be slow
    const double end = now() + request.warm_up + request.seconds;
    for (uint64_t number = 0;; ++number) {
        const bool last = number % between_looks == 0 && now() >= end;
        stamp(payload, last ? number + kLast : number);
        if (auto sent = channel.send(payload); !sent || last) return sent;
    }
}

// Receives what pump() sends. The message that starts the clock does not count.
Result<Report> drain(Channel& channel, const Request& request) {
    Report report;
    double first = 0, begun = 0;  // the first message, and the one that starts the clock
    for (uint64_t number = 0;; ++number) {
        auto payload = channel.receive();
        if (!payload) return std::unexpected(payload.error());
        if (payload->size() != request.size)
            return fail("a message has another length than it was sent with");
        const bool last = number_in(*payload) == number + kLast;
        if (begun != 0) {
            ++report.messages;
        } else {
            const double time = now();
            if (number == 0) first = time;
            if (time - first >= request.warm_up) begun = time;
        }
        if (last) report.seconds = now() - begun;
        const bool fits = last          ? every_byte_fits(*payload, number + kLast)
                          : number == 0 ? every_byte_fits(*payload, number)
                                        : stamps_fit(*payload, number);
        if (!fits) return fail("what was received is not what was sent");
        if (last) {
            if (report.messages == 0) return fail("too few messages for a measurement");
            report.bytes = report.messages * request.size;
            return report;
        }
    }
}

Result<void> echo(Channel& channel, const Request& request) {
    while (true) {
        auto payload = channel.receive();
        if (!payload) return std::unexpected(payload.error());
        if (payload->empty()) return {};
        if (payload->size() != request.size)
            return fail("a message has another length than it was sent with");
        if (auto sent = channel.send(*payload); !sent) return sent;
    }
}

// Microseconds of each round.
Result<std::vector<double>> measure_rounds(Channel& channel, size_t size, size_t rounds, size_t warm_up) {
    std::vector<std::byte> payload(size);
    fill(payload);
    std::vector<double> times;
    times.reserve(rounds);
    for (size_t number = 0; number < warm_up + rounds; ++number) {
        stamp(payload, number);
        const double start = now();
        if (auto sent = channel.send(payload); !sent) return std::unexpected(sent.error());
        auto back = channel.receive();
        if (!back) return std::unexpected(back.error());
        if (number >= warm_up) times.push_back((now() - start) * 1e6);
        if (back->size() != size || !stamps_fit(*back, number))
            return fail("what came back is not what was sent");
    }
    return times;
}

// ---------------------------------------------------------------- sockets

struct Resolved {
    sockaddr_storage address{};
    socklen_t length = 0;
};

Result<Resolved> resolve(const Arguments& arguments) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    if (const int code = getaddrinfo(arguments.address, arguments.port, &hints, &found); code != 0)
        return fail(gai_strerror(code));
    Resolved resolved;
    resolved.length = found->ai_addrlen;
    std::memcpy(&resolved.address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return resolved;
}

// Passes the new socket and its address to `call`, which is bind and listen, or connect.
template <class Call>
Result<int> open_socket(const Arguments& arguments, Call call) {
    auto resolved = resolve(arguments);
    if (!resolved) return std::unexpected(resolved.error());
    const int fd = socket(resolved->address.ss_family, SOCK_STREAM, arguments.protocol);
    if (fd < 0) return fail("socket", errno);
    const Result<void> done =
        call(fd, reinterpret_cast<const sockaddr*>(&resolved->address), resolved->length);
    if (done) return fd;
    close(fd);
    return std::unexpected(done.error());
}

Result<void> listen_on(int fd, const sockaddr* address, socklen_t length) {
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, address, length) != 0) return fail("bind", errno);
    if (listen(fd, 16) != 0) return fail("listen", errno);
    return {};
}

Result<void> connect_to(int fd, const sockaddr* address, socklen_t length) {
    if (connect(fd, address, length) != 0) return fail("connect", errno);
    return {};
}

void without_delay(int fd) {
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

// ---------------------------------------------------------------- server

Result<void> serve_test(Channel& channel, const Request& request) {
    if (request.magic != Request().magic || request.size < kLeastPayload || request.size > kMostPayload)
        return fail("the client speaks another language");
    if (auto set = channel.set_waiting(request.waiting); !set) return set;
    // The client begins when it has this answer, so that the way is known to be open both ways.
    if (auto sent = send_value(channel, request.magic); !sent) return sent;
    switch (request.test) {
        case Test::upload: {
            const auto report = drain(channel, request);
            return report ? send_value(channel, *report) : std::unexpected(report.error());
        }
        case Test::download:
            return pump(channel, request);
        case Test::echo:
            return echo(channel, request);
    }
    return fail("the client asks for an unknown test");
}

// One test; then the client closes first, so that nothing on its way to it is lost.
Result<void> serve_client(int fd) {
    without_delay(fd);
    Channel channel(fd);
    auto first = channel.receive();
    if (!first) return std::unexpected(first.error());
    if (first->empty()) return {};
    auto request = value_in<Request>(*first);
    if (!request) return std::unexpected(request.error());
    if (auto served = serve_test(channel, *request); !served || request->test == Test::echo) return served;
    const auto end = channel.receive();
    return end ? Result<void>() : std::unexpected(end.error());
}

int complain(const Failure& failure) {
    std::fprintf(stderr, "smbdirect-stream: %s%s%s\n", failure.what, failure.errnum ? ": " : "",
                 failure.errnum ? std::strerror(failure.errnum) : "");
    return 1;
}

int run_server(const Arguments& arguments) {
    const auto listener = open_socket(arguments, listen_on);
    if (!listener) return complain(listener.error());
    std::printf("{\"listening\": \"%s\", \"port\": %s}\n", arguments.address, arguments.port);
    std::fflush(stdout);
    while (true) {
        const int fd = accept(*listener, nullptr, nullptr);
        if (fd < 0 && errno != EINTR && errno != ECONNABORTED) return complain({"accept", errno});
        if (fd < 0) continue;
        if (auto served = serve_client(fd); !served) complain(served.error());
    }
}

// ---------------------------------------------------------------- client

const char* name_of(Waiting waiting) { return waiting == Waiting::poll ? "poll" : "blocking"; }

Result<void> print_bandwidth(Channel& channel, const Request& request) {
    Result<Report> report;
    if (request.test == Test::download) {
        report = drain(channel, request);
    } else {
        if (auto sent = pump(channel, request); !sent) return sent;
        auto answer = channel.receive();
        if (!answer) return std::unexpected(answer.error());
        report = value_in<Report>(*answer);
    }
    if (!report) return std::unexpected(report.error());
    std::printf(
        "{\"test\": \"bandwidth\", \"size\": %u, \"waiting\": \"%s\", \"direction\": \"%s\", "
        "\"messages\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"mib_per_second\": %.3f}\n",
        request.size, name_of(request.waiting), request.test == Test::download ? "download" : "upload",
        static_cast<unsigned long long>(report->messages), static_cast<unsigned long long>(report->bytes),
        report->seconds, static_cast<double>(report->bytes) / report->seconds / 1048576);
    return {};
}

Result<void> print_latency(Channel& channel, const Arguments& arguments) {
    const auto rounds = static_cast<size_t>(arguments.amount);
    const auto warm_up = arguments.warm_up < 0 ? rounds / 10 : static_cast<size_t>(arguments.warm_up);
    auto times = measure_rounds(channel, arguments.request.size, rounds, warm_up);
    if (!times) return std::unexpected(times.error());
    std::ranges::sort(*times);
    double sum = 0;
    for (const double time : *times) sum += time;
    std::printf(
        "{\"test\": \"latency\", \"size\": %u, \"waiting\": \"%s\", \"rounds\": %zu, \"bytes\": %zu, "
        "\"median_us\": %.2f, \"mean_us\": %.2f, \"least_us\": %.2f, \"p99_us\": %.2f}\n",
        arguments.request.size, name_of(arguments.request.waiting), rounds,
        2 * rounds * arguments.request.size, (*times)[rounds / 2], sum / static_cast<double>(rounds),
        times->front(), (*times)[rounds * 99 / 100]);
    return {};
}

Result<void> run_client(const Arguments& arguments) {
    const auto fd = open_socket(arguments, connect_to);
    if (!fd) return std::unexpected(fd.error());
    without_delay(*fd);
    Channel channel(*fd);
    if (auto sent = send_value(channel, arguments.request); !sent) return sent;
    if (auto ready = channel.receive(); !ready) return std::unexpected(ready.error());
    if (auto set = channel.set_waiting(arguments.request.waiting); !set) return set;
    if (arguments.hold) std::getchar();
    if (arguments.command == "latency") return print_latency(channel, arguments);
    return print_bandwidth(channel, arguments.request);
}

// ---------------------------------------------------------------- command line

bool parse_number(std::string_view text, double least, double most, double* number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
    return error == std::errc() && end == text.data() + text.size() && *number >= least && *number <= most;
}

bool parse_options(std::span<char*> words, Arguments* arguments) {
    for (size_t i = 0; i < words.size(); ++i) {
        const std::string_view word = words[i];
        double protocol = 0;
        if (word == "--reverse" && arguments->command == "bandwidth")
            arguments->request.test = Test::download;
        else if (word == "--hold")
            arguments->hold = true;
        else if (word == "--poll")
            arguments->request.waiting = Waiting::poll;
        else if (word == "--warm-up" && i + 1 < words.size() &&
                 parse_number(words[i + 1], 0, 1e6, &arguments->warm_up))
            ++i;
        else if (word == "--protocol" && i + 1 < words.size() &&
                 parse_number(words[i + 1], 0, 65535, &protocol))
            arguments->protocol = static_cast<int>(protocol), ++i;
        else
            return false;
    }
    return true;
}

bool parse(std::span<char*> words, Arguments* arguments) {
    if (words.size() < 3) return false;
    arguments->command = words[0];
    arguments->address = words[1];
    arguments->port = words[2];
    if (arguments->command == "server") return parse_options(words.subspan(3), arguments);
    const bool bandwidth = arguments->command == "bandwidth";
    double size = 0;
    if ((!bandwidth && arguments->command != "latency") || words.size() < 5) return false;
    if (!parse_number(words[3], kLeastPayload, static_cast<double>(kMostPayload), &size)) return false;
    if (!parse_number(words[4], bandwidth ? 0.001 : 1, bandwidth ? 86400 : 1e8, &arguments->amount))
        return false;
    Request& request = arguments->request;
    request.test = bandwidth ? Test::upload : Test::echo;
    request.size = static_cast<uint32_t>(size);
    if (!parse_options(words.subspan(5), arguments)) return false;
    request.seconds = arguments->amount;
    request.warm_up = arguments->warm_up < 0 ? 0.3 : arguments->warm_up;
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    const std::span<char*> words(argv + 1, static_cast<size_t>(std::max(argc, 1)) - 1);
    if (!words.empty() && (std::string_view(words[0]) == "--help" || std::string_view(words[0]) == "-h"))
        return std::fputs(kUsage, stdout), 0;
    if (!parse(words, &arguments)) return std::fputs(kUsage, stderr), 2;
    signal(SIGPIPE, SIG_IGN);
    if (arguments.command == "server") return run_server(arguments);
    if (auto done = run_client(arguments); !done) return complain(done.error());
    return 0;
}
