/* A server and a client over SMBDIRECT sockets, for a kernel that has them or for libsmbdirect.so:
 *
 *     LD_PRELOAD=libsmbdirect.so ./echo serve 127.0.0.1 4450 [MESSAGES]
 *     LD_PRELOAD=libsmbdirect.so ./echo call 127.0.0.1 4450 TEXT...
 *
 * The server sends each message back to who sent it, one client after the other, and ends after so many
 * messages. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <smbdirect/smbdirect.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST = 1 << 20 };
static char buffer[MOST];

static void die(const char* what) {
    perror(what);
    exit(1);
}

/* An address of the family that the socket will have: SMBDIRECT sockets know no IPv4-mapped addresses. */
static struct addrinfo* address_of(const char* host, const char* port) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    const int error = getaddrinfo(host, port, &hints, &found);
    if (error) {
        fprintf(stderr, "%s port %s: %s\n", host, port, gai_strerror(error));
        exit(2);
    }
    return found;
}

/* One call, one message: 4 bytes of length in network order, and exactly so many bytes behind them, however
 * they are spread over the pieces. The length does not go on the wire. */
static int send_message(int fd, const void* data, size_t size) {
    uint32_t length = htonl((uint32_t)size);
    struct iovec pieces[] = {{&length, sizeof length}, {(void*)data, size}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
    return sendmsg(fd, &message, 0) < 0 ? -1 : 0;
}

/* The length first, then the message; a blocking receive waits for all that it asks for. -1 with errno:
 * ENOTCONN is the end. */
static ssize_t receive_message(int fd, void* data, size_t room) {
    uint32_t length;
    if (recv(fd, &length, sizeof length, 0) < 0) return -1;
    length = ntohl(length);
    if (length > room) {
        errno = EMSGSIZE;
        return -1;
    }
    return recv(fd, data, length, 0);
}

static int serve(const char* host, const char* port, long messages) {
    struct addrinfo* address = address_of(host, port);
    const int listener = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_SMBDIRECT);
    if (listener < 0) die("socket");
    if (bind(listener, address->ai_addr, address->ai_addrlen) < 0) die("bind");
    if (listen(listener, 5) < 0) die("listen");
    printf("listening on %s port %s\n", host, port);
    fflush(stdout);
    for (int client; messages != 0 && (client = accept(listener, NULL, NULL)) >= 0; close(client)) {
        ssize_t size;
        while (messages != 0 && (size = receive_message(client, buffer, sizeof buffer)) >= 0) {
            if (send_message(client, buffer, (size_t)size) < 0) die("send");
            if (messages > 0) --messages;
        }
    }
    freeaddrinfo(address);
    return 0;
}

static int call(const char* host, const char* port, char** texts) {
    struct addrinfo* address = address_of(host, port);
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_SMBDIRECT);
    if (fd < 0) die("socket");
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0) die("connect");
    for (; *texts; ++texts) {
        if (send_message(fd, *texts, strlen(*texts)) < 0) die("send");
        const ssize_t size = receive_message(fd, buffer, sizeof buffer);
        if (size < 0) die("receive");
        printf("%.*s\n", (int)size, buffer);
    }
    close(fd);
    freeaddrinfo(address);
    return 0;
}

int main(int count, char** words) {
    if ((count == 4 || count == 5) && strcmp(words[1], "serve") == 0)
        return serve(words[2], words[3], count == 5 ? atol(words[4]) : -1);
    if (count > 4 && strcmp(words[1], "call") == 0) return call(words[2], words[3], words + 4);
    fprintf(stderr, "usage: %s serve ADDRESS PORT [MESSAGES] | call ADDRESS PORT TEXT...\n", words[0]);
    return 2;
}
