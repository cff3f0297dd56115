// readiness.md section 8: exec gives a child its SIGCHLD back, so the child with exit signal 0 only clones
// again, and the grandchild, which is nobody's, execs. Both share our memory and run while we wait
// (CLONE_VM|CLONE_VFORK), with every signal blocked: no malloc, no stdio, no libc state, system calls only.
#include "session/spawn.hpp"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "session/client.hpp"
#include "session/raw_calls.hpp"

namespace smbdirect::session {
namespace {

constexpr size_t kStack = 16 * 1024;
constexpr int kReadyFd = 3;
constexpr size_t kSignalBytes = 8;  // of the kernel's sigset_t

// What the kernel knows as struct sigaction, zeroed: SIG_DFL, no flags, empty mask.
struct KernelSigaction {
    unsigned long words[4] = {};
};

struct Plan {
    const char* path;
    const char* const* arguments;
    char** environment;
    int ready_fd;
    char* grandchild_stack;
    volatile int error = 0;  // written by the grandchild in our memory
};

void reset_signals() {
    KernelSigaction defaults;
    for (int signal = 1; signal <= 64; ++signal)
        raw::call(SYS_rt_sigaction, signal, raw::address(&defaults), 0, kSignalBytes);
    uint64_t none = 0;
    raw::call(SYS_rt_sigprocmask, SIG_SETMASK, raw::address(&none), 0, kSignalBytes);
}

void move_fd(int from, int to) {
    if (from == to)
        raw::call(SYS_fcntl, from, F_SETFD, 0);
    else
        raw::call(SYS_dup3, from, to, 0);
}

// 0-2 on /dev/null, the pipe on 3, nothing else.
void arrange_descriptors(int ready_fd) {
    if (ready_fd >= 0) move_fd(ready_fd, kReadyFd);
    unsigned first = ready_fd >= 0 ? kReadyFd + 1 : kReadyFd;
    if (raw::call(SYS_close_range, first, ~0u, 0) < 0) {
        rlimit limit{1024, 1024};
        raw::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, raw::address(&limit));
        for (unsigned fd = first; fd < limit.rlim_cur && fd < (1u << 20); ++fd)
            raw::close(static_cast<int>(fd));
    }
    int null = static_cast<int>(raw::call(SYS_openat, AT_FDCWD, raw::address("/dev/null"), O_RDWR));
    for (int fd = 0; fd < 3; ++fd)
        if (null >= 0 && null != fd) raw::call(SYS_dup3, null, fd, 0);
    if (null > 2) raw::close(null);
}

int grandchild(void* argument) {
    auto* plan = static_cast<Plan*>(argument);
    raw::call(SYS_setsid);
    // smbd changes its euid for every request; the engine belongs to the real user.
    long uid = raw::call(SYS_getuid), gid = raw::call(SYS_getgid);
    if (raw::call(SYS_geteuid) != uid || raw::call(SYS_getegid) != gid) {
        raw::call(SYS_setresuid, -1, uid, -1);  // first the power to change the rest, where there was any
        raw::call(SYS_setresgid, gid, gid, gid);
        raw::call(SYS_setresuid, uid, uid, uid);
    }
    raw::call(SYS_chdir, raw::address("/"));
    arrange_descriptors(plan->ready_fd);
    reset_signals();
    long failed = raw::call(SYS_execve, raw::address(plan->path), raw::address(plan->arguments),
                            raw::address(plan->environment));
    plan->error = static_cast<int>(-failed);
    raw::call(SYS_exit, 127);
    return 127;
}

int child(void* argument) {
    auto* plan = static_cast<Plan*>(argument);
    int pid = clone(grandchild, plan->grandchild_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, plan);
    if (pid < 0) plan->error = errno;
    raw::call(SYS_exit, 0);
    return 0;
}

bool is_preload(const char* entry) { return std::strncmp(entry, "LD_PRELOAD=", 11) == 0; }

size_t environment_bytes() {
    size_t count = 1;
    for (char** e = environ; e && *e; ++e) ++count;
    return count * sizeof(char*);
}

void copy_environment(char** to, size_t bytes) {
    size_t room = bytes / sizeof(char*) - 1;
    for (char** e = environ; e && *e && room > 0; ++e)
        if (!is_preload(*e)) *to++ = *e, --room;
    *to = nullptr;
}

bool run(Plan& plan, char* child_stack) {
    uint64_t all = ~uint64_t{0}, before = 0;
    raw::call(SYS_rt_sigprocmask, SIG_SETMASK, raw::address(&all), raw::address(&before), kSignalBytes);
    int saved = errno;
    int pid = clone(child, child_stack, CLONE_VM | CLONE_VFORK, &plan);  // exit signal 0
    if (pid < 0) plan.error = errno;
    errno = saved;
    if (pid > 0) {
        int status;
        while (raw::call(SYS_wait4, pid, raw::address(&status), static_cast<long>(__WCLONE), 0) == -EINTR) {
        }
    }
    raw::call(SYS_rt_sigprocmask, SIG_SETMASK, raw::address(&before), 0, kSignalBytes);
    return plan.error == 0;
}

}  // namespace

bool spawn_invisibly_with(const char* path, const char* const* arguments, int ready_fd) {
    size_t environment = environment_bytes();
    size_t size = 2 * kStack + environment;
    long map = raw::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map < 0 && map > -4096) return raw::failed(map);
    char* stacks = reinterpret_cast<char*>(map);
    char** entries = reinterpret_cast<char**>(stacks + 2 * kStack);
    copy_environment(entries, environment);
    Plan plan{path, arguments, entries, ready_fd, stacks + 2 * kStack};
    bool started = run(plan, stacks + kStack);
    int error = plan.error;
    raw::call(SYS_munmap, map, static_cast<long>(size));
    return started ? true : raw::failed(-error);
}

bool spawn_invisibly(const char* path, const char* const* arguments) {
    return spawn_invisibly_with(path, arguments, -1);
}

}  // namespace smbdirect::session
