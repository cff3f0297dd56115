// A model of a client that uses channels, the translation, and a small model of smbd that has never heard of
// them, over a random stream of requests by a seed. Each side checks what it gets by the rules of its own.
#include <set>

#include "smb2/client_channels.hpp"
#include "smb2_support.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

constexpr uint32_t kFileSize = 1 << 18, kMaxTransfer = 48 * 1024;
constexpr std::byte kUntouched{0x5a};

void require(bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
}

// smbd by section 2 of the fact sheet: READ and WRITE inline, with its checks, no others.
class Program {
  public:
    explicit Program(Random& random) : random_(random), file_(pattern(kFileSize, random.next())) {}

    void take(const Bytes& message) {
        std::vector<Bytes> answers;
        const auto elements = elements_of(message);
        for (size_t i = 0; i < elements.size(); ++i) {
            const uint64_t id = get(elements[i], 24, 8);
            require(seen_.insert(id).second, "a MessageId is used twice");
            const bool later = i + 1 == elements.size() && random_.chance(30);
            if (!later) {
                answers.push_back(serve(elements[i], 0));
                continue;
            }
            // What is finished is flushed before the last one goes async, or goes with its interim.
            const unsigned command = static_cast<unsigned>(get(elements[i], 12, 2));
            if (random_.chance(50)) queue(std::exchange(answers, {}));
            answers.push_back(interim_reply(command, id));
            delayed_.push_back(elements[i]);
        }
        queue(answers);
    }
    bool idle() const { return ready_.empty() && delayed_.empty(); }
    // Interims go before the final replies to the same request, anything else in any order.
    Bytes next_reply() {
        if (ready_.empty() || (!delayed_.empty() && random_.chance(20))) {
            const size_t k = random_.below(delayed_.size());
            const uint64_t id = get(delayed_[k], 24, 8);
            if (const auto interim = std::ranges::find_if(ready_, [&](const Bytes& m) { return has(m, id); });
                interim != ready_.end())
                return take_ready(interim);
            Bytes reply = serve(delayed_[k], kAsyncFlag);
            delayed_.erase(delayed_.begin() + static_cast<long>(k));
            return reply;
        }
        return take_ready(ready_.begin() + static_cast<long>(random_.below(ready_.size())));
    }
    // What was answered to a READ, and what came with a WRITE.
    std::map<uint64_t, Bytes> data;
    std::map<uint64_t, uint32_t> statuses;

  private:
    static bool has(const Bytes& message, uint64_t id) {
        return std::ranges::any_of(elements_of(message), [&](const Bytes& e) { return get(e, 24, 8) == id; });
    }
    Bytes take_ready(std::vector<Bytes>::iterator at) {
        Bytes reply = std::move(*at);
        ready_.erase(at);
        return reply;
    }
    void queue(const std::vector<Bytes>& answers) {
        if (!answers.empty()) ready_.push_back(compound(answers));
    }
    Bytes serve(const Bytes& request, uint32_t flags) {
        const uint64_t id = get(request, 24, 8), offset = get(request, 72, 8);
        const unsigned command = static_cast<unsigned>(get(request, 12, 2));
        const size_t length = get(request, 68, 4);
        const auto error = [&](uint32_t status) {
            statuses[id] = status;
            return error_reply(command, id, status, flags);
        };
        if (command == kClose) return error(0);
        require(get(request, 64, 2) == 49 && get(request, 16, 4) == 0, "no READ or WRITE");
        require(get(request, command == kWrite ? 96 : 100, 4) == 0 &&
                    get(request, command == kWrite ? 104 : 108, 4) == 0,
                "the program sees a channel");
        if (command == kWrite) {
            if (get(request, 66, 2) != 112 || length > request.size() - 112) return error(kInvalidParameter);
            data[id].assign(request.begin() + 112, request.begin() + 112 + static_cast<long>(length));
            if (random_.chance(5)) return error(0xc000007f);  // disk full
            std::copy_n(request.begin() + 112, length, file_.begin() + static_cast<long>(offset));
            statuses[id] = 0;
            return write_reply(id, static_cast<uint32_t>(length), flags);
        }
        if (request.size() < 113 || length > (8u << 20)) return error(kInvalidParameter);
        if (offset >= kFileSize || random_.chance(5)) return error(kEndOfFile);
        size_t n = std::min<size_t>(length, kFileSize - offset);
        if (random_.chance(20)) n = random_.between(1, n);
        const uint32_t status = statuses[id] = random_.chance(5) ? 0x80000005 : 0;
        data[id].assign(file_.begin() + static_cast<long>(offset),
                        file_.begin() + static_cast<long>(offset + n));
        return read_reply(id, data[id], status, flags);
    }

    Random& random_;
    Bytes file_;
    std::set<uint64_t> seen_;
    std::vector<Bytes> ready_, delayed_;
};

// cifs.ko, but with more descriptors, compounds and mistakes.
class Client {
  public:
    // If the table is small, what is sound may be refused too.
    Client(Random& random, uint16_t dialect, bool small_table)
        : random_(random), dialect_(dialect), small_table_(small_table) {}

    Bytes next_request() {
        if (random_.chance(85)) return compound({one(false)});
        std::vector<Bytes> elements;
        for (uint64_t n = random_.between(2, 5); n > 0; --n) elements.push_back(one(true));
        return compound(elements);
    }
    void take(const Answered& answered, Program& program);
    bool idle() const { return waiting_.empty(); }
    RemoteMemory memory;
    size_t placed = 0, invalidated = 0, errors = 0, mistakes = 0, refused = 0;

  private:
    struct Waiting {
        unsigned command = kClose;
        bool channel = false, in_compound = false;
        uint32_t amount = 0;
        std::vector<Descriptor> descriptors;
        std::optional<uint32_t> token;  // to be invalidated
        bool mistake = false;
    };
    Bytes one(bool in_compound);
    Bytes contents(const Waiting& w) {
        Bytes all;
        for (const auto& d : w.descriptors)
            if (d.length) all = joined(std::move(all), memory.at(d));
        return all;
    }

    Random& random_;
    const uint16_t dialect_;
    const bool small_table_;
    uint64_t next_id_ = 1;
    uint32_t next_token_ = 0x1000;
    std::map<uint64_t, Waiting> waiting_;
    std::map<uint64_t, Bytes> written_;
};

Bytes Client::one(bool in_compound) {
    const uint64_t id = next_id_++, kind = random_.below(10);
    Waiting w;
    w.in_compound = in_compound;
    const bool write = random_.chance(50);
    w.amount = static_cast<uint32_t>(random_.chance(80) ? random_.between(1, 3000)
                                                        : random_.between(1, kMaxTransfer));
    const uint64_t offset = random_.below(kFileSize - (write ? kMaxTransfer : 0));
    if (kind < 3) {
        w.command = kind == 0 ? kClose : write ? kWrite : kRead;
        waiting_[id] = w;
        if (kind == 0) return close_request(id);
        if (!write) return inline_read(id, w.amount, 0, offset);
        written_[id] = pattern(w.amount, id);
        return inline_write(id, written_[id], 0, offset);
    }
    w.channel = true;
    w.command = write ? kWrite : kRead;
    Ask ask{.write = write,
            .id = id,
            .amount = w.amount,
            .channel = random_.chance(70) ? 2u : 1u,
            .descriptors = {},
            .file_offset = offset};
    uint32_t room = w.amount + static_cast<uint32_t>(random_.chance(30) ? random_.below(100) : 0);
    while (room > 0) {
        const uint32_t length = random_.chance(60) ? room : static_cast<uint32_t>(random_.between(1, room));
        const Descriptor d{random_.next() >> 8, next_token_++, length};
        // Of a READ nothing is known yet; a margin shows what goes too far.
        Bytes bytes = write ? pattern(length, d.token) : Bytes(length + 16, kUntouched);
        memory.add(d.token, d.offset, std::move(bytes));
        ask.descriptors.push_back(d);
        if (random_.chance(10)) ask.descriptors.push_back({0, 0xdead, 0});
        room -= length;
        if (ask.descriptors.size() > 12) {
            w.amount = ask.amount -= std::min(room, ask.amount - 1);
            break;
        }
    }
    uint64_t sum = 0;
    for (const auto& d : ask.descriptors) sum += d.length;
    w.descriptors = ask.descriptors;
    if (ask.channel == 2 && dialect_ != 0x0300) w.token = ask.descriptors[0].token;
    w.mistake = ask.channel == 2 && dialect_ == 0x0300;
    if (random_.chance(20)) ask.info_offset = 112 + random_.below(50);
    if (random_.chance(10)) {
        w.mistake = true;
        switch (random_.below(4)) {
            case 0:
                ask.amount = 0;
                break;
            case 1:
                ask.amount = static_cast<uint32_t>(sum) + 1;
                break;
            case 2:
                ask.amount = 0xffffffff;
                break;
            default:
                ask.channel = static_cast<uint32_t>(random_.between(3, 9));
                w.token.reset();
        }
    }
    mistakes += w.mistake;
    if (write && !w.mistake) {
        written_[id] = contents(w);
        written_[id].resize(w.amount);
    }
    waiting_[id] = w;
    return channel_request(ask);
}

void Client::take(const Answered& answered, Program& program) {
    require(!answered.error, "a sound reply was refused");
    std::optional<uint32_t> token;
    for (const Bytes& element : elements_of(answered.message)) {
        const uint64_t id = get(element, 24, 8);
        const uint32_t status = static_cast<uint32_t>(get(element, 8, 4));
        const auto found = waiting_.find(id);
        require(found != waiting_.end(), "a second final reply");
        if (status == 0x103) continue;
        const Waiting w = found->second;
        waiting_.erase(found);
        require(w.in_compound || answered.token == w.token,
                "a single reply invalidates its own token, or none");
        if (!token) token = w.token;
        require(status == program.statuses.at(id), "the status is the program's");
        errors += status != 0;
        if (w.mistake) require(status == kInvalidParameter, "a mistake is refused");
        if (!w.mistake && status == kInvalidParameter) {
            require(small_table_ && w.channel && w.command == kRead, "something sound was refused");
            ++refused;
        }
        if (w.command == kWrite && written_.contains(id) && status != kInvalidParameter) {
            require(program.data.at(id) == written_[id], "the program got what was written");
            require(status != 0 || (get(element, 68, 4) == w.amount && get(element, 64, 2) == 17), "Count");
        }
        const bool has_data = w.command == kRead && (status == 0 || status == 0x80000005);
        if (has_data && !w.channel) {
            const Bytes& sent = program.data.at(id);
            require(get(element, 68, 4) == sent.size() && element.size() >= 80 + sent.size() &&
                        std::equal(sent.begin(), sent.end(), element.begin() + 80),
                    "an inline READ");
        }
        size_t n = 0;
        if (has_data && w.channel) {
            const Bytes& sent = program.data.at(id);
            n = sent.size();
            require(get(element, 66, 1) == 80 && get(element, 68, 4) == 0 && get(element, 76, 4) == 0 &&
                        get(element, 72, 4) == n && element.size() == 80,
                    "the reply to a READ by channel");
            const Bytes got = contents(w);
            require(std::equal(sent.begin(), sent.end(), got.begin()), "the data lie where they belong");
            placed += n;
        }
        // And nothing lies elsewhere.
        for (const auto& d : w.descriptors) {
            if (d.length == 0) continue;
            const Bytes& bytes = memory.bytes(d.token);
            const size_t used = std::min<size_t>(n, d.length);
            n -= used;
            if (w.command == kRead)
                require(std::all_of(bytes.begin() + static_cast<long>(used), bytes.end(),
                                    [](std::byte b) { return b == kUntouched; }),
                        "bytes beyond the data");
            memory.remove(d.token);  // and from here on an access to it throws
        }
    }
    require(answered.token == token, "a message invalidates the first token of it");
    invalidated += token.has_value();
}

// How many sound requests were refused, because the table was full.
size_t run(uint64_t seed) {
    Random random(seed);
    const bool small_table = seed % 3 == 0;  // its pool is compacted all the time
    smb2::ServerLimits limits;
    if (small_table) limits.max_descriptors = 12;
    const uint16_t dialect = random.pick<uint16_t>({0x0300, 0x0302, 0x0311, 0x0311});
    Program program(random);
    Client client(random, dialect, small_table);
    ServerChannels server(limits);
    answer_client(server, negotiate_reply(dialect), nullptr);
    const auto reply = [&] {
        client.take(answer_client(server, program.next_reply(), &client.memory, &random), program);
    };
    for (int i = 0; i < 150; ++i) {
        const Bytes request = client.next_request();
        const auto handed = hand_to_program(server, request, &client.memory);
        require(!handed.error, "a request ended the connection");
        require(handed.translated || handed.message == request, "passed, but not as it was");
        program.take(handed.message);
        while (!program.idle() && random.chance(48)) reply();
    }
    while (!program.idle()) reply();
    require(client.idle() && server.outstanding() == 0, "something is left");
    require(client.placed > 0 && client.errors > 0 && client.mistakes > 0, "nothing happened");
    require((client.invalidated > 0) == (dialect != 0x0300), "tokens");
    return client.refused;
}

// A client program, both translations, a server program: as if there was nothing between them.
void run_back_to_back(uint64_t seed) {
    Random random(seed);
    Program program(random);
    ServerChannels server(smb2::ServerLimits{});
    smb2::ClientChannels client({.max_message_out = 1 << 20, .max_message_in = 1 << 20});
    const Bytes negotiated = negotiate_reply(random.pick<uint16_t>({0x0300, 0x0302, 0x0311}));
    answer_client(server, negotiated, nullptr);
    require(client.look_at_reply(look_part(negotiated), 200).has_value(), "NEGOTIATE");
    RemoteMemory memory;
    size_t by_channel = 0;
    const auto reply = [&] {
        const Bytes sent = program.next_reply();
        const auto answered = answer_client(server, sent, &memory, &random);
        require(!answered.error && !answered.token, "channel 1 invalidates nothing");
        const auto look =
            client.look_at_reply(look_part(answered.message), static_cast<uint32_t>(answered.message.size()));
        require(look.has_value(), "refused by our own client");
        Bytes got = answered.message;
        if (look->kind == smb2::ClientChannels::ReplyLook::Kind::data)
            got = joined(Bytes(look->header.begin(), look->header.end()),
                         std::span(memory.bytes(look->cookie)).first(look->amount));
        if (look->kind != smb2::ClientChannels::ReplyLook::Kind::pass) memory.remove(look->cookie);
        require(got == sent, "the client program gets what the server program sent");
    };
    for (uint32_t id = 1; id <= 60; ++id) {
        const auto amount = static_cast<uint32_t>(random.between(1, kMaxTransfer));
        const uint64_t offset = random.below(kFileSize - kMaxTransfer);
        const Bytes request = random.chance(10)   ? close_request(id)
                              : random.chance(50) ? inline_read(id, amount, 0, offset)
                                                  : inline_write(id, pattern(amount, id), 0, offset);
        const auto look = client.look_at_request(look_part(request), static_cast<uint32_t>(request.size()));
        require(look.has_value(), "too large for nothing");
        Bytes sent = request;
        if (look->kind != smb2::ClientChannels::RequestLook::Kind::pass) {
            const bool write = look->kind == smb2::ClientChannels::RequestLook::Kind::write;
            memory.add(id, id, write ? Bytes(request.begin() + 112, request.end()) : Bytes(amount));
            const uint32_t half = amount / 2;
            const auto out = client.build_request(
                look_part(request), std::vector<Descriptor>{{id, id, half}, {id + half, id, amount - half}},
                id);
            sent.assign(out.begin(), out.end());
            ++by_channel;
        }
        const auto handed = hand_to_program(server, sent, &memory);
        require(!handed.error && handed.message == request,
                "the server program gets what the client program sent");
        program.take(handed.message);
        while (!program.idle() && random.chance(48)) reply();
    }
    while (!program.idle()) reply();
    require(by_channel > 0 && client.outstanding() == 0 && server.outstanding() == 0, "something is left");
}

}  // namespace

TEST_CASE("our client and our server back to back, by seeds") {
    for (uint64_t seed = 1; seed <= 50; ++seed) {
        INFO("seed " << seed);
        REQUIRE_NOTHROW(run_back_to_back(seed));
    }
}

TEST_CASE("a client with channels and a program without, by seeds") {
    size_t refused = 0;
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        INFO("seed " << seed);
        REQUIRE_NOTHROW(refused += run(seed));
    }
    CHECK(refused > 0);
}
