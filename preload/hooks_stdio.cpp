// Interposers of what libc would do with a descriptor behind our back: streams, dprintf() and POSIX AIO call
// the kernel from inside libc. A stream over a connection becomes one whose reads and writes are ours, AIO is
// refused.
#include <aio.h>
#include <stdio.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>

#include "data.hpp"
#include "hook.hpp"
#include "life.hpp"
#include "real.hpp"
#include "recognise.hpp"

extern "C" int hook_close(int fd) __asm__(SMBDIRECT_HOOK_NAME(close));
extern "C" ssize_t hook_read(int fd, void* buffer, size_t size) __asm__(SMBDIRECT_HOOK_NAME(read));
extern "C" ssize_t hook_write(int fd, const void* buffer, size_t size) __asm__(SMBDIRECT_HOOK_NAME(write));

namespace smbdirect::preload {
namespace {

bool is_mirror(int fd) {
    if (is_plain(fd)) [[likely]]
        return false;
    const Held ours = hold(fd);
    return ours && ours->kind == Kind::connection;
}

// ---- streams

int number(void* cookie) { return static_cast<int>(reinterpret_cast<intptr_t>(cookie)); }

ssize_t read_stream(void* cookie, char* buffer, size_t size) {
    return hook_read(number(cookie), buffer, size);
}

// All of it or an error, as libc's own streams; a count below `size` is how a cookie says error.
ssize_t write_stream(void* cookie, const char* buffer, size_t size) {
    size_t done = 0;
    while (done < size) {
        const ssize_t result = hook_write(number(cookie), buffer + done, size - done);
        if (result <= 0) break;
        done += static_cast<size_t>(result);
    }
    return static_cast<ssize_t>(done);
}

int no_seek(void*, off64_t*, int) {
    errno = ESPIPE;
    return -1;
}

int close_stream(void* cookie) { return hook_close(number(cookie)); }

HOOK(FILE*, fdopen, int fd, const char* mode) {
    if (!is_mirror(fd)) return real::fdopen(fd, mode);
    FILE* stream = fopencookie(reinterpret_cast<void*>(static_cast<intptr_t>(fd)), mode,
                               {read_stream, write_stream, no_seek, close_stream});
    if (stream) stream->_fileno = fd;  // for fileno(); no function of such a stream uses it
    return stream;
}

// Of libc's own streams alone: libc's close is not seen by anybody. Ours close by close_stream().
bool is_libcs_own(const FILE* stream) {
    constexpr int kIsFileBuffer = 0x2000;  // _IO_IS_FILEBUF
    return stream->_flags & kIsFileBuffer;
}

HOOK(int, fclose, FILE* stream) {
    if (stream && is_libcs_own(stream)) {
        const int saved = errno;
        const int fd = fileno_unlocked(stream);
        errno = saved;
        if (fd >= 0 && fd_table.peek(fd) != unknown) forget(fd);
    }
    return real::fclose(stream);
}

// ---- formatted output

int print(int fd, const char* format, va_list arguments) {
    char* text = nullptr;
    const int size = vasprintf(&text, format, arguments);
    if (size < 0) return size;
    const bool whole = write_stream(reinterpret_cast<void*>(static_cast<intptr_t>(fd)), text,
                                    static_cast<size_t>(size)) == size;
    const int error = errno;
    free(text);
    errno = error;
    return whole ? size : -1;
}

HOOK(int, vdprintf, int fd, const char* format, va_list arguments) {
    return is_mirror(fd) ? print(fd, format, arguments) : real::vdprintf(fd, format, arguments);
}
HOOK(int, __vdprintf_chk, int fd, int flag, const char* format, va_list arguments) {
    return is_mirror(fd) ? print(fd, format, arguments) : real::__vdprintf_chk(fd, flag, format, arguments);
}
HOOK(int, dprintf, int fd, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int result = hook_vdprintf(fd, format, arguments);
    va_end(arguments);
    return result;
}
HOOK(int, __dprintf_chk, int fd, int flag, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int result = hook___vdprintf_chk(fd, flag, format, arguments);
    va_end(arguments);
    return result;
}

// ---- POSIX AIO: threads inside libc would move the mirror's bytes. EINVAL, as of any descriptor that
// cannot.

int refused() {
    errno = EINVAL;
    return -1;
}

HOOK(int, aio_read, aiocb* request) {
    return request && is_mirror(request->aio_fildes) ? refused() : real::aio_read(request);
}
HOOK(int, aio_write, aiocb* request) {
    return request && is_mirror(request->aio_fildes) ? refused() : real::aio_write(request);
}
HOOK(int, aio_read64, aiocb64* request) {
    return request && is_mirror(request->aio_fildes) ? refused() : real::aio_read64(request);
}
HOOK(int, aio_write64, aiocb64* request) {
    return request && is_mirror(request->aio_fildes) ? refused() : real::aio_write64(request);
}

template <class Request>
bool any_is_ours(Request* const list[], int count) {
    for (int i = 0; list && i < count; ++i)
        if (list[i] && list[i]->aio_lio_opcode != LIO_NOP && is_mirror(list[i]->aio_fildes)) return true;
    return false;
}
HOOK(int, lio_listio, int mode, aiocb* const list[], int count, sigevent* event) {
    return any_is_ours(list, count) ? refused() : real::lio_listio(mode, list, count, event);
}
HOOK(int, lio_listio64, int mode, aiocb64* const list[], int count, sigevent* event) {
    return any_is_ours(list, count) ? refused() : real::lio_listio64(mode, list, count, event);
}

}  // namespace
}  // namespace smbdirect::preload
