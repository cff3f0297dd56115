#include "preload/rules.hpp"

#include <arpa/inet.h>

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace smbdirect::preload;
using smbdirect::session::FabricChoice;

namespace {

Endpoint endpoint(const char* address, uint16_t port) {
    Endpoint e;
    e.port = port;
    e.family = inet_pton(AF_INET, address, e.address) == 1 ? AF_INET : AF_INET6;
    if (e.family == AF_INET6) REQUIRE(inet_pton(AF_INET6, address, e.address) == 1);
    return e;
}

struct Read {
    RuleSet rules;
    std::vector<std::string> mistakes;

    explicit Read(std::string_view text) {
        rules.add(text, [this](unsigned line, std::string_view statement, const char* what) {
            mistakes.push_back(std::to_string(line) + ": " + what + ": " + std::string(statement));
        });
    }
    Verdict verdict(Direction direction, const char* program, const char* address, uint16_t port) const {
        const Rule* rule = rules.find(direction, program, endpoint(address, port));
        return rule ? rule->verdict : Verdict::tcp;
    }
};

}  // namespace

TEST_CASE("rules: the first that matches decides") {
    Read r(
        "connect program=smb* address=10.0.0.0/8 port=445 tcp\n"
        "connect port=445 require fabric=iwarp rdma_port=5446 timeout=1500 # a comment; with a semicolon\n"
        "connect port=1000-2000 prefer; listen port=445 also\n"
        "   # nothing\n\n;;\n"
        "listen address=::1 only\n");
    REQUIRE(r.mistakes.empty());
    CHECK(r.rules.size() == 5);
    CHECK(r.verdict(Direction::connect, "smbclient", "10.1.2.3", 445) == Verdict::tcp);
    CHECK(r.verdict(Direction::connect, "smbclient", "11.1.2.3", 445) == Verdict::require);
    CHECK(r.verdict(Direction::connect, "python3", "10.1.2.3", 445) == Verdict::require);
    CHECK(r.verdict(Direction::connect, "python3", "::1", 1000) == Verdict::prefer);
    CHECK(r.verdict(Direction::connect, "python3", "::1", 2000) == Verdict::prefer);
    CHECK(r.verdict(Direction::connect, "python3", "::1", 2001) == Verdict::tcp);
    CHECK(r.verdict(Direction::listen, "smbd", "0.0.0.0", 445) == Verdict::also);
    CHECK(r.verdict(Direction::listen, "smbd", "::1", 8000) == Verdict::only);
    CHECK(r.verdict(Direction::listen, "smbd", "::2", 8000) == Verdict::tcp);
    const Rule* rule = r.rules.find(Direction::connect, "x", endpoint("1.2.3.4", 445));
    REQUIRE(rule);
    CHECK(rule->fabric == FabricChoice::iwarp);
    CHECK(rule->rdma_port == 5446);
    CHECK(rule->timeout_ms == 1500);
    CHECK(rule->line == 2);
}

TEST_CASE("rules: what cannot be understood is left out and named") {
    for (const char* text :
         {"connekt port=445 require", "connect port=445", "connect port=445 also", "listen require",
          "connect port=x require", "connect port=5-3 require", "connect port=70000 require",
          "connect address=300.1.1.1 require", "connect address=1.2.3.4/33 require", "connect address= tcp",
          "connect fabric=ether require", "connect colour=red require", "connect require prefer",
          "connect timeout=0 require", "connect rdma_port=0 require", "connect program= require"}) {
        INFO(text);
        Read r(std::string(text) + "\nconnect port=445 require");
        CHECK(r.mistakes.size() == 1);
        CHECK(r.rules.size() == 1);
        CHECK(r.verdict(Direction::connect, "x", "1.2.3.4", 445) == Verdict::require);
    }
    Read long_program("connect program=" + std::string(200, 'a') + " tcp");
    CHECK(long_program.mistakes.size() == 1);
    std::string many;
    for (unsigned i = 0; i < RuleSet::kMax + 3; ++i) many += "connect tcp;";
    CHECK(Read(many).mistakes.size() == 3);
}

TEST_CASE("rules: addresses") {
    Read r(
        "connect address=192.168.1.128/25 tcp; connect address=fe80::/10 require; connect "
        "address=[2001:db8::1] prefer; connect address=0.0.0.0/0 require");
    REQUIRE(r.mistakes.empty());
    CHECK(r.verdict(Direction::connect, "x", "192.168.1.200", 1) == Verdict::tcp);
    CHECK(r.verdict(Direction::connect, "x", "192.168.1.100", 1) == Verdict::require);
    CHECK(r.verdict(Direction::connect, "x", "febf::1", 1) == Verdict::require);
    CHECK(r.verdict(Direction::connect, "x", "fec0::1", 1) == Verdict::tcp);
    CHECK(r.verdict(Direction::connect, "x", "2001:db8::1", 1) == Verdict::prefer);
    CHECK(r.verdict(Direction::connect, "x", "2001:db8::2", 1) == Verdict::tcp);
}

TEST_CASE("rules: programs") {
    CHECK(glob_matches("smbd", "smbd"));
    CHECK_FALSE(glob_matches("smbd", "smbd2"));
    CHECK(glob_matches("rpcd_*", "rpcd_lsad"));
    CHECK(glob_matches("*", ""));
    CHECK(glob_matches("a?c*e", "abcdde"));
    CHECK_FALSE(glob_matches("a?c*f", "abcdde"));
    CHECK(glob_matches("*a*b", "xxaxxbxxb"));
    Read r("connect program=smbd,rpcd_*,net tcp; connect require");
    CHECK(r.verdict(Direction::connect, "net", "1.1.1.1", 1) == Verdict::tcp);
    CHECK(r.verdict(Direction::connect, "rpcd_lsad", "1.1.1.1", 1) == Verdict::tcp);
    CHECK(r.verdict(Direction::connect, "network", "1.1.1.1", 1) == Verdict::require);
}

TEST_CASE("endpoints: mapped addresses are IPv4, and shown as the socket's family shows them") {
    sockaddr_in6 mapped{};
    mapped.sin6_family = AF_INET6;
    mapped.sin6_port = htons(445);
    REQUIRE(inet_pton(AF_INET6, "::ffff:10.1.2.3", &mapped.sin6_addr) == 1);
    Endpoint e;
    REQUIRE(endpoint_of(reinterpret_cast<sockaddr*>(&mapped), sizeof mapped, &e));
    CHECK(e.family == AF_INET);
    CHECK(e.port == 445);
    CHECK(e.address[0] == 10);
    sockaddr_storage shown;
    CHECK(to_sockaddr(e, AF_INET, &shown) == sizeof(sockaddr_in));
    CHECK(to_sockaddr(e, AF_INET6, &shown) == sizeof(sockaddr_in6));
    CHECK(std::memcmp(&shown, &mapped, sizeof mapped) == 0);
    CHECK(endpoint_of(reinterpret_cast<sockaddr*>(&mapped), 24, &e));
    CHECK_FALSE(endpoint_of(reinterpret_cast<sockaddr*>(&mapped), 23, &e));
    CHECK_FALSE(endpoint_of(nullptr, 28, &e));
}
