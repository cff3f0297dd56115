// The requests of one connection that were translated and whose final reply has not been seen, by MessageId.
// All memory is taken at construction (and not touched before it is used).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "smb2/remote_buffer.hpp"
#include "wire/smb2.hpp"

namespace smbdirect::smb2 {

struct Request {
    uint64_t message_id = 0;
    wire::smb2::Command command = wire::smb2::Command::read;
    bool refused = false;  // the program was made to refuse it: its reply carries no data
    bool in_compound = false;
    uint64_t compound_first = 0, compound_last = 0;  // MessageIds of that compound
    uint32_t length = 0;                             // bytes that it moves
    std::optional<uint32_t> token;                   // to be invalidated with the final reply
    uint32_t cookie = 0;                             // the owner's
    uint32_t first_descriptor = 0, descriptors = 0;  // READ: where the data goes, in the table's pool
};

// Of a reply's header: another one follows, and the request stays outstanding [MS-SMB2] 3.3.4.2.
inline bool is_interim(const wire::smb2::Header& reply) {
    return reply.status == wire::smb2::kStatusPending && (reply.flags & wire::smb2::async_command);
}

// Whether what was read comes with this reply; STATUS_BUFFER_OVERFLOW is no error here [MS-SMB2] 3.3.4.4.
inline bool carries_data(const wire::smb2::Header& reply, const Request& request) {
    using namespace wire::smb2;
    return !request.refused && request.command == Command::read && reply.command == Command::read &&
           (reply.status == kStatusSuccess || reply.status == kStatusBufferOverflow);
}

class Outstanding {
  public:
    Outstanding(uint32_t max_requests, uint32_t max_descriptors) : max_descriptors_(max_descriptors) {
        requests_.reserve(max_requests);
        pool_.reserve(max_descriptors);
    }

    bool empty() const { return requests_.empty(); }
    size_t size() const { return requests_.size(); }
    bool any_in_compound() const { return in_compound_ != 0; }
    bool has_room(size_t descriptors) const {
        return requests_.size() < requests_.capacity() && live_ + descriptors <= max_descriptors_;
    }

    // The caller has asked has_room() and knows that the MessageId is not there.
    void add(Request request, std::span<const Descriptor> destination) {
        if (pool_.size() + destination.size() > max_descriptors_) compact();
        request.first_descriptor = static_cast<uint32_t>(pool_.size());
        request.descriptors = static_cast<uint32_t>(destination.size());
        pool_.insert(pool_.end(), destination.begin(), destination.end());
        live_ += request.descriptors;
        in_compound_ += request.in_compound;
        requests_.push_back(request);
    }

    // Few are outstanding at a time, and a scan of thousands is a matter of microseconds for the one who
    // caused it.
    Request* find(uint64_t message_id) {
        for (auto& request : requests_)
            if (request.message_id == message_id) return &request;
        return nullptr;
    }
    // Whether an element of a reply with this MessageId can belong to a compound with a translated request in
    // it.
    bool has_compound_with(uint64_t message_id) const {
        if (!any_in_compound()) return false;
        for (const auto& request : requests_)
            if (request.in_compound && message_id >= request.compound_first &&
                message_id <= request.compound_last)
                return true;
        return false;
    }
    std::span<const Descriptor> destination(const Request& request) const {
        return {pool_.data() + request.first_descriptor, request.descriptors};
    }

    void remove(Request* request) {
        live_ -= request->descriptors;
        in_compound_ -= request->in_compound;
        *request = requests_.back();
        requests_.pop_back();
        if (live_ == 0) pool_.clear();
    }

  private:
    // Moves the descriptors in use together, in the order in which they lie.
    void compact();

    uint32_t max_descriptors_;
    std::vector<Request> requests_;
    std::vector<Descriptor> pool_;
    uint32_t live_ = 0, in_compound_ = 0;
};

}  // namespace smbdirect::smb2
