/* Plays a kernel that grants user space IPPROTO_SMBDIRECT sockets: what it gives is TCP, which is enough to
 * see whose they are. */
#include <smbdirect/smbdirect.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int socket(int domain, int type, int protocol);
int socket(int domain, int type, int protocol) {
    return (int)syscall(SYS_socket, domain, type, protocol == IPPROTO_SMBDIRECT ? 0 : protocol);
}
