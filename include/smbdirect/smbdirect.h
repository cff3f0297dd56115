/* The C interface to SMBDIRECT sockets, as the Linux kernel series "IPPROTO_SMBDIRECT" of April 2026 names it:
 *
 *     int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_SMBDIRECT);
 *
 * The numbers are those of the series and not registered anywhere; should the kernel choose others, the library takes
 * the protocol number from the environment (SMBDIRECT_PROTOCOL). */
#ifndef SMBDIRECT_SMBDIRECT_H
#define SMBDIRECT_SMBDIRECT_H

#include <stdint.h>
#include <sys/ioctl.h>

#ifndef IPPROTO_SMBDIRECT
#define IPPROTO_SMBDIRECT 257
#endif

#ifndef SOL_SMBDIRECT
#define SOL_SMBDIRECT 289
#endif

/* cmsg of sendmsg(), level SOL_SMBDIRECT: the message goes out as SEND WITH INVALIDATE of this token. The data is a
 * struct smbdirect_remote_invalidate, cmsg_len CMSG_LEN(4). */
struct smbdirect_remote_invalidate {
    uint32_t remote_token; /* host byte order */
};
#define SMBDIRECT_CMSG_REMOTE_INVALIDATE _IOW('S', 0x20, struct smbdirect_remote_invalidate)

#endif
