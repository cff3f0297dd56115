// Interposers of the calls that move data between descriptors inside the kernel: between a file and the
// mirror they would move doorbell bytes.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "data.hpp"
#include "fail.hpp"
#include "hook.hpp"
#include "real.hpp"
#include "recognise.hpp"
#include "session/readiness.hpp"
#include "trace.hpp"
#include "wait.hpp"

namespace smbdirect::preload {
namespace {

// Whether bytes of this number are not the kernel's to move.
bool is_mirror(int fd) {
    if (is_plain(fd)) return false;
    const Held ours = hold(fd);
    return ours && ours->kind != Kind::beside;
}

// A buffer for the way from the file to the ring: from the stack where a piece fits, else mapped for the
// call.
class Buffer {
  public:
    explicit Buffer(size_t wanted) : data_(small_), size_(sizeof small_) {
        if (wanted <= sizeof small_) return;
        void* memory = mmap(nullptr, kLarge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) data_ = static_cast<char*>(memory), size_ = kLarge;
    }
    ~Buffer() {
        if (data_ != small_) munmap(data_, size_);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    char* data() { return data_; }
    size_t size() const { return size_; }

  private:
    static constexpr size_t kLarge = 256 * 1024;
    char small_[16 * 1024];
    char* data_;
    size_t size_;
};

// As sendfile(): reads at *offset, or at the file's own position, which moves on by what was sent.
ssize_t send_file(Attachment& attachment, int out, int in, off64_t* offset, size_t count) {
    off64_t position = offset ? *offset : static_cast<off64_t>(raw(SYS_lseek, in, 0, SEEK_CUR));
    if (position < 0) return errno = offset || errno == ESPIPE ? EINVAL : errno, -1;
    constexpr size_t kMost = 0x7ffff000;
    if (count > kMost) count = kMost;
    Buffer buffer(count);
    size_t sent = 0;
    int error = 0;
    while (sent < count) {
        const size_t wanted = std::min(count - sent, buffer.size());
        const long got = raw(SYS_pread64, in, buffer.data(), wanted, position);
        if (got < 0) error = errno == ESPIPE ? EINVAL : errno;
        if (got <= 0) break;
        const iovec piece{buffer.data(), static_cast<size_t>(got)};
        const ssize_t done = transmit(attachment, out, &piece, 1, 0);
        if (done < 0) error = errno;
        if (done <= 0) break;
        sent += static_cast<size_t>(done);
        position += done;
        if (done < got) break;
    }
    if (sent == 0 && error) return errno = error, -1;
    if (offset)
        *offset = position;
    else
        raw(SYS_lseek, in, position, SEEK_SET);
    return static_cast<ssize_t>(sent);
}

HOOK(ssize_t, sendfile, int out, int in, off64_t* offset, size_t count) {
    if (is_plain(out) && is_plain(in)) return real::sendfile(out, in, offset, count);
    const Held ours = hold(out);
    if (is_mirror(in)) return errno = offset ? ESPIPE : EINVAL, -1;
    if (!ours || ours->kind == Kind::beside) return real::sendfile(out, in, offset, count);
    if (ours->explicit_face()) return errno = EINVAL, -1;
    if (ours->kind != Kind::connection) return errno = ENOTCONN, -1;
    const int saved = errno;
    const ssize_t result = send_file(*ours, out, in, offset, count);
    if (result >= 0) errno = saved;
    if (tracing()) trace_call("sendfile", *ours, out, count, result);
    return result;
}
HOOK(ssize_t, sendfile64, int out, int in, off64_t* offset, size_t count) {
    return hook_sendfile(out, in, offset, count);
}

// ---- splice(), by way of a buffer. A pipe that poll() calls writable takes so much without blocking.
constexpr size_t kPiece = PIPE_BUF;

bool is_pipe(int fd) {
    struct stat status;
    return raw(SYS_fstat, fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

// Waits until the pipe can go on, unless it shall not: 0 or an errno.
int wait_for_pipe(int pipe, short events, bool may_wait) {
    pollfd entry{pipe, events, 0};
    const int ready = ::poll(&entry, 1, may_wait ? -1 : 0);
    return ready < 0 ? errno : ready == 0 ? EAGAIN : 0;
}
bool may_wait_for(int pipe, unsigned flags) {
    return !(flags & SPLICE_F_NONBLOCK) && !is_nonblocking(pipe, 0);
}

// What is looked at is consumed as far as the pipe has taken it.
ssize_t splice_to_pipe(Attachment& attachment, int fd, int pipe, size_t count, unsigned flags) {
    size_t moved = 0;
    while (moved < count) {
        if (const int error = wait_for_pipe(pipe, POLLOUT, !moved && may_wait_for(pipe, flags)))
            return moved ? static_cast<ssize_t>(moved) : fail_with(error);
        char buffer[kPiece];
        const iovec piece{buffer, std::min(count - moved, sizeof buffer)};
        const ssize_t here = receive(attachment, fd, &piece, 1, MSG_PEEK | (moved ? MSG_DONTWAIT : 0));
        if (here <= 0) return moved ? static_cast<ssize_t>(moved) : here;
        const long taken = raw(SYS_write, pipe, buffer, here);
        if (taken <= 0) return moved ? static_cast<ssize_t>(moved) : taken;
        const iovec gone{buffer, static_cast<size_t>(taken)};
        receive(attachment, fd, &gone, 1, MSG_TRUNC | MSG_DONTWAIT);
        moved += static_cast<size_t>(taken);
    }
    return static_cast<ssize_t>(moved);
}

// No more is taken out of the pipe than the connection has room for. If another thread was quicker there,
// this one waits: what has left the pipe cannot go back.
ssize_t splice_from_pipe(Attachment& attachment, int pipe, int fd, size_t count, unsigned flags) {
    const size_t size = attachment.view.transmit_size;
    size_t moved = 0;
    while (moved < count) {
        const size_t room = size - session::stream_unsent(attachment.view);
        if (room == 0 && (moved || is_nonblocking(fd, 0)))
            return moved ? static_cast<ssize_t>(moved) : fail_with(EAGAIN);
        if (const int error = wait_for_pipe(pipe, POLLIN, !moved && may_wait_for(pipe, flags)))
            return moved ? static_cast<ssize_t>(moved) : fail_with(error);
        char buffer[kPiece];
        const long here =
            raw(SYS_read, pipe, buffer, std::min({count - moved, sizeof buffer, std::max<size_t>(room, 1)}));
        if (here <= 0) return moved ? static_cast<ssize_t>(moved) : here;
        for (size_t sent = 0; sent < static_cast<size_t>(here);) {
            const iovec piece{buffer + sent, static_cast<size_t>(here) - sent};
            const ssize_t done = transmit(attachment, fd, &piece, 1, 0);
            if (done < 0 && errno != EAGAIN) return moved ? static_cast<ssize_t>(moved) : done;
            if (done < 0) wait_for_pipe(fd, POLLOUT, true);
            if (done > 0) sent += static_cast<size_t>(done), moved += static_cast<size_t>(done);
        }
    }
    return static_cast<ssize_t>(moved);
}

ssize_t splice_ours(int in, const off64_t* in_offset, int out, const off64_t* out_offset, size_t count,
                    unsigned flags) {
    const bool to_pipe = is_mirror(in);
    const Held ours = hold(to_pipe ? in : out);
    if (!ours || ours->explicit_face()) return fail_with(EINVAL);
    if (!is_pipe(to_pipe ? out : in)) return fail_with(EINVAL);
    if (to_pipe ? out_offset : in_offset) return fail_with(ESPIPE);  // of the pipe
    if (in_offset || out_offset) return fail_with(EINVAL);
    if (ours->kind != Kind::connection) return fail_with(ENOTCONN);
    const int saved = errno;
    const ssize_t result = to_pipe ? splice_to_pipe(*ours, in, out, count, flags)
                                   : splice_from_pipe(*ours, in, out, count, flags);
    if (result >= 0) errno = saved;
    if (tracing()) trace_call("splice", *ours, to_pipe ? in : out, count, result);
    return result;
}

HOOK(ssize_t, splice, int in, off64_t* in_offset, int out, off64_t* out_offset, size_t count,
     unsigned flags) {
    if (is_mirror(in) || is_mirror(out)) return splice_ours(in, in_offset, out, out_offset, count, flags);
    return real::splice(in, in_offset, out, out_offset, count, flags);
}

// EINVAL is what these calls say of a descriptor that cannot; programs then read and write.
HOOK(ssize_t, tee, int in, int out, size_t count, unsigned flags) {
    if (is_mirror(in) || is_mirror(out)) return errno = EINVAL, -1;
    return real::tee(in, out, count, flags);
}

HOOK(ssize_t, vmsplice, int fd, const iovec* iov, size_t count, unsigned flags) {
    if (is_mirror(fd)) return errno = EBADF, -1;
    return real::vmsplice(fd, iov, count, flags);
}

HOOK(ssize_t, copy_file_range, int in, off64_t* in_offset, int out, off64_t* out_offset, size_t count,
     unsigned flags) {
    if (is_mirror(in) || is_mirror(out)) return errno = EINVAL, -1;
    return real::copy_file_range(in, in_offset, out, out_offset, count, flags);
}

}  // namespace
}  // namespace smbdirect::preload
