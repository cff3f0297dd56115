#include "policy.hpp"

#include <dlfcn.h>
#include <fcntl.h>

#include <cstdio>

#include "process.hpp"
#include "real.hpp"
#include "trace.hpp"

namespace smbdirect::preload {
namespace {

constexpr const char* kRulesFile = "/etc/smbdirect/rules";

#define SAMBA_PROGRAMS "smbd,winbindd,nmbd,samba,samba-dcerpcd,rpcd_*,samba-bgqd,net"
constexpr const char* kDefaults = "listen program=" SAMBA_PROGRAMS
                                  " port=445 also\n"
                                  "connect program=" SAMBA_PROGRAMS
                                  " tcp\n"
                                  "connect port=445 require\n"
                                  "connect port=5445 require\n";

constinit Once once;
constinit RuleSet rules;
char file_text[64 * 1024];

std::string_view read_rules_file(const char* path) {
    const long fd = raw(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return {};
    size_t size = 0;
    long more;
    while (size < sizeof file_text &&
           (more = raw(SYS_read, fd, file_text + size, sizeof file_text - size)) > 0)
        size += static_cast<size_t>(more);
    raw(SYS_close, fd);
    return {file_text, size};
}

// A rule that cannot be understood is left out. It is named in the trace, and on stderr if a trace was asked
// for: a preloaded library that prints unasked would break programs whose output others read.
void name_mistake(const char* where, unsigned line, std::string_view statement, const char* what) {
    if (!settings().trace_directory[0]) return;
    const auto length = static_cast<int>(statement.size() > 80 ? 80 : statement.size());
    trace(1, 0, -1, "rule ignored, %s line %u: %s: \"%.*s\" (reason %u: %s)", where, line, what, length,
          statement.data(), static_cast<unsigned>(Reason::rules_invalid),
          reason_sentence(Reason::rules_invalid));
    char text[256];
    const int size = snprintf(text, sizeof text, "libsmbdirect: rule ignored, %s line %u: %s: \"%.*s\"\n",
                              where, line, what, length, statement.data());
    if (size > 0)
        raw(SYS_write, 2, text,
            static_cast<size_t>(size) < sizeof text ? static_cast<size_t>(size) : sizeof text - 1);
}

void add(const char* where, std::string_view text) {
    rules.add(text, [where](unsigned line, std::string_view statement, const char* what) {
        name_mistake(where, line, statement, what);
    });
}

// Under socket_wrapper no address is what it seems; it has its own ways.
bool another_wrapper_is_at_work() {
    return environment("SOCKET_WRAPPER_DIR") && dlsym(RTLD_DEFAULT, "socket_wrapper_enabled");
}

void load() {
    const int saved = errno;
    if (!another_wrapper_is_at_work()) {
        if (const char* text = environment("SMBDIRECT_RULES")) add("SMBDIRECT_RULES", text);
        const char* path = environment("SMBDIRECT_RULES_FILE");
        if (!path || !*path) path = kRulesFile;
        add(path, read_rules_file(path));
        add("defaults", kDefaults);
    }
    errno = saved;
}

const Rule* find(Direction direction, const Endpoint& endpoint) {
    if (!once.run(load)) return nullptr;
    const Rule* rule = rules.find(direction, settings().program, endpoint);
    return rule && rule->verdict != Verdict::tcp ? rule : nullptr;
}

}  // namespace

const Rule* rule_for_connect(const Endpoint& remote) { return find(Direction::connect, remote); }
const Rule* rule_for_listen(const Endpoint& local) { return find(Direction::listen, local); }

bool netbios_is_refused(const Endpoint& remote) {
    constexpr uint16_t kNetbios = 139, kSmb = 445;
    if (remote.port != kNetbios) return false;
    Endpoint smb = remote;
    smb.port = kSmb;
    const Rule* rule = rule_for_connect(smb);
    return rule && rule->verdict == Verdict::require;
}

}  // namespace smbdirect::preload
