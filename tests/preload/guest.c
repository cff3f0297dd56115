/* A program that makes life hard for a library in it: it closes every descriptor, becomes a daemon, forbids
 * itself system calls or gives up its rights, and only then serves or calls.
 *
 * guest daemon PORT FILE: closes all, daemonises, echoes one message of one client; its pid goes to FILE.
 * guest drop PORT: as root; listens, becomes nobody, calls itself.
 * guest seccomp PORT: may start no process and no program any more; sends a message and compares the echo. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char message[] = "\0\0\0\5hello";
enum { SIZE = sizeof message - 1 };

static struct sockaddr_in loopback(const char* port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void receive(int fd, char* data) {
    for (size_t done = 0; done < SIZE;) {
        const ssize_t got = recv(fd, data + done, SIZE - done, 0);
        if (got <= 0) exit(3);
        done += (size_t)got;
    }
}

static int serve_as_daemon(const char* port, const char* path) {
    closefrom(3);
    if (daemon(1, 0) < 0) return 2;
    closefrom(0);
    const struct sockaddr_in address = loopback(port);
    const int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (const void*)&address, sizeof address) < 0 || listen(listener, 1) < 0) return 2;
    FILE* file = fopen(path, "w");
    fprintf(file, "%d\n", getpid());
    fclose(file);
    char data[SIZE];
    const int client = accept(listener, NULL, NULL);
    if (client < 0) return 2;
    receive(client, data);
    if (send(client, data, SIZE, 0) != SIZE) return 2;
    recv(client, data, 1, 0);
    return 0;
}

static int call_itself_as_nobody(const char* port) {
    const struct sockaddr_in address = loopback(port);
    const int listener = socket(AF_INET, SOCK_STREAM, 0),
              client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (const void*)&address, sizeof address) < 0 || listen(listener, 1) < 0) return 2;
    if (setgid(65534) < 0 || setuid(65534) < 0) return 77;
    if (connect(client, (const void*)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        perror("connect");
        return 1;
    }
    const int server = accept(listener, NULL, NULL);
    struct pollfd connected = {client, POLLOUT, 0};
    if (server < 0 || poll(&connected, 1, 20000) != 1 || send(client, message, SIZE, 0) != SIZE) return 3;
    char data[SIZE];
    receive(server, data);
    return memcmp(data, message, SIZE) ? 4 : 0;
}

/* As a sandbox does: EPERM for whatever makes a process or a program out of this one. */
static void forbid_processes(void) {
    const int forbidden[] = {SYS_clone, SYS_execve, SYS_execveat, SYS_ptrace,
#ifdef SYS_fork
                             SYS_fork,  SYS_vfork,
#endif
                             SYS_clone3};
    enum { COUNT = sizeof forbidden / sizeof *forbidden };
    struct sock_filter code[COUNT + 3] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    for (int i = 0; i < COUNT; ++i)
        code[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)forbidden[i],
                                                   (unsigned char)(COUNT - i), 0);
    code[1 + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[2 + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    const struct sock_fprog program = {COUNT + 3, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        perror("seccomp");
        exit(77);
    }
}

static int call_in_a_sandbox(const char* port) {
    forbid_processes();
    const struct sockaddr_in address = loopback(port);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (const void*)&address, sizeof address) < 0) {
        perror("connect");
        return 1;
    }
    char data[SIZE];
    if (send(fd, message, SIZE, 0) != SIZE) return 2;
    receive(fd, data);
    return memcmp(data, message, SIZE) ? 2 : 0;
}

int main(int count, char** words) {
    if (count == 4 && strcmp(words[1], "daemon") == 0) return serve_as_daemon(words[2], words[3]);
    if (count == 3 && strcmp(words[1], "drop") == 0) return call_itself_as_nobody(words[2]);
    if (count == 3 && strcmp(words[1], "seccomp") == 0) return call_in_a_sandbox(words[2]);
    return 64;
}
