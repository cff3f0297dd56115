// A client that asks an SMB server on 127.0.0.1 for its dialect, in ways that a preloaded library sees or does not see:
//   libc PORT | raw PORT         by libc's functions, or by system calls of its own
//   half PORT                    connects by libc, and goes on by system calls of its own
//   exec PORT PROGRAM            connects by libc, and leaves the rest to another program
//   given FD                     which is this
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

int fail(const char* call) {
    std::printf("%s: %s\n", call, strerrorname_np(errno));
    return 1;
}

long raw_connect(int fd, const sockaddr_in& to) { return syscall(SYS_connect, fd, &to, sizeof to); }

int ask(int fd, bool raw) {
    unsigned char request[4 + 64 + 36 + 2] = {0, 0, 0, sizeof request - 4, 0xfe, 'S', 'M', 'B', 64};
    request[4 + 64] = 36;                               // NEGOTIATE,
    request[4 + 64 + 2] = 1;                            // of one dialect,
    request[4 + 64 + 36] = request[4 + 64 + 37] = 2;    // which is 2.0.2
    const long sent = raw ? syscall(SYS_write, fd, request, sizeof request) : write(fd, request, sizeof request);
    if (sent < 0) return fail("write");
    unsigned char reply[8];
    for (size_t done = 0; done < sizeof reply;) {
        const long got = raw ? syscall(SYS_read, fd, reply + done, sizeof reply - done)
                             : read(fd, reply + done, sizeof reply - done);
        if (got < 0) return fail("read");
        if (got == 0) return std::printf("read: end\n"), 1;
        done += static_cast<size_t>(got);
    }
    const bool smb = std::memcmp(reply + 4, "\xfeSMB", 4) == 0;
    std::printf(smb ? "answered\n" : "answered with something else\n");
    return smb ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string way = argc > 2 ? argv[1] : "";
    if (way == "given") return ask(std::atoi(argv[2]), false);
    const bool raw = way == "raw";
    if (!raw && way != "libc" && way != "half" && way != "exec") return 2;
    const int fd = raw ? static_cast<int>(syscall(SYS_socket, AF_INET, SOCK_STREAM, 0)) : socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((raw ? raw_connect(fd, to) : connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to)) != 0) return fail("connect");
    if (way == "exec") {
        execl(argv[3], argv[3], "given", std::to_string(fd).c_str(), nullptr);
        return fail("exec");
    }
    return ask(fd, raw || way == "half");
}
