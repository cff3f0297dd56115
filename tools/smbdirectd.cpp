// smbdirectd: the engine and its monitor; also asks a running one.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "engine/monitor.hpp"
#include "session/client.hpp"

namespace {

using namespace smbdirect;

constexpr const char* kUsage =
    "usage: smbdirectd [--foreground] [--system]   run the engine\n"
    "       smbdirectd --counters [--json]         print the counters of the running engine\n"
    "       smbdirectd --stop                      end the running engine\n"
    "       smbdirectd --reasons                   print the table of numbered reasons\n"
    "\n"
    "  --foreground  stay attached to the terminal and say on stderr what happens\n"
    "  --system      serve every user of this network namespace (root)\n"
    "\n"
    "environment: SMBDIRECT_SOCKET     another name of the meeting socket\n"
    "             SMBDIRECT_IDLE_EXIT  seconds after which an idle engine leaves (60; 0: never)\n"
    "exit status: 0 done; 1 failure; 2 usage; 3 no engine answers; 4 another engine runs already\n";

char* g_arguments_start = nullptr;
size_t g_arguments_size = 0;

// Overwrites the command line that ps shows, so that the monitor is told from the engine.
void rename_process(const char* name) {
    std::memset(g_arguments_start, 0, g_arguments_size);
    std::strncpy(g_arguments_start, name, g_arguments_size - 1);
}

int ask(session::RequestType type, bool json) {
    session::ClientOptions options;
    options.socket_name = std::getenv("SMBDIRECT_SOCKET");
    options.uid = getuid();
    session::Request request;
    request.type = type;
    request.pid = getpid();
    request.text_format = json ? 1 : 0;
    session::ReplyFds fds;
    std::vector<char> text(session::kMaxReplyText);
    auto reply =
        session::ask_engine(options, request, -1, &fds, text.data(), static_cast<uint32_t>(text.size()));
    if (!reply) {
        std::fprintf(stderr, "smbdirectd: %s\n", reason_sentence(reply.error().reason));
        return reply.error().reason == Reason::engine_unreachable ? 3 : 1;
    }
    if (reply->error) {
        std::fprintf(stderr, "smbdirectd: %s: %s\n", std::strerror(reply->error),
                     reason_sentence(static_cast<Reason>(reply->reason)));
        return 1;
    }
    std::fwrite(text.data(), 1, reply->text_length, stdout);
    return 0;
}

int print_reasons() {
#define SMBDIRECT_REASON(number, name, sentence) std::printf("%3d  %-26s %s\n", number, #name, sentence);
#include "base/reasons.def"
#undef SMBDIRECT_REASON
    return 0;
}

// One connection is about six descriptors; the soft limit of 1024 would be reached by 150 of them.
void raise_descriptor_limit() {
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

// Memory for RDMA is pinned, which this limits: as much as the user may have, and root gives itself the rest.
void raise_memory_lock_limit() {
    rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
}

}  // namespace

int main(int argc, char** argv) {
    engine::MonitorOptions options;
    bool json = false;
    enum class Action { serve, counters, stop, reasons } action = Action::serve;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--foreground")
            options.foreground = true;
        else if (word == "--system")
            options.system = true;
        else if (word == "--counters")
            action = Action::counters;
        else if (word == "--json")
            json = true;
        else if (word == "--stop")
            action = Action::stop;
        else if (word == "--reasons")
            action = Action::reasons;
        else if (word.starts_with("--ready-fd="))
            options.ready_fd = std::atoi(argv[i] + std::strlen("--ready-fd="));
        else {
            const bool asked = word == "--help" || word == "-h";
            std::fputs(kUsage, asked ? stdout : stderr);
            return asked ? 0 : 2;
        }
    }
    switch (action) {
        case Action::counters:
            return ask(session::RequestType::counters, json);
        case Action::stop:
            return ask(session::RequestType::stop, false);
        case Action::reasons:
            return print_reasons();
        case Action::serve:
            break;
    }
    g_arguments_start = argv[0];
    g_arguments_size = static_cast<size_t>(argv[argc - 1] + std::strlen(argv[argc - 1]) - argv[0]);
    options.socket_name = std::getenv("SMBDIRECT_SOCKET");
    options.settings = engine::settings_from_environment();
    options.rename = rename_process;
    umask(022);  // not that of the program that happened to come first: smbd's is 0 at times
    raise_descriptor_limit();
    raise_memory_lock_limit();
    return engine::run_monitor(options);
}
