// Whether the program's buffer is there, asked before it is touched: where a system call answers EFAULT, a
// copy in the program itself would end it by SIGSEGV, in the middle of somebody's stream.
#pragma once

#include <sys/uio.h>

#include <cstddef>

namespace smbdirect::preload {

// Asks for the first and the last byte; a hole in the middle is not found. Costs a system call for a page
// that was not seen before, else a few loads. Preserves errno.
bool can_read(const void* from, size_t size);
bool can_write(void* to, size_t size);

// Whether the kernel would not even look: a part lies in its own half of the addresses.
bool is_kernels(const iovec* iov, size_t count);
bool can_read_all(const iovec* iov, int count);
bool can_write_all(const iovec* iov, int count);

}  // namespace smbdirect::preload
