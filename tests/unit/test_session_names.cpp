#include <string>

#include "session/names.hpp"
#include "session_bench.hpp"

using namespace session_test;

namespace {
std::string text(const Name& name) {
    return {name.address.sun_path + 1, name.length - offsetof(sockaddr_un, sun_path) - 1};
}

bool parses(const std::string& path, socklen_t cut = 0) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return parse_mirror_name(address,
                             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size()) - cut,
                             nullptr, nullptr, nullptr);
}
}  // namespace

TEST_CASE("names of the meeting place") {
    CHECK(text(meeting_name_system()) == "smbdirect/system");
    CHECK(text(meeting_name_user(1000)) ==
          "smbdirect/uid/1000/" + std::to_string(network_namespace_cookie()));
    CHECK(network_namespace_cookie() != 0);
    CHECK(network_namespace_cookie() == network_namespace_cookie());
    CHECK(text(meeting_name_override("mine")) == "mine");
    CHECK(text(meeting_name_override(std::string(200, 'x').c_str())).size() <= 91);
}

TEST_CASE("mirror names say what they were made of") {
    for (uint64_t engine : {uint64_t{0}, uint64_t{0xabc}, ~uint64_t{0}}) {
        Name name = mirror_name(engine, 0x1234567890abcdef, 'b');
        uint64_t e = 1, c = 1;
        char end = 0;
        REQUIRE(parse_mirror_name(name.address, name.length, &e, &c, &end));
        CHECK(e == engine);
        CHECK(c == 0x1234567890abcdef);
        CHECK(end == 'b');
        CHECK(parse_mirror_name(name.address, name.length, nullptr, nullptr, nullptr));
        CHECK_FALSE(parse_listener_name(name.address, name.length, nullptr, nullptr));
    }
    Name name = listener_name(5, 0xff);
    uint64_t e = 0, l = 0;
    CHECK(text(name) == "smbdirect/l/5/ff");
    REQUIRE(parse_listener_name(name.address, name.length, &e, &l));
    CHECK((e == 5 && l == 255));
}

TEST_CASE("other names are not mirror names") {
    const std::string zero(1, '\0');
    CHECK(parses(zero + "smbdirect/c/1/2/a"));
    CHECK_FALSE(parses(zero + "smbdirect/c/1/2/a", 1));
    CHECK_FALSE(parses("/smbdirect/c/1/2/a"));
    CHECK_FALSE(parses(zero + "smbdirect/c/1/2/c"));
    CHECK_FALSE(parses(zero + "smbdirect/c/1/2/ab"));
    CHECK_FALSE(parses(zero + "smbdirect/c//2/a"));
    CHECK_FALSE(parses(zero + "smbdirect/c/1/2"));
    CHECK_FALSE(parses(zero + "smbdirect/c/11112222333344445/2/a"));
    CHECK_FALSE(parses(zero + "smbdirect/c/G/2/a"));
    CHECK_FALSE(parses(zero));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    CHECK_FALSE(parse_mirror_name(address, sizeof(sa_family_t), nullptr, nullptr, nullptr));
    CHECK_FALSE(parse_mirror_name(address, 0, nullptr, nullptr, nullptr));
    CHECK_FALSE(parse_mirror_name(address, 5000, nullptr, nullptr, nullptr));
}
