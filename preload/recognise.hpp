// Finding out what a descriptor number is, when a call first sees it. What makes a descriptor ours lies in
// the kernel (the bound name of the socket, readiness.md section 7), so that it survives fork, exec, dup and
// SCM_RIGHTS.
#pragma once

#include "attachment.hpp"

namespace smbdirect::preload {

// Looks at the socket, and enters into the table what it is. Preserves errno. Null where it is not ours.
Held recognise(int fd);

// Takes an attachment out of the table again if the number is no longer what it stands for: where close() in
// one thread met recognise() in another.
void forget_if_stale(int fd);

// True for a number that is known not to be ours: what every interposer asks first.
inline bool is_plain(int fd) {
    const uintptr_t word = fd_table.peek(fd);
    return word != unknown && !FdTable::is_attachment(word);
}

// The attachment of a number, which is looked at if need be.
inline Held hold(int fd) {
    const uintptr_t word = fd_table.peek(fd);
    if (word == unknown) return recognise(fd);
    if (!FdTable::is_attachment(word)) [[likely]]
        return Held();
    return Held(fd_table.acquire(fd));
}

// Asks the engine for the memory of the connection that `a` belongs to. Null with errno: it cannot be had.
Attachment* attach(int a);
// An attachment over the memory that the engine passed. Null with errno: what was passed is no such memory.
Attachment* attachment_from(int memfd);

// Values of getsockopt(SOL_SOCKET), -1 on error.
int socket_value(int fd, int level, int option);

}  // namespace smbdirect::preload
