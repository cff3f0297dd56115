// Which parts of a peer's buffer an RDMA READ or WRITE touches. The buffer is described by an array of Buffer
// Descriptor V1, in order and without gaps between the elements [MS-SMBD] 3.1.4.5, 3.1.4.6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "wire/smbd.hpp"

namespace smbdirect::wire {

// Writes the pieces that cover exactly [offset, offset + length) of the described buffer to `pieces`, in
// order, and returns how many; each is a part of one descriptor that names an address, a token and a length >
// 0. As many pieces as descriptors always suffice. All or nothing: an error means that no transfer may be
// issued. Errors: descriptor_range with EINVAL (past the end, or an address that wraps), engine_resources
// with ENOBUFS.
Result<size_t> walk_descriptors(std::span<const BufferDescriptorV1> descriptors, uint64_t offset,
                                uint64_t length, std::span<BufferDescriptorV1> pieces);

}  // namespace smbdirect::wire
