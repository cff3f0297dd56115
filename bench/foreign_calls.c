/* Calls on descriptors that are not SMBDIRECT's, as a program makes them: nanoseconds of each, the least of
 * many rounds. Without the library and with it, one after the other (bench/foreign), they show what a guest
 * costs its host. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 200, CALLS = 2000 };
static int zero, null, client, server;
static char byte;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char* what) {
    perror(what);
    exit(1);
}

static void read_file(void) {
    if (read(zero, &byte, 1) != 1) fail("read");
}
static void write_file(void) {
    if (write(null, &byte, 1) != 1) fail("write");
}
static void send_and_receive(void) {
    if (send(client, &byte, 1, 0) != 1 || recv(server, &byte, 1, 0) != 1) fail("send and recv");
}
static void receive_nothing(void) {
    if (recv(server, &byte, 1, MSG_DONTWAIT) != -1) fail("recv");
}
static void get_option(void) {
    int value;
    socklen_t length = sizeof value;
    if (getsockopt(server, SOL_SOCKET, SO_TYPE, &value, &length)) fail("getsockopt");
}
static void copy_and_close(void) {
    const int copy = dup(zero);
    if (copy < 0 || close(copy)) fail("dup and close");
}
static void open_and_close(void) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || close(fd)) fail("socket and close");
}

static void measure(const char* name, void (*call)(void)) {
    int64_t least = INT64_MAX;
    for (int round = 0; round < ROUNDS; ++round) {
        const int64_t start = now();
        for (int i = 0; i < CALLS; ++i) call();
        const int64_t taken = now() - start;
        if (taken < least) least = taken;
    }
    printf("%s\t%.1f\n", name, (double)least / CALLS);
}

static void connect_pair(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    client = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void*)&address, length) || listen(listener, 1) ||
        getsockname(listener, (void*)&address, &length) || connect(client, (void*)&address, length) ||
        (server = accept(listener, NULL, NULL)) < 0)
        fail("connection");
    close(listener);
}

int main(void) {
    zero = open("/dev/zero", O_RDONLY);
    null = open("/dev/null", O_WRONLY);
    if (zero < 0 || null < 0) fail("open");
    connect_pair();
    measure("read of a file", read_file);
    measure("write to a file", write_file);
    measure("send and recv, TCP", send_and_receive);
    measure("recv of nothing, TCP", receive_nothing);
    measure("getsockopt, TCP", get_option);
    measure("dup and close", copy_and_close);
    measure("socket and close", open_and_close);
    return 0;
}
