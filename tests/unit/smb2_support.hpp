// SMB2 messages made and read by plain offsets of facts/smb2-channel.md section 1, apart from src/wire, so
// that both can be wrong only apart from each other; and what the engine does with the translation, in a few
// lines.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <stdexcept>

#include "smb2/compound_guard.hpp"
#include "smb2/server_channels.hpp"
#include "support/bytes.hpp"

namespace smbdirect::test {

using smb2::Descriptor;
using smb2::ServerChannels;

inline uint64_t get(std::span<const std::byte> bytes, size_t at, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= std::to_integer<uint64_t>(bytes[at + i]) << (8 * i);
    return value;
}
inline void put(Bytes& bytes, size_t at, size_t size, uint64_t value) {
    for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}
inline Bytes pattern(size_t size, uint64_t seed) {
    Random random(seed);
    Bytes bytes(size);
    for (auto& b : bytes) b = static_cast<std::byte>(random.next());
    return bytes;
}
inline Bytes joined(Bytes a, std::span<const std::byte> b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

constexpr unsigned kTreeConnect = 3, kClose = 6, kRead = 8, kWrite = 9, kCancel = 12;
constexpr uint32_t kReplyFlag = 1, kAsyncFlag = 2, kRelatedFlag = 4, kSignedFlag = 8;
constexpr uint32_t kEndOfFile = 0xc0000011, kInvalidParameter = 0xc000000d, kCancelled = 0xc0000120;

inline Bytes smb2_message(size_t size, unsigned command, uint64_t id, uint32_t flags = 0,
                          uint32_t status = 0) {
    Bytes bytes(size);
    put(bytes, 0, 4, 0x424d53fe);
    put(bytes, 4, 2, 64);
    put(bytes, 6, 2, 1);
    put(bytes, 8, 4, status);
    put(bytes, 12, 2, command);
    put(bytes, 14, 2, 9);
    put(bytes, 16, 4, flags);
    put(bytes, 24, 8, id);
    put(bytes, 36, 4, 5);
    put(bytes, 40, 8, 0x1122334455667788);
    return bytes;
}
inline Bytes tree_connected(uint8_t share_type, uint32_t tree, uint64_t session, uint32_t status = 0) {
    Bytes bytes = smb2_message(80, kTreeConnect, 3, kReplyFlag, status);
    put(bytes, 36, 4, tree);
    put(bytes, 40, 8, session);
    put(bytes, 64, 2, 16);
    put(bytes, 66, 1, share_type);
    return bytes;
}
inline Bytes negotiate_reply(uint16_t dialect, uint32_t max_read = 8u << 20, uint32_t max_write = 8u << 20) {
    Bytes bytes = smb2_message(200, 0, 0, kReplyFlag);
    put(bytes, 64, 2, 65);
    put(bytes, 68, 2, dialect);
    put(bytes, 92, 4, 8u << 20);
    put(bytes, 96, 4, max_read);
    put(bytes, 100, 4, max_write);
    return bytes;
}

struct Ask {
    bool write = false;
    uint64_t id = 8;
    uint32_t amount = 8192;
    uint32_t channel = 2;
    std::vector<Descriptor> descriptors = {{0x7f00deadb000, 0x00a1b2c3, 8192}};
    uint64_t file_offset = 0;
    uint32_t flags = 0;
    size_t info_offset = 112;  // what is before it is padding
};
inline Bytes channel_request(const Ask& ask) {
    const size_t info = ask.descriptors.size() * 16;
    Bytes bytes = smb2_message(std::max<size_t>(ask.info_offset + info, 113), ask.write ? kWrite : kRead,
                               ask.id, ask.flags);
    put(bytes, 64, 2, 49);
    if (!ask.write) put(bytes, 68, 4, ask.amount);
    put(bytes, 72, 8, ask.file_offset);
    const size_t at = ask.write ? 96 : 100;
    put(bytes, at, 4, ask.channel);
    put(bytes, at + 4, 4, ask.write ? ask.amount : 0);
    put(bytes, at + 8, 2, ask.info_offset);
    put(bytes, at + 10, 2, info);
    for (size_t i = 0; i < ask.descriptors.size(); ++i) {
        put(bytes, ask.info_offset + 16 * i, 8, ask.descriptors[i].offset);
        put(bytes, ask.info_offset + 16 * i + 8, 4, ask.descriptors[i].token);
        put(bytes, ask.info_offset + 16 * i + 12, 4, ask.descriptors[i].length);
    }
    return bytes;
}
// What smbd and smbclient know: no channel.
inline Bytes inline_read(uint64_t id, uint32_t amount, uint32_t flags = 0, uint64_t file_offset = 0) {
    Bytes bytes = smb2_message(113, kRead, id, flags);
    put(bytes, 64, 2, 49);
    put(bytes, 68, 4, amount);
    put(bytes, 72, 8, file_offset);
    return bytes;
}
inline Bytes inline_write(uint64_t id, std::span<const std::byte> data, uint32_t flags = 0,
                          uint64_t file_offset = 0) {
    Bytes bytes = smb2_message(112, kWrite, id, flags);
    put(bytes, 64, 2, 49);
    put(bytes, 66, 2, 112);
    put(bytes, 68, 4, data.size());
    put(bytes, 72, 8, file_offset);
    return joined(bytes, data);
}
inline Bytes close_request(uint64_t id) {
    Bytes bytes = smb2_message(88, kClose, id);
    put(bytes, 64, 2, 24);
    return bytes;
}
inline Bytes read_reply(uint64_t id, std::span<const std::byte> data, uint32_t status = 0,
                        uint32_t flags = 0) {
    Bytes bytes = smb2_message(80, kRead, id, kReplyFlag | flags, status);
    put(bytes, 64, 2, 17);
    put(bytes, 66, 1, 80);
    put(bytes, 68, 4, data.size());
    return joined(bytes, data);
}
inline Bytes write_reply(uint64_t id, uint32_t count, uint32_t flags = 0) {
    Bytes bytes = smb2_message(80, kWrite, id, kReplyFlag | flags);
    put(bytes, 64, 2, 17);
    put(bytes, 68, 4, count);
    return bytes;
}
inline Bytes error_reply(unsigned command, uint64_t id, uint32_t status, uint32_t flags = 0) {
    Bytes bytes = smb2_message(73, command, id, kReplyFlag | flags, status);
    put(bytes, 64, 2, 9);
    return bytes;
}
inline Bytes interim_reply(unsigned command, uint64_t id) {
    return error_reply(command, id, 0x103, kAsyncFlag);
}
inline Bytes compound(const std::vector<Bytes>& elements) {
    Bytes all;
    for (size_t i = 0; i < elements.size(); ++i) {
        const size_t start = all.size();
        all.insert(all.end(), elements[i].begin(), elements[i].end());
        if (i + 1 == elements.size()) break;
        all.resize((all.size() + 7) & ~size_t{7});
        put(all, start + 20, 4, all.size() - start);
    }
    return all;
}
// Insists on a sound chain.
inline std::vector<Bytes> elements_of(std::span<const std::byte> message) {
    std::vector<Bytes> elements;
    for (;;) {
        if (message.size() < 64 || get(message, 0, 4) != 0x424d53fe) throw std::logic_error("no header");
        const size_t next = get(message, 20, 4);
        if (next % 8 != 0 || next > message.size()) throw std::logic_error("bad NextCommand");
        const auto element = next ? message.first(next) : message;
        elements.emplace_back(element.begin(), element.end());
        if (!next) return elements;
        message = message.subspan(next);
    }
}

// Whether the program would answer one of the elements inline and lose the data. Reads on as far as it can.
inline bool overlooked_channel(std::span<const std::byte> message) {
    while (message.size() >= 112 && get(message, 0, 4) == 0x424d53fe) {
        const uint64_t next = get(message, 20, 4), command = get(message, 12, 2);
        if (next == 0 || next >= 112) {
            if (command == kRead && get(message, 100, 4) != 0) return true;
            if (command == kWrite && get(message, 96, 4) != 0 && get(message, 66, 2) == 112) return true;
        }
        if (next < 64 || next > message.size()) break;
        message = message.subspan(next);
    }
    return false;
}

// The client's registered buffers by token. Throws at what an RDMA device would refuse.
class RemoteMemory {
  public:
    void add(uint32_t token, uint64_t base, Bytes bytes) { regions_[token] = {base, std::move(bytes)}; }
    void remove(uint32_t token) { regions_.erase(token); }
    const Bytes& bytes(uint32_t token) const { return regions_.at(token).bytes; }
    std::span<std::byte> at(const Descriptor& d) {
        Region& region = regions_.at(d.token);
        if (d.offset < region.base || d.offset - region.base + d.length > region.bytes.size())
            throw std::logic_error("outside of the region");
        return std::span(region.bytes).subspan(d.offset - region.base, d.length);
    }

  private:
    struct Region {
        uint64_t base = 0;
        Bytes bytes;
    };
    std::map<uint32_t, Region> regions_;
};

inline std::span<const std::byte> look_part(std::span<const std::byte> message) {
    return message.first(std::min<size_t>(smb2::kLook, message.size()));
}

// ---- the engine's moves

struct Handed {  // to the program
    bool translated = false;
    Bytes message;
    std::vector<Descriptor> fetched;  // pieces, in order
    std::optional<Error> error;
    std::string refusal;
};
inline Handed hand_to_program(ServerChannels& server, std::span<const std::byte> request,
                              RemoteMemory* memory) {
    Handed handed{.message = Bytes(request.begin(), request.end())};
    const auto look = server.look_at_request(look_part(request), static_cast<uint32_t>(request.size()));
    if (look == ServerChannels::Look::oversized) {
        smb2::CompoundGuard guard;
        guard.begin();
        if (!guard.take(request)) handed.error = Error{Reason::channel_untranslated, ECONNRESET};
    } else if (look == ServerChannels::Look::whole) {
        const auto made = server.translate(request);
        if (!made) {
            handed.error = made.error();
        } else if (*made) {
            const smb2::TranslatedRequest& t = **made;
            handed.translated = true;
            handed.refusal = t.refusal;
            if (!t.refused) handed.refusal.clear();
            handed.message.clear();
            size_t taken = 0;
            for (const auto& fetch : t.fetches) {
                while (handed.message.size() < fetch.at) handed.message.push_back(t.bytes.at(taken++));
                if (handed.message.size() != fetch.at) throw std::logic_error("fetches overlap");
                smb2::RemoteCursor cursor(
                    std::span(t.sources).subspan(fetch.first_descriptor, fetch.descriptors));
                for (uint32_t left = fetch.length; left > 0;) {
                    const auto piece = cursor.next(left);
                    if (!piece) throw std::logic_error("no room for what is to be fetched");
                    cursor.take(piece->length);
                    handed.fetched.push_back(*piece);
                    if (memory)
                        handed.message = joined(std::move(handed.message), memory->at(*piece));
                    else
                        handed.message.resize(handed.message.size() + piece->length);
                    left -= piece->length;
                }
            }
            handed.message.insert(handed.message.end(), t.bytes.begin() + static_cast<long>(taken),
                                  t.bytes.end());
            if (handed.message.size() != t.length)
                throw std::logic_error("the length is not that of the parts");
        }
    }
    if (!handed.error &&
        (overlooked_channel(handed.message) || ServerChannels::carries_channel(handed.message)))
        throw std::logic_error("a channel reaches the program");
    return handed;
}

struct Answered {  // to the client
    bool walked = false;
    Bytes message;
    std::optional<uint32_t> token;
    std::vector<Descriptor> pushed;
    std::optional<Error> error;
};
// With `random`, in odd portions.
inline Answered answer_client(ServerChannels& server, std::span<const std::byte> reply, RemoteMemory* memory,
                              Random* random = nullptr) {
    using Kind = ServerChannels::Step::Kind;
    Answered answered;
    const auto look = server.look_at_reply(look_part(reply), static_cast<uint32_t>(reply.size()));
    if (!look.walk) {
        answered.message.assign(reply.begin(), reply.end());
        answered.token = look.token;
        return answered;
    }
    answered.walked = true;
    const auto portion = [&](uint32_t most) {
        if (!random || most < 2) return most;
        return static_cast<uint32_t>(random->between(1, random->chance(50) ? std::min(most, 40u) : most));
    };
    for (;;) {
        const auto step = server.step();
        const auto rest = reply.subspan(server.position());
        if (step.kind == Kind::done) break;
        if (step.length == 0 || step.length > rest.size()) throw std::logic_error("a step beyond the reply");
        const uint32_t part = portion(step.length);
        if (step.kind == Kind::look) {
            if (const auto taken = server.take_look(rest.first(step.length)); !taken) {
                answered.error = taken.error();
                return answered;
            }
        } else if (step.kind == Kind::copy) {
            server.take_copy(rest.first(part));
        } else if (step.kind == Kind::skip) {
            server.skipped(part);
        } else {
            const auto piece = server.push_destination().next(part);
            if (!piece) throw std::logic_error("no room for the data");
            if (memory) std::copy_n(rest.begin(), piece->length, memory->at(*piece).begin());
            if (!random) answered.pushed.push_back(*piece);
            server.push_destination().take(piece->length);
            server.skipped(piece->length);
        }
    }
    if (server.position() != reply.size()) throw std::logic_error("done before the end");
    answered.message.assign(server.reply().begin(), server.reply().end());
    answered.token = server.reply_token();
    return answered;
}

}  // namespace smbdirect::test
