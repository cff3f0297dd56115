#include "smb2/outstanding.hpp"

#include <algorithm>

namespace smbdirect::smb2 {

void Outstanding::compact() {
    std::sort(requests_.begin(), requests_.end(),
              [](const Request& a, const Request& b) { return a.first_descriptor < b.first_descriptor; });
    uint32_t end = 0;
    for (auto& request : requests_) {
        std::copy_n(pool_.begin() + request.first_descriptor, request.descriptors, pool_.begin() + end);
        request.first_descriptor = end;
        end += request.descriptors;
    }
    pool_.resize(end);
}

}  // namespace smbdirect::smb2
