// The SMB2 channel translation, as server and as client, fed with hostile messages from both its sides. What
// is checked is what the engine relies on: pieces that lie within what they are pieces of, a walk that gets
// on, no request with a live channel to the program, a buffer that is given back once.
//
// The input: one byte that chooses side and limits, then operations of one byte, a length of two, and a
// message.
#include <algorithm>
#include <map>
#include <memory>

#include "input.hpp"
#include "smb2/client_channels.hpp"
#include "smb2/compound_guard.hpp"
#include "smb2/server_channels.hpp"

using namespace smbdirect;
using namespace smbdirect::smb2;
using test::Input;
using test::require;

namespace {

uint32_t number_at(std::span<const std::byte> bytes, size_t at, size_t size) {
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= std::to_integer<uint32_t>(bytes[at + i]) << (8 * i);
    return value;
}

// A program that knows no channels would answer one of the elements inline.
bool overlooked_channel(std::span<const std::byte> message) {
    while (message.size() >= 112 && number_at(message, 0, 4) == 0x424d53fe &&
           number_at(message, 4, 2) == 64) {
        const uint32_t next = number_at(message, 20, 4), command = number_at(message, 12, 2);
        if (next == 0 || next >= 112) {
            if (command == 8 && number_at(message, 100, 4) != 0) return true;
            if (command == 9 && number_at(message, 96, 4) != 0 && number_at(message, 66, 2) == 112)
                return true;
        }
        if (next < 64 || next > message.size()) break;
        message = message.subspan(next);
    }
    return false;
}

// Exactly as long, on the heap, so that AddressSanitizer sees a byte too many; with zeros where there is
// nothing.
class Exact {
  public:
    Exact(std::span<const std::byte> bytes, size_t at, size_t size)
        : bytes_(std::make_unique<std::byte[]>(size)), size_(size) {
        if (at < bytes.size())
            std::copy_n(bytes.begin() + static_cast<long>(at), std::min(size, bytes.size() - at),
                        bytes_.get());
    }
    operator std::span<const std::byte>() const { return {bytes_.get(), size_}; }

  private:
    std::unique_ptr<std::byte[]> bytes_;
    size_t size_;
};

struct Message {
    std::span<const std::byte> bytes;
    uint32_t length = 0;   // what it is said to have
    uint32_t portion = 1;  // to be handled in
    Exact look() const { return {bytes, 0, std::min<size_t>(128, length)}; }
};

// ---- server

ServerLimits server_limits(uint32_t choice) {
    ServerLimits limits;
    limits.max_transfer = 64 * 1024;
    limits.max_requests = choice & 2 ? 2 : 16;
    limits.max_descriptors = choice & 2 ? 3 : 64;
    limits.max_compound = choice & 4 ? 512 : 4096;
    limits.max_reply = choice & 4 ? 1024 : 65536;
    limits.can_invalidate = !(choice & 8);
    limits.can_read = !(choice & 16);
    return limits;
}

class Server {
  public:
    explicit Server(uint32_t choice) : limits_(server_limits(choice)), channels_(limits_) {}

    // False: the connection has ended.
    bool request(const Message& m) {
        const auto look = channels_.look_at_request(m.look(), m.length);
        const Exact whole(m.bytes, 0, m.bytes.size());
        if (m.length != m.bytes.size()) return true;  // what else there is to it never came
        if (look == ServerChannels::Look::pass) {
            require(!overlooked_channel(whole));
            return true;
        }
        if (look == ServerChannels::Look::oversized) {
            require(m.length > limits_.max_compound);
            CompoundGuard guard;
            guard.begin();
            for (size_t at = 0; at < m.bytes.size(); at += m.portion)
                if (!guard.take(Exact(m.bytes, at, std::min<size_t>(m.portion, m.bytes.size() - at))))
                    return false;
            require(!overlooked_channel(whole));
            return true;
        }
        require(m.length <= limits_.max_compound);
        const size_t before = channels_.outstanding();
        const auto made = channels_.translate(whole);
        if (!made) return false;
        if (!*made) {
            require(!overlooked_channel(whole) && channels_.outstanding() == before);
            return true;
        }
        translated(**made);
        const size_t added = channels_.outstanding() - before;
        require(added <= (*made)->reads + (*made)->writes + (*made)->refused);
        return true;
    }

    bool reply(const Message& m) {
        const size_t before = channels_.outstanding();
        const auto look = channels_.look_at_reply(m.look(), m.length);
        if (!look.walk) {
            require(channels_.outstanding() + 1 >= before && channels_.outstanding() <= before);
            require(!look.token || channels_.outstanding() + 1 == before);
            return true;
        }
        return walk(m) && channels_.outstanding() <= before;
    }

    void check() const { require(channels_.outstanding() <= limits_.max_requests); }

  private:
    void translated(const TranslatedRequest& t) {
        require(t.reads + t.writes + t.refused > 0 && t.writes == t.fetches.size());
        require(t.length <= 0xffffff && t.refusal);
        std::vector<std::byte> message;
        size_t taken = 0;
        for (const auto& fetch : t.fetches) {
            require(fetch.at >= message.size() && fetch.at - message.size() <= t.bytes.size() - taken);
            const size_t part = fetch.at - message.size();
            message.insert(message.end(), t.bytes.begin() + static_cast<long>(taken),
                           t.bytes.begin() + static_cast<long>(taken + part));
            taken += part;
            message.resize(message.size() + fetch.length);
            require(fetch.length > 0 && fetch.length <= limits_.max_transfer && limits_.can_read);
            require(uint64_t{fetch.first_descriptor} + fetch.descriptors <= t.sources.size());
            uint64_t room = 0;
            for (const auto& d : std::span(t.sources).subspan(fetch.first_descriptor, fetch.descriptors))
                room += d.length;
            require(room >= fetch.length);
        }
        message.insert(message.end(), t.bytes.begin() + static_cast<long>(taken), t.bytes.end());
        require(message.size() == t.length);
        require(!overlooked_channel(message) && !ServerChannels::carries_channel(message));
    }

    bool walk(const Message& m) {
        using Kind = ServerChannels::Step::Kind;
        bool looked = false;
        uint32_t elements = 0;
        for (;;) {
            const auto step = channels_.step();
            const uint32_t position = channels_.position();
            require(uint64_t{position} + step.length <= m.length);
            if (step.kind == Kind::done) break;
            require(step.length > 0 && !(looked && step.kind == Kind::look));
            looked = step.kind == Kind::look;
            uint32_t part = looked ? step.length : std::min(step.length, m.portion);
            if (looked) {
                ++elements;
                if (!channels_.take_look(Exact(m.bytes, position, part))) return false;
                require(channels_.position() == position);
                continue;
            }
            if (step.kind == Kind::copy) {
                channels_.take_copy(Exact(m.bytes, position, part));
            } else {
                if (step.kind == Kind::push) {
                    const auto piece = channels_.push_destination().next(part);
                    require(piece && piece->length > 0 && piece->length <= part);
                    part = piece->length;
                    channels_.push_destination().take(part);
                }
                channels_.skipped(part);
            }
            require(channels_.position() == position + part);
        }
        require(channels_.position() == m.length && elements > 0);
        require(channels_.reply().size() >= 64 && channels_.reply().size() <= m.length + 8 * elements);
        require(channels_.reply().size() <= limits_.max_reply);
        return true;
    }

    const ServerLimits limits_;
    ServerChannels channels_;
};

// ---- client

ClientLimits client_limits(uint32_t choice) {
    ClientLimits limits;
    limits.threshold = choice & 2 ? UINT32_MAX : 4096;
    limits.allowed = !(choice & 32);
    limits.max_transfer = choice & 4 ? 16384 : 8u << 20;
    limits.max_message_out = choice & 8 ? 1024 : 1u << 20;
    limits.max_message_in = choice & 8 ? 1024 : 1u << 20;
    limits.max_requests = choice & 16 ? 2 : 16;
    limits.max_descriptors = 4;
    return limits;
}

class Client {
  public:
    explicit Client(uint32_t choice) : limits_(client_limits(choice)), channels_(limits_) {}

    bool request(const Message& m) {
        using Kind = ClientChannels::RequestLook::Kind;
        const Exact start = m.look();
        const auto look = channels_.look_at_request(start, m.length);
        if (!look) return false;
        if (look->kind == Kind::pass) {
            require(m.length <= limits_.max_message_out);
            return true;
        }
        require(limits_.allowed && look->amount > 0 && look->amount <= limits_.max_transfer);
        const bool write = look->kind == Kind::write;
        require(!write || uint64_t{look->amount} + 112 <= m.length);
        std::vector<Descriptor> buffer(1 + m.portion % 6, Descriptor{1, 2, look->amount});
        const size_t count = std::min<size_t>(buffer.size(), limits_.max_descriptors);
        const auto out = channels_.build_request(start, buffer, ++last_cookie_);
        require(out.size() == 112 + 16 * count);
        require(number_at(out, write ? 96 : 100, 4) == 1 && number_at(out, write ? 104 : 108, 2) == 112);
        require(number_at(out, write ? 100 : 68, 4) == look->amount && number_at(out, 20, 4) == 0);
        live_[last_cookie_] = look->amount;
        return true;
    }

    bool reply(const Message& m) {
        using Kind = ClientChannels::ReplyLook::Kind;
        const auto look = channels_.look_at_reply(m.look(), m.length);
        if (!look) return false;
        if (look->kind == Kind::pass) return true;
        const auto request = live_.extract(look->cookie);
        require(!request.empty());
        if (look->kind == Kind::release) return true;
        require(look->amount <= request.mapped() && m.length >= 80);
        require(number_at(look->header, 66, 1) == 80 && number_at(look->header, 68, 4) == look->amount);
        require(number_at(look->header, 20, 4) == 0 && number_at(look->header, 72, 4) == 0);
        return true;
    }

    // A MessageId may be out twice if the program wants so; each has its own buffer.
    void check() const {
        require(channels_.outstanding() == live_.size() && channels_.outstanding() <= limits_.max_requests);
    }

  private:
    const ClientLimits limits_;
    ClientChannels channels_;
    uint32_t last_cookie_ = 0;
    std::map<uint32_t, uint32_t> live_;  // amounts, by cookie
};

template <class Side>
void drive(Side side, Input& input) {
    while (!input.empty()) {
        const uint32_t what = input.number(1);
        Message m{.bytes = input.take(input.number(2))};
        m.length = static_cast<uint32_t>(m.bytes.size());
        m.portion = 1 + (what >> 4) * (what >> 4) * 7;
        if (what & 2) m.length += input.number(what & 4 ? 1 : 2);  // a lie, or the rest is zeros
        if (!(what & 1 ? side.reply(m) : side.request(m))) return;
        side.check();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(std::as_bytes(std::span(data, size)));
    const uint32_t choice = input.number(1);
    if (choice & 1)
        drive(Client(choice), input);
    else
        drive(Server(choice), input);
    return 0;
}
