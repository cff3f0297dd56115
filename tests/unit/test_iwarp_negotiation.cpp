// The MPA handshake with a scripted peer, both ways: the matrices of what siw does, and what we do with it.
#include "fabric/iwarp/socket.hpp"
#include "raw_peer.hpp"
#include "support/catch.hpp"

using namespace fabric_test;

namespace {

constexpr auto no_crc = iwarp::Crc::off;

// Sends `request` to a listener that accepts with private data "ok"; returns the reply and how it ended.
struct Responder {
    Pair pair;
    RawPeer peer{pair.loop};
    explicit Responder(const iwarp::Settings& settings = {.crc = no_crc}) : pair(Kind::iwarp, settings) {
        pair.acceptor.on = [this](std::unique_ptr<Endpoint> endpoint, const PrivateData& data) {
            pair.acceptor.data = data;
            pair.server.endpoint = std::move(endpoint);
            if (auto_accept) {
                (void)pair.server->accept({.private_data = private_data("ok"), .ird = 1, .ord = 8},
                                          &pair.server);
            }
        };
        peer.connect(pair.address());
    }
    std::string answer(const std::string& request, size_t expected) {
        peer.send(hex(request_key + request));
        const std::string all = to_hex(peer.receive(expected));
        return all.starts_with(reply_key) ? all.substr(reply_key.size()) : all;
    }
    bool auto_accept = true;
};

const std::string ok = "6f6b";  // "ok"

}  // namespace

TEST_CASE("responder: request and reply") {
    struct Row {
        std::string request, reply;
    };
    const std::vector<Row> rows = {
        {"00 01 0000", "00010002" + ok},                   // RFC 5044
        {"40 01 0000", "40010002" + ok},                   // C is mirrored
        {"00 00 0000", "00000002" + ok},                   // revision 0 is answered in kind
        {"00 02 0000", "00020002" + ok},                   // revision 2 without S equals 1
        {"10 01 0004 8020c001", "00010002" + ok},          // S in revision 1: private data is not parsed
        {"10 02 0004 00200000", "1002000600010008" + ok},  // siw: ird 32, ord 0
        {"10 02 0004 00200008", "1002000600010008" + ok},  // our IRD is 1
        {"10 02 0004 000400c8", "1002000600010004" + ok},  // we issue no more than it serves
        {"10 02 0004 3fff3fff", "100200063fff3fff" + ok},  // "do not negotiate" is mirrored
        {"10 02 0004 8020c001", "1002000680018008" + ok},  // A|C|D: Write
        {"10 02 0004 80204001", "1002000680014008" + ok},  // A|D: Read
        {"10 02 0004 c0200001", "1002000680018008" + ok},  // A|B: Send is not supported, Write is what we can
        {"10 02 0004 80200001", "1002000680018008" + ok},  // A alone
        {"10 02 0004 0020c001", "1002000600010008" + ok},  // C|D without A mean nothing
        {"3f 02 0004 00200000",
         "1002000600010008" + ok},  // R in a request and reserved bits: ignored, not echoed
        {"50 02 000c 80204001 0000002000000001", "5002000680014008" + ok},
    };
    const Row& row = GENERATE_COPY(from_range(rows));
    CAPTURE(row.request);
    Responder responder;
    CHECK(responder.answer(row.request, 20 + row.reply.size() / 2 - 4) == row.reply);
    CHECK(responder.peer.ending(50) == "open");
    CHECK(responder.pair.server.established);
}

TEST_CASE("responder: refusals") {
    struct Row {
        std::string request, reply, ending;
    };
    const std::vector<Row> rows = {
        {"80 01 0000", "20010000", "fin"},  // markers: rejected, M cleared
        {"c0 02 0000", "60020000", "fin"},  // ... C kept
        {"90 02 0004 00200000", "3002000400000000", "fin"},
        {"10 02 0003 000000", "20020000", "fin"},  // S without room for the words
        {"00 03 0000", "", "fin"},                 // a revision that nobody knows
        {"00 01 0201", "", "rst"},                 // private data beyond 512
        {"00 01 0000 0012414300", "", "rst"},      // an FPDU glued behind the request
    };
    const Row& row = GENERATE_COPY(from_range(rows));
    CAPTURE(row.request);
    Responder responder;
    CHECK(responder.answer(row.request, 24) == row.reply);
    CHECK(responder.peer.ending() == row.ending);
    CHECK_FALSE(responder.pair.server.endpoint);
}

TEST_CASE("responder: not MPA at all") {
    Responder responder;
    responder.peer.send(GENERATE(ascii("GET / HTTP/1.0\r\n\r\n"), hex(reply_key + "00010000"), Bytes(600)));
    CHECK(responder.peer.ending() == "rst");
    CHECK_FALSE(responder.pair.server.endpoint);
}

TEST_CASE("responder: the request may come in pieces") {
    Responder responder;
    for (const std::byte byte : hex(request_key + "10 02 000c 8020c001 0102030405060708")) {
        responder.peer.send({byte});
        settle(responder.pair.loop, 2);
    }
    CHECK(responder.peer.receive(26).size() == 26);
    CHECK(to_hex(responder.pair.acceptor.data.view()) == "0102030405060708");
}

TEST_CASE("responder: silence ends after the time limit, also with half a request") {
    Responder responder({.crc = no_crc, .request_timeout = 100'000'000});
    if (GENERATE(true, false)) responder.peer.send(hex(request_key.substr(0, 20)));
    CHECK(responder.peer.ending(50) == "open");
    CHECK(responder.peer.ending(1000) == "fin");
}

TEST_CASE("responder: half-open connections are capped") {
    Responder responder({.crc = no_crc, .half_open = 4, .half_open_per_peer = 3});
    std::vector<std::unique_ptr<RawPeer>> peers;
    for (int i = 0; i < 4; ++i) {
        peers.push_back(std::make_unique<RawPeer>(responder.pair.loop));
        peers.back()->connect(responder.pair.address());
        settle(responder.pair.loop, 3);
    }
    // Five came, three of one address may stand: the two oldest have gone, the fixture's own among them.
    CHECK(responder.peer.ending(500) == "fin");
    CHECK(peers[0]->ending(500) == "fin");
    for (int i = 1; i < 4; ++i) CHECK(peers[static_cast<size_t>(i)]->ending(20) == "open");
    peers[3]->send(hex(request_key + "00 01 0000"));
    CHECK(peers[3]->receive(22).size() == 22);
}

TEST_CASE("responder: what happens between request and accept") {
    Responder responder;
    responder.auto_accept = false;
    responder.peer.send(hex(request_key + "00010000"));
    REQUIRE(run_until(responder.pair.loop, [&] { return responder.pair.server.endpoint != nullptr; }));
    switch (GENERATE(0, 1, 2)) {
        case 0:
            responder.peer.shutdown();
            break;
        case 1:
            responder.peer.reset();
            break;
        case 2:
            responder.peer.send(fpdu(send_segment(1), {}));
            break;
    }
    settle(responder.pair.loop);
    const auto accepted = responder.pair.server->accept({}, &responder.pair.server);
    REQUIRE_FALSE(accepted);
    CHECK(accepted.error().errnum == ECONNRESET);
}

TEST_CASE("responder: the application's rejection") {
    Responder responder;
    responder.auto_accept = false;
    responder.peer.send(hex(request_key + "10 02 0004 8020c001"));
    REQUIRE(run_until(responder.pair.loop, [&] { return responder.pair.server.endpoint != nullptr; }));
    responder.pair.server->reject(private_data("no"));
    CHECK(to_hex(responder.peer.receive(26)) == reply_key + "30020006" + "00000000" + "6e6f");
    CHECK(responder.peer.ending() == "fin");
}

// ---- initiator

namespace {

struct Initiator {
    EventLoop loop;
    RawPeer peer{loop};
    std::unique_ptr<Fabric> fabric;
    Node node;

    explicit Initiator(const iwarp::Settings& settings = {.crc = no_crc},
                       Nanoseconds timeout = 2'000'000'000) {
        fabric = make_iwarp_fabric(loop, settings);
        node.endpoint = fabric
                            ->connect({.remote = peer.listen(),
                                       .private_data = private_data("hi"),
                                       .ird = 32,
                                       .ord = 8,
                                       .timeout = timeout},
                                      &node)
                            .value();
        REQUIRE(peer.accept());
    }
    ~Initiator() {
        node.endpoint.reset();
        settle(loop, 3);
    }
    std::string request(size_t size) { return to_hex(peer.receive(size)).substr(reply_key.size()); }
    Error end() {
        REQUIRE(run_until(loop, [&] { return node.end.has_value(); }));
        return *node.end;
    }
};

const std::string v2_request =
    "10020006"
    "8020c008"
    "6869";

}  // namespace

TEST_CASE("initiator: portable defaults in the request") {
    Initiator plain;
    CHECK(plain.request(26) == v2_request);
    Initiator with_crc({.crc = iwarp::Crc::on});
    CHECK(with_crc.request(26) ==
          "50020006"
          "8020c008"
          "6869");
    Initiator same_host({.crc = iwarp::Crc::automatic});
    CHECK(same_host.request(26) == v2_request);
}

TEST_CASE("initiator: replies that are accepted") {
    struct Row {
        std::string reply;
        int ord, ird;
        std::string first;  // FPDU: the ready-to-receive message
    };
    const std::string write_rtr = "000ec140000000010000000000000000";
    const std::string read_rtr =
        "002e4141"
        "00000000"
        "00000001"
        "00000001"
        "00000000"
        "00000001"
        "0000000000000000"
        "00000000"
        "00000001"
        "0000000000000000";
    const std::vector<Row> rows = {
        {"10 02 0006 80208008 6f6b", 8, 32, write_rtr + "00000000"},
        {"10 02 0006 80204008 6f6b", 8, 32, read_rtr + "00000000"},
        {"10 02 0006 8004c008 6f6b", 4, 32, write_rtr + "00000000"},  // both: Write preferred
        {"50 02 0006 80208008 6f6b", 8, 32, write_rtr + "ebd34c5f"},  // C although not asked
        {"10 02 0006 bfffbfff 6f6b", 8, 32, write_rtr + "00000000"},  // "do not negotiate"
        {"10 02 0006 80208080 6f6b", 8, 128,
         write_rtr + "00000000"},                                     // wants more reads than offered: served
        {"10 02 0006 00100008 6f6b", 8, 32, ""},                      // no A: no ready-to-receive message
        {"18 02 0006 80208008 6f6b", 8, 32, write_rtr + "00000000"},  // siw's private flag
        {"00 02 0002 6f6b", 8, 32, ""},                               // without S
        {"00 01 0002 6f6b", 8, 32, ""},                               // revision 1
    };
    const Row& row = GENERATE_COPY(from_range(rows));
    CAPTURE(row.reply);
    Initiator initiator;
    initiator.request(26);
    initiator.peer.send(hex(reply_key + row.reply));
    REQUIRE(run_until(initiator.loop, [&] { return initiator.node.established; }));
    CHECK(text_of(initiator.node.peer_data) == "ok");
    CHECK(initiator.node->limits().max_ord == row.ord);
    CHECK(initiator.node->limits().max_ird == row.ird);
    CHECK(to_hex(initiator.peer.receive(row.first.size() / 2)) == row.first);
    CHECK(initiator.peer.receive(1, 20).empty());
}

TEST_CASE("initiator: replies that are refused") {
    struct Row {
        std::string reply;
        Error error;
        std::string terminate;  // control word of the Terminate before our FIN
    };
    const Error negotiation{Reason::mpa_negotiation, ECONNREFUSED};
    const std::vector<Row> rows = {
        {"30 02 0006 00000000 6e6f", {Reason::peer_rejected, ECONNREFUSED}, ""},
        {"20 01 0000", {Reason::peer_rejected, ECONNREFUSED}, ""},
        {"30 02 0000", {Reason::peer_rejected, ECONNREFUSED}, ""},  // siw: S, and no words
        {"90 02 0004 80208008", negotiation, "20040000"},           // markers
        {"10 02 0004 80200008", negotiation, "20070000"},           // A, but no message that we may send
        {"10 02 0004 80208081", negotiation, "20060000"},           // 129 reads
        {"10 03 0004 80208008", negotiation, "20040000"},           // a newer revision than ours
        {"10 02 0003 000000", negotiation, ""},
        {"00 01 0201", negotiation, ""},
    };
    const Row& row = GENERATE_COPY(from_range(rows));
    CAPTURE(row.reply);
    Initiator initiator;
    initiator.request(26);
    initiator.peer.send(hex(reply_key + row.reply));
    CHECK(initiator.end() == row.error);
    const auto rest = to_hex(initiator.peer.receive(28));
    CHECK((row.terminate.empty() ? rest.empty() : rest.substr(40, 8) == row.terminate));
    CHECK(initiator.peer.ending() != "open");
    CHECK_FALSE(initiator.node.established);
}

TEST_CASE("initiator: a peer that is no iWARP peer") {
    Initiator initiator;
    initiator.peer.send(
        GENERATE(ascii("SSH-2.0-OpenSSH_9.2p1\r\n"), ascii("HTTP/1.1 400 Bad Request\r\n"), Bytes(1)));
    CHECK(initiator.end() == Error{Reason::peer_not_iwarp, ECONNREFUSED});
}

TEST_CASE("initiator: two initiators") {
    Initiator initiator;
    initiator.peer.send(hex(request_key + "00010000"));
    CHECK(initiator.end() == Error{Reason::mpa_negotiation, ECONNREFUSED});
}

TEST_CASE("initiator: an RFC 5044 peer closes on revision 2 and gets revision 1 once") {
    const bool reset = GENERATE(true, false);
    Initiator initiator;
    CHECK(initiator.request(26) == v2_request);
    if (reset) initiator.peer.reset();
    REQUIRE(initiator.peer.accept());
    CHECK(initiator.request(22) ==
          "00010002"
          "6869");
    SECTION("and is content") {
        initiator.peer.send(hex(reply_key + "00 01 0000"));
        REQUIRE(run_until(initiator.loop, [&] { return initiator.node.established; }));
    }
    SECTION("or is not") {
        initiator.peer.close();
        CHECK(initiator.end() == Error{Reason::peer_not_iwarp, ECONNRESET});
    }
}

TEST_CASE("initiator: the end in the middle of a reply") {
    Initiator initiator;
    initiator.request(26);
    initiator.peer.send(hex(reply_key + "10 02"));
    settle(initiator.loop);
    initiator.peer.close();
    CHECK(initiator.end() == Error{Reason::peer_not_iwarp, ECONNRESET});
}

TEST_CASE("initiator: silence ends within the overall time limit") {
    Initiator initiator({.crc = no_crc}, 100'000'000);
    CHECK(initiator.end() == Error{Reason::peer_not_iwarp, ETIMEDOUT});
    CHECK(initiator.peer.ending() == "fin");
}

TEST_CASE("initiator: a reply in pieces") {
    Initiator initiator;
    for (const std::byte byte : hex(reply_key + "10 02 0006 80208008 6f6b")) {
        initiator.peer.send({byte});
        settle(initiator.loop, 2);
    }
    REQUIRE(run_until(initiator.loop, [&] { return initiator.node.established; }));
    CHECK(text_of(initiator.node.peer_data) == "ok");
}

TEST_CASE("initiator: errors that TCP knows") {
    EventLoop loop;
    auto fabric = make_iwarp_fabric(loop);
    Node node;
    SECTION("as they are told") {
        CHECK(iwarp::connect_error(EHOSTUNREACH) == Error{Reason::connect_unreachable, EHOSTUNREACH});
        CHECK(iwarp::connect_error(ENETUNREACH) == Error{Reason::connect_unreachable, ENETUNREACH});
        CHECK(iwarp::connect_error(ETIMEDOUT) == Error{Reason::connect_timeout, ETIMEDOUT});
        CHECK(iwarp::stream_error(EPIPE) == Error{Reason::peer_reset, ECONNRESET});
    }
    SECTION("a local address that is not ours") {
        sockaddr_in in{.sin_family = AF_INET};
        inet_pton(AF_INET, "192.0.2.1", &in.sin_addr);
        sockaddr_storage local{};
        std::memcpy(&local, &in, sizeof in);
        const auto connected = fabric->connect({.local = local, .remote = loopback(5445)}, &node);
        REQUIRE_FALSE(connected);
        CHECK(connected.error() == Error{Reason::local_port_or_address, EADDRNOTAVAIL});
    }
    SECTION("a port that is taken") {
        Acceptor acceptor;
        auto first = fabric->listen({.address = loopback()}, &acceptor).value();
        const auto second = fabric->listen({.address = first->local_address()}, &acceptor);
        REQUIRE_FALSE(second);
        CHECK(second.error() == Error{Reason::rdma_port_taken, EADDRINUSE});
    }
}
