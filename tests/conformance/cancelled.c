// cancelled CALL FD: a thread makes the call on an inherited descriptor, is cancelled while it sleeps in it, and is said to
// have been; then the descriptor must still serve: what comes next is received and counted.
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *call;
static int fd;
static volatile int thread_id;

static void *act(void *unused) {
    static char buffer[1 << 20];
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct pollfd one = {fd, POLLIN, 0};
    (void)unused;
    thread_id = gettid();
    if (!strcmp(call, "recv")) recv(fd, buffer, sizeof buffer, 0);
    if (!strcmp(call, "recv-all")) recv(fd, buffer, sizeof buffer, MSG_WAITALL);
    if (!strcmp(call, "read")) (void)!read(fd, buffer, sizeof buffer);
    if (!strcmp(call, "readv")) (void)!readv(fd, &part, 1);
    if (!strcmp(call, "recvmsg")) recvmsg(fd, &message, 0);
    if (!strcmp(call, "accept")) accept(fd, NULL, NULL);
    if (!strcmp(call, "poll")) poll(&one, 1, -1);
    if (!strcmp(call, "select")) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        select(fd + 1, &set, NULL, NULL, NULL);
    }
    if (!strcmp(call, "epoll")) {
        struct epoll_event event = {.events = EPOLLIN};
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        epoll_wait(epoll, &event, 1, -1);
    }
    return NULL;
}

static int sleeps(void) {
    char path[64], text[512], *end;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread_id);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    end = strrchr(text, ')');
    return end && end[2] == 'S';
}

int main(int count, char **arguments) {
    pthread_t thread;
    void *result = NULL;
    char buffer[64];
    if (count != 3) return 2;
    call = arguments[1];
    fd = atoi(arguments[2]);
    pthread_create(&thread, NULL, act, NULL);
    while (!thread_id || !sleeps()) usleep(1000);
    usleep(20000);  // it may have slept on its way there
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("%s\n", result == PTHREAD_CANCELED ? "cancelled" : "came back");
    fflush(stdout);
    if (strcmp(call, "accept")) {
        printf("%zd\n", recv(fd, buffer, sizeof buffer, 0));
    } else {
        int accepted = accept(fd, NULL, NULL);
        printf("%zd\n", recv(accepted, buffer, sizeof buffer, 0));
    }
    return 0;
}
