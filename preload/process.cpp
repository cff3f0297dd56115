#include "process.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "real.hpp"
#include "smbdirect/smbdirect.h"

namespace smbdirect::preload {
namespace {

constinit Once settings_once;
constinit Settings the_settings{};

template <size_t size>
void copy(char (&to)[size], const char* from) {
    size_t length = from ? std::strlen(from) : 0;
    if (length >= size) length = 0;  // half a path is no path
    std::memcpy(to, from ? from : "", length);
    to[length] = 0;
}

// The executable's own name: argv[0] may have been rewritten (smbd's children do) or be anything.
void find_program(char (&program)[32]) {
    char path[512];
    long length = raw(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    const char* name = length > 0 ? path : program_invocation_short_name;
    if (const char* slash = std::strrchr(name, '/')) name = slash + 1;
    size_t size = std::strlen(name);
    if (size >= sizeof program) size = sizeof program - 1;
    std::memcpy(program, name, size);
    program[size] = 0;
}

bool use_if_executable(char (&to)[256], const char* directory, size_t directory_length, const char* below) {
    const size_t length = std::strlen(below);
    if (directory_length + length >= sizeof to) return false;
    std::memcpy(to, directory, directory_length);
    std::memcpy(to + directory_length, below, length + 1);
    if (to[0] == '/' && raw(SYS_faccessat, AT_FDCWD, to, X_OK) == 0) return true;
    to[0] = 0;
    return false;
}

// Beside the library in the build tree, else where it is installed.
void find_engine(char (&engine)[256]) {
    if (const char* named = environment("SMBDIRECT_ENGINE"); named && *named) {
        copy(engine, named);
        return;
    }
    Dl_info info{};
    char absolute[256];
    if (dladdr(reinterpret_cast<void*>(&find_engine), &info) && info.dli_fname) {
        char* resolved = info.dli_fname[0] == '/'
                             ? nullptr
                             : realpath(info.dli_fname, nullptr);  // LD_PRELOAD=./libsmbdirect.so
        copy(absolute, resolved ? resolved : info.dli_fname);
        free(resolved);
        if (const char* slash = std::strrchr(absolute, '/')) {
            const auto length = static_cast<size_t>(slash - absolute);
            for (const char* below :
                 {"/../tools/smbdirectd", "/smbdirect/smbdirectd", "/../libexec/smbdirect/smbdirectd",
                  "/../../libexec/smbdirect/smbdirectd", "/../sbin/smbdirectd", "/../../sbin/smbdirectd"})
                if (use_if_executable(engine, absolute, length, below)) return;
        }
    }
    for (const char* path :
         {"/usr/libexec/smbdirect/smbdirectd", "/usr/sbin/smbdirectd", "/usr/local/sbin/smbdirectd"})
        if (use_if_executable(engine, "", 0, path)) return;
}

void find_trace_directory(char (&directory)[256]) {
    const char* named = environment("SMBDIRECT_TRACE");
    if (!named || !*named) return;
    if (named[0] == '/') return copy(directory, named);
    char here[256];
    if (raw(SYS_getcwd, here, sizeof here) <= 0) return;
    const size_t length = std::strlen(here), more = std::strlen(named);
    if (length + 1 + more >= sizeof directory) return;
    std::memcpy(directory, here, length);
    directory[length] = '/';
    std::memcpy(directory + length + 1, named, more + 1);
}

void read_settings() {
    const int saved = errno;
    Settings& s = the_settings;
    find_program(s.program);
    find_engine(s.engine);
    copy(s.socket_name, environment("SMBDIRECT_SOCKET"));
    find_trace_directory(s.trace_directory);
    s.uid = static_cast<uid_t>(raw(SYS_getuid));
    const char* number = environment("SMBDIRECT_PROTOCOL");
    s.protocol = number ? static_cast<uint32_t>(std::strtoul(number, nullptr, 10)) : 0;
    if (s.protocol == 0 || s.protocol == 6) s.protocol = IPPROTO_SMBDIRECT;
    const char* options = environment("SMBDIRECT_EXPLICIT_OPTIONS");
    s.accept_options = options && std::strcmp(options, "accept") == 0;
    errno = saved;
}

// ---- who am I

constinit std::atomic<std::atomic<int>*> pid_page{nullptr};

std::atomic<int>* wiped_page() {
    auto* page = pid_page.load(std::memory_order_acquire);
    if (page) return page;
    const int saved = errno;
    const size_t size = 4096;
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED && madvise(memory, size, MADV_WIPEONFORK) == 0) {
        if (pid_page.compare_exchange_strong(page, static_cast<std::atomic<int>*>(memory)))
            page = static_cast<std::atomic<int>*>(memory);
        else
            munmap(memory, size);
    }
    errno = saved;
    return page;
}

// Whose engine to ask. What a process has from before it gave up its rights belongs to the engine of that
// time, which serves nothing else to another user: for what is new there is one of the user that the process
// is now.
uid_t owner_of_engine(session::RequestType type, int fd) {
    using enum session::RequestType;
    const int saved = errno;
    ucred maker{};
    socklen_t length = sizeof maker;
    const bool made = type == attach && real::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &length) == 0 &&
                      maker.uid != static_cast<uid_t>(-1);
    errno = saved;
    if (made) return maker.uid;
    const bool from_before = type == attach || type == claim || type == forget_listener || type == linger;
    return from_before ? settings().uid : static_cast<uid_t>(raw(SYS_getuid));
}

}  // namespace

bool Once::begin() {
    const int self = static_cast<int>(raw(SYS_gettid));
    for (int spins = 0;; ++spins) {
        int owner = state_.load(std::memory_order_acquire);
        if (owner == kDone || owner == self) return false;
        // The owner may have been a thread of the process that we were forked from.
        if ((owner == 0 || spins > 10000) &&
            state_.compare_exchange_strong(owner, self, std::memory_order_acq_rel))
            return true;
        sched_yield();
    }
}

const char* environment(const char* name) { return secure_getenv(name); }

const Settings& settings() {
    settings_once.run(read_settings);
    return the_settings;
}

int process_id() {
    auto* page = wiped_page();
    int pid = page ? page->load(std::memory_order_relaxed) : 0;
    if (pid == 0) {
        pid = static_cast<int>(raw(SYS_getpid));
        if (page) page->store(pid, std::memory_order_relaxed);
    }
    return pid;
}

bool in_borrowed_memory() { return process_id() != static_cast<int>(raw(SYS_getpid)); }

Result<session::Reply> ask(session::Request& request, int pass_fd, session::ReplyFds* fds,
                           Patience patience) {
    const Settings& s = settings();
    session::ClientOptions options;
    options.socket_name = s.socket_name[0] ? s.socket_name : nullptr;
    options.engine_path = s.engine[0] && patience.may_start ? s.engine : nullptr;
    options.wait_ms = patience.wait_ms;
    options.uid = owner_of_engine(request.type, pass_fd);
    request.pid = static_cast<int32_t>(raw(SYS_getpid));
    static_assert(sizeof request.program == sizeof s.program);
    std::memcpy(request.program, s.program, sizeof request.program);
    return session::ask_engine(options, request, pass_fd, fds);
}

}  // namespace smbdirect::preload
