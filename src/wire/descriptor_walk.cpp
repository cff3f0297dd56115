#include "wire/descriptor_walk.hpp"

#include <algorithm>
#include <limits>

namespace smbdirect::wire {

Result<size_t> walk_descriptors(std::span<const BufferDescriptorV1> descriptors, uint64_t offset,
                                uint64_t length, std::span<BufferDescriptorV1> pieces) {
    size_t count = 0;
    uint64_t skip = offset, left = length;
    if (left == 0) descriptors = {};  // nothing to cover
    for (const BufferDescriptorV1& descriptor : descriptors) {
        if (skip >= descriptor.length) {  // [MS-SMBD] 3.1.4.5: Offset is beyond this one, or it is empty
            skip -= descriptor.length;
            continue;
        }
        // The first piece starts `skip` bytes in; the last is cut to what is left. Both are below 2^32 here.
        const auto piece = static_cast<uint32_t>(std::min<uint64_t>(descriptor.length - skip, left));
        // A peer may name any address; one whose piece would wrap around lies in no buffer.
        if (descriptor.offset > std::numeric_limits<uint64_t>::max() - skip - (piece - 1))
            return fail(Reason::descriptor_range, EINVAL);
        if (count == pieces.size()) return fail(Reason::engine_resources, ENOBUFS);
        pieces[count++] = {descriptor.offset + skip, descriptor.token, piece};
        skip = 0;
        left -= piece;
        if (left == 0) break;
    }
    if (left != 0) return fail(Reason::descriptor_range, EINVAL);  // past the end: no partial transfer
    return count;
}

}  // namespace smbdirect::wire
