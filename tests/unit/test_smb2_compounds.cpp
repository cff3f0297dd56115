// Compounds with channels in them, the guard before the program, and the table of outstanding requests.
#include <array>

#include "smb2_support.hpp"
#include "support/catch.hpp"

using namespace smbdirect;
using namespace smbdirect::test;
using smb2::CompoundGuard;
using smb2::Outstanding;
using smb2::ServerLimits;

namespace {

ServerChannels server_311(const ServerLimits& limits = {}) {
    ServerChannels server(limits);
    server.look_at_reply(look_part(negotiate_reply(0x0311)), 200);
    return server;
}
Ask ask(bool write, uint64_t id, uint32_t token, uint32_t amount) {
    return {.write = write, .id = id, .amount = amount, .descriptors = {{0x1000, token, amount}}};
}

}  // namespace

TEST_CASE("a compound is rebuilt around its channels", "[smb2:3.3.5.2.7]") {
    auto server = server_311();
    RemoteMemory memory;
    memory.add(11, 0x1000, pattern(1001, 1));
    memory.add(12, 0x1000, Bytes(500));
    memory.add(13, 0x1000, pattern(4096, 2));
    Bytes create = smb2_message(64 + 61, 5, 1);
    const Bytes request = compound({create, channel_request(ask(true, 2, 11, 1001)),
                                    channel_request(ask(false, 3, 12, 500)), inline_read(4, 77, kRelatedFlag),
                                    channel_request(ask(true, 5, 13, 4096)), close_request(6)});
    const auto handed = hand_to_program(server, request, &memory);
    REQUIRE(handed.translated);
    CHECK(server.outstanding() == 3);
    const auto elements = elements_of(handed.message);
    REQUIRE(elements.size() == 6);
    create.resize(128);
    put(create, 20, 4, 128);
    CHECK(elements[0] == create);
    const auto rewritten = [&](size_t i, size_t distance, size_t size) {
        const auto original = elements_of(request)[i];
        Bytes head(original.begin(), original.begin() + 64);  // all of the header but NextCommand
        put(head, 20, 4, distance);
        CHECK(to_hex(std::span(elements[i]).first(64)) == to_hex(head));
        CHECK(elements[i].size() == size);
    };
    rewritten(1, 1120, 1120);  // 112 + 1001, aligned
    CHECK(get(elements[1], 66, 2) == 112);
    CHECK(get(elements[1], 68, 4) == 1001);
    CHECK(get(elements[1], 96, 8) == 0);
    CHECK(std::ranges::equal(std::span(elements[1]).subspan(112, 1001), memory.bytes(11)));
    rewritten(2, 120, 120);  // 113, aligned
    CHECK(get(elements[2], 68, 4) == 500);
    CHECK(get(elements[2], 100, 8) == 0);
    CHECK(elements[3] == elements_of(request)[3]);
    rewritten(4, 112 + 4096, 112 + 4096);
    CHECK(std::ranges::equal(std::span(elements[4]).subspan(112), memory.bytes(13)));
    CHECK(elements[5] == close_request(6));

    // All replies in one, in odd portions; one message gives back one token.
    const Bytes data = pattern(333, 3);
    Random random(9);
    const auto answered = answer_client(
        server,
        compound({error_reply(5, 1, 0), write_reply(2, 1001), read_reply(3, data),
                  read_reply(4, pattern(77, 4)), write_reply(5, 4096), error_reply(kClose, 6, 0)}),
        &memory, &random);
    REQUIRE(!answered.error);
    CHECK(answered.token == 11u);
    const auto replies = elements_of(answered.message);
    REQUIRE(replies.size() == 6);
    CHECK(replies[2].size() == 80);
    CHECK(get(replies[2], 68, 4) == 0);
    CHECK(get(replies[2], 72, 4) == 333);
    CHECK(std::ranges::equal(std::span(memory.bytes(12)).first(333), data));
    CHECK(get(replies[3], 68, 4) == 77);  // asked for inline
    CHECK(std::ranges::equal(std::span(replies[3]).subspan(80, 77), pattern(77, 4)));
    CHECK(replies[5] == error_reply(kClose, 6, 0));
    CHECK(server.outstanding() == 0);
}

TEST_CASE("a READ by channel at the end of a compound, and one refused in it") {
    auto server = server_311();
    RemoteMemory memory;
    memory.add(7, 0x1000, Bytes(600));
    Ask bad = ask(true, 2, 8, 900);
    bad.descriptors[0].length = 899;
    const Bytes request = compound({channel_request(bad), channel_request(ask(false, 3, 7, 600))});
    const auto handed = hand_to_program(server, request, &memory);
    CHECK(handed.refusal == "its Buffer Descriptors have less room than it asks for");
    const auto elements = elements_of(handed.message);
    REQUIRE(elements.size() == 2);
    CHECK(elements[0].size() == 112);
    CHECK(get(elements[0], 66, 6) == 0);
    CHECK(elements[1].size() == 113);
    // Split in two: what is finished comes first, the rest later, the interim of it in between.
    const auto first = answer_client(server, error_reply(kWrite, 2, kInvalidParameter), &memory);
    CHECK(first.token == 8u);
    const auto interim = answer_client(server, interim_reply(kRead, 3), &memory);
    CHECK(!interim.walked);
    CHECK(!interim.token);
    CHECK(server.outstanding() == 1);
    const auto last = answer_client(server, read_reply(3, pattern(600, 5), 0, kAsyncFlag), &memory);
    CHECK(last.token == 7u);
    CHECK(memory.bytes(7) == pattern(600, 5));
    CHECK(server.outstanding() == 0);

    hand_to_program(server, request, &memory);  // both at once, the interim as the compound's last element
    const auto both = answer_client(
        server, compound({error_reply(kWrite, 2, kInvalidParameter), interim_reply(kRead, 3)}), &memory);
    CHECK(both.walked);
    CHECK(both.token == 8u);
    CHECK(both.message == compound({error_reply(kWrite, 2, kInvalidParameter), interim_reply(kRead, 3)}));
    CHECK(server.outstanding() == 1);
}

TEST_CASE("a program's reply with elements at odd places goes on with aligned ones") {
    auto server = server_311();
    RemoteMemory memory;
    memory.add(7, 0x1000, Bytes(600));
    hand_to_program(server,
                    compound({close_request(1), channel_request(ask(false, 2, 7, 600)), close_request(3)}),
                    &memory);
    Bytes first = error_reply(kClose, 1, 0), second = read_reply(2, pattern(33, 1));
    const Bytes third = error_reply(kClose, 3, 0);
    put(first, 20, 4, 73);
    put(second, 20, 4, 113);
    const auto answered = answer_client(server, joined(joined(first, second), third), &memory);
    const auto elements = elements_of(answered.message);  // insists on it
    REQUIRE(elements.size() == 3);
    CHECK(elements[0].size() == 80);
    CHECK(get(elements[1], 72, 4) == 33);
    CHECK(elements[2] == third);
    CHECK(answered.token == 7u);
}

TEST_CASE("replies with a broken chain end the connection") {
    for (const uint32_t next : {1u, 63u, 161u, 1000u, 0xffffffffu}) {
        auto server = server_311();
        hand_to_program(server, compound({close_request(1), channel_request(ask(false, 3, 7, 600))}),
                        nullptr);
        Bytes reply = compound({error_reply(kClose, 1, 0), read_reply(3, {})});
        put(reply, 20, 4, next);
        CHECK(answer_client(server, reply, nullptr).error == Error{Reason::channel_reply, ECONNRESET});
    }
}

TEST_CASE("a compound's reply is as long as the client takes it, and no longer") {
    const Bytes request = compound({inline_read(1, 300'000), channel_request(ask(false, 3, 7, 600))});
    const Bytes reply = compound({read_reply(1, pattern(300'000, 1)), read_reply(3, pattern(600, 2))});
    RemoteMemory memory;
    memory.add(7, 0x1000, Bytes(600));
    auto server = server_311({.max_reply = 300'160});
    hand_to_program(server, request, &memory);
    const auto answered = answer_client(server, reply, &memory);
    REQUIRE(!answered.error);
    const auto elements = elements_of(answered.message);
    REQUIRE(elements.size() == 2);
    CHECK(std::ranges::equal(elements[0], std::span(reply).first(300'080)));
    CHECK(get(elements[1], 72, 4) == 600);
    CHECK(memory.bytes(7) == pattern(600, 2));

    const Error ended{Reason::channel_compound, ECONNRESET};
    auto pushed = server_311({.max_reply = 300'159});
    hand_to_program(pushed, request, nullptr);
    CHECK(answer_client(pushed, reply, nullptr).error == ended);
    auto copied = server_311({.max_reply = 300'079});
    hand_to_program(copied, request, nullptr);
    CHECK(answer_client(copied, reply, nullptr).error == ended);
}

TEST_CASE("a broken compound does not carry a channel to the program") {
    for (const uint32_t next : {1u, 63u, 217u, 224u, 2000u, 0xffffffffu}) {
        auto server = server_311();
        Bytes request = compound({channel_request(ask(false, 1, 7, 600)), close_request(2)});
        put(request, 20, 4, next);
        CHECK(ServerChannels::carries_channel(request));
        CHECK(hand_to_program(server, request, nullptr).error == Error{Reason::channel_compound, ECONNRESET});
    }
}

TEST_CASE("a compound of WRITEs grows to what one message can hold, and no further") {
    auto server = server_311();
    std::vector<Bytes> elements;  // 512 times 8 MiB would be 2^32
    for (uint64_t id = 0; id < 512; ++id) elements.push_back(channel_request(ask(true, id, 7, 8u << 20)));
    const auto request = compound(elements);
    const auto made = server.translate(request);
    REQUIRE(made);
    CHECK((*made)->writes == 1);
    CHECK((*made)->refused == 511);
    CHECK((*made)->length == (8u << 20) + 512 * 112);
    CHECK((*made)->refusal == std::string("its compound would have more data than one message can hold"));
    auto full = server_311({.max_transfer = 16u << 20});
    full.look_at_reply(look_part(negotiate_reply(0x0311, 0xffffff, 0xffffff)), 200);
    const Bytes most = channel_request(ask(true, 1, 7, 0xffffff - 112)),
                more = channel_request(ask(true, 2, 7, 0xffffff - 111));
    CHECK((*full.translate(most))->length == 0xffffff);
    CHECK((*full.translate(more))->refused == 1);
    CHECK(full.translate(compound({most, close_request(3)})).error() ==
          Error{Reason::channel_compound, ECONNRESET});
}

TEST_CASE("a last look at the first element sees a channel, and nothing that a program refuses by itself") {
    const auto carries = [](const Bytes& m) { return ServerChannels::carries_channel(m); };
    Bytes write = channel_request(ask(true, 1, 7, 600));
    CHECK(!carries(write));  // DataOffset 0: refused by the program
    put(write, 66, 2, 112);
    CHECK(carries(write));
    const Bytes read = channel_request(ask(false, 1, 7, 600));
    CHECK(carries(read));
    const Bytes long_one = compound({channel_request({.descriptors = std::vector<Descriptor>(9)}), read});
    CHECK(ServerChannels::carries_channel(look_part(long_one)));  // its end lies behind the look
    CHECK(!carries(inline_read(1, 8192)));
    CHECK(!carries({}));
    CHECK(!carries(compound({close_request(1), inline_read(2, 3), close_request(3)})));
    Bytes cut = read;
    cut.resize(111);
    CHECK(!carries(cut));
}

TEST_CASE("the guard finds a channel in a long compound, in any portions") {
    const Bytes data = pattern(3000, 1);
    const auto guarded = [](const Bytes& m, size_t portion, Random* random = nullptr) {
        CompoundGuard guard;
        guard.begin();
        for (size_t at = 0; at < m.size();) {
            const size_t part = std::min(random ? random->between(1, 200) : portion, m.size() - at);
            if (!guard.take(std::span(m).subspan(at, part))) return false;
            at += part;
        }
        return true;
    };
    const Bytes channel = channel_request(ask(false, 9, 7, 600));
    const std::vector<Bytes> sound = {
        compound({inline_write(1, data), inline_read(2, 100), inline_write(3, data)}),
        compound({inline_write(1, data), close_request(2)}),
        compound({inline_write(1, data), close_request(2), close_request(3)}),  // short ones in the middle
        compound({smb2_message(64, 13, 1), inline_write(1, data)}),
        close_request(1),
        inline_write(1, channel)};
    std::vector<Bytes> bad = {
        compound({channel, inline_write(1, data)}), compound({inline_write(1, data), channel}),
        compound({inline_write(1, data), close_request(2), channel}),
        compound({inline_write(1, data), channel_request(ask(true, 9, 7, 600)), close_request(2)})};
    bad.push_back(compound({Bytes(channel.begin(), channel.begin() + 112), inline_write(1, data)}));
    bad.push_back(sound[0]);
    put(bad.back(), 20, 4, 63);
    bad.push_back(sound[0]);
    put(bad.back(), 20, 4, 3000);  // into data
    Random random(5);
    for (const size_t portion : {1u, 3u, 64u, 111u, 112u, 113u, 1000u, 100000u}) {
        INFO(portion);
        for (const Bytes& m : sound) CHECK((guarded(m, portion) && guarded(m, 0, &random)));
        for (const Bytes& m : bad) CHECK((!guarded(m, portion) && !guarded(m, 0, &random)));
    }
    CompoundGuard guard;  // begins anew
    CHECK(guard.take(std::span(sound[0]).first(70)));
    guard.begin();
    CHECK(!guard.take(bad[0]));
}

TEST_CASE("an oversized compound passes if it has no channel, and ends the connection if it has") {
    auto server = server_311({.max_compound = 4096});
    const Bytes data = pattern(5000, 1);
    const Bytes sound = compound({inline_write(1, data), close_request(2), close_request(3)});
    const auto handed = hand_to_program(server, sound, nullptr);
    CHECK((!handed.error && !handed.translated && handed.message == sound));
    const Bytes bad = compound({inline_write(1, data), channel_request(ask(false, 3, 7, 600))});
    CHECK(server.look_at_request(look_part(bad), static_cast<uint32_t>(bad.size())) ==
          ServerChannels::Look::oversized);
    CHECK(hand_to_program(server, bad, nullptr).error == Error{Reason::channel_untranslated, ECONNRESET});
}

TEST_CASE("the table of outstanding requests keeps each one's descriptors, whatever leaves in between") {
    Random random(77);
    for (int round = 0; round < 200; ++round) {
        const uint32_t pool = static_cast<uint32_t>(random.between(1, 60));
        Outstanding table(10, pool);
        std::map<uint64_t, std::vector<Descriptor>> model;
        size_t compounds = 0, live = 0;
        std::map<uint64_t, bool> in_compound;
        for (uint64_t id = 0; id < 300; ++id) {
            std::vector<Descriptor> list(random.below(8));
            for (auto& d : list)
                d = {random.next(), static_cast<uint32_t>(id), static_cast<uint32_t>(random.next())};
            const bool room = model.size() < 10 && live + list.size() <= pool;
            REQUIRE(table.has_room(list.size()) == room);
            if (room) {
                smb2::Request request;
                request.message_id = id;
                request.in_compound = random.chance(20);
                request.length = static_cast<uint32_t>(id * 3);
                table.add(request, list);
                live += list.size();
                compounds += in_compound[id] = request.in_compound;
                model[id] = list;
            }
            while (!model.empty() && (!room || random.chance(50))) {
                const auto gone = std::next(model.begin(), static_cast<long>(random.below(model.size())));
                auto* request = table.find(gone->first);
                REQUIRE((request && request->length == gone->first * 3));
                table.remove(request);
                live -= gone->second.size();
                compounds -= in_compound[gone->first];
                model.erase(gone);
                if (random.chance(50)) break;
            }
            REQUIRE(table.size() == model.size());
            REQUIRE(table.any_in_compound() == (compounds != 0));
            for (const auto& [key, wanted] : model)
                if (!std::ranges::equal(table.destination(*table.find(key)), wanted))
                    FAIL("descriptors of " << key);
        }
    }
}
