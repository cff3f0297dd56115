#include "session/names.hpp"

#include <cstddef>
#include <cstring>

#include "session/raw_calls.hpp"

namespace smbdirect::session {
namespace {

constexpr size_t kLongestName = 90;

// Builds an abstract name: a zero byte, then the text, its length given by the address length.
class Builder {
  public:
    Builder() { name_.address.sun_family = AF_UNIX; }

    Builder& text(const char* text) {
        for (; *text && used_ <= kLongestName; ++text) put(*text);
        return *this;
    }
    Builder& number(uint64_t value, unsigned base) {
        char digits[20];
        int n = 0;
        do digits[n++] = "0123456789abcdef"[value % base], value /= base;
        while (value > 0);
        while (n > 0) put(digits[--n]);
        return *this;
    }
    Name done() {
        name_.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + used_);
        return name_;
    }

  private:
    void put(char c) {
        if (used_ < sizeof name_.address.sun_path) name_.address.sun_path[used_++] = c;
    }

    Name name_;
    size_t used_ = 1;
};

// Reads "<hexadecimal>" up to '/' or the end.
class Reader {
  public:
    Reader(const sockaddr_un& address, socklen_t length) {
        size_t whole =
            length > offsetof(sockaddr_un, sun_path) ? length - offsetof(sockaddr_un, sun_path) : 0;
        if (address.sun_family != AF_UNIX || whole < 2 || whole > sizeof address.sun_path) return;
        if (address.sun_path[0] != 0) return;
        at_ = address.sun_path + 1;
        left_ = whole - 1;
    }
    bool text(const char* expected) {
        size_t n = std::strlen(expected);
        if (left_ < n || std::memcmp(at_, expected, n) != 0) return false;
        at_ += n;
        left_ -= n;
        return true;
    }
    bool number(uint64_t* value) {
        uint64_t v = 0;
        int digits = 0;
        for (; left_ > 0 && *at_ != '/'; ++at_, --left_, ++digits) {
            int d = *at_ >= '0' && *at_ <= '9'   ? *at_ - '0'
                    : *at_ >= 'a' && *at_ <= 'f' ? *at_ - 'a' + 10
                                                 : -1;
            if (d < 0 || digits == 16) return false;
            v = v << 4 | static_cast<uint64_t>(d);
        }
        *value = v;
        return digits > 0;
    }
    bool end() const { return left_ == 0; }

  private:
    const char* at_ = nullptr;
    size_t left_ = 0;
};

}  // namespace

Name meeting_name_system() { return Builder().text("smbdirect/system").done(); }

Name meeting_name_user(uid_t uid) {
    return Builder()
        .text("smbdirect/uid/")
        .number(uid, 10)
        .text("/")
        .number(network_namespace_cookie(), 10)
        .done();
}

Name meeting_name_override(const char* name) { return Builder().text(name).done(); }

Name mirror_name(uint64_t engine_id, uint64_t connection_id, char end) {
    const char tail[] = {'/', end, 0};
    return Builder()
        .text("smbdirect/c/")
        .number(engine_id, 16)
        .text("/")
        .number(connection_id, 16)
        .text(tail)
        .done();
}

Name listener_name(uint64_t engine_id, uint64_t listener_id) {
    return Builder().text("smbdirect/l/").number(engine_id, 16).text("/").number(listener_id, 16).done();
}

bool parse_mirror_name(const sockaddr_un& address, socklen_t length, uint64_t* engine_id,
                       uint64_t* connection_id, char* end) {
    Reader reader(address, length);
    uint64_t engine = 0, connection = 0;
    if (!reader.text("smbdirect/c/") || !reader.number(&engine) || !reader.text("/") ||
        !reader.number(&connection))
        return false;
    char which = reader.text("/a") ? 'a' : reader.text("/b") ? 'b' : 0;
    if (which == 0 || !reader.end()) return false;
    if (engine_id) *engine_id = engine;
    if (connection_id) *connection_id = connection;
    if (end) *end = which;
    return true;
}

bool parse_listener_name(const sockaddr_un& address, socklen_t length, uint64_t* engine_id,
                         uint64_t* listener_id) {
    Reader reader(address, length);
    uint64_t engine = 0, listener = 0;
    if (!reader.text("smbdirect/l/") || !reader.number(&engine) || !reader.text("/") ||
        !reader.number(&listener) || !reader.end())
        return false;
    if (engine_id) *engine_id = engine;
    if (listener_id) *listener_id = listener;
    return true;
}

uint64_t network_namespace_cookie() {
    constexpr int kNetnsCookie = 71;  // SO_NETNS_COOKIE, Linux 5.14
    long fd = raw::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fd = raw::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fd = raw::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    if (raw::get_option(static_cast<int>(fd), SOL_SOCKET, kNetnsCookie, &cookie, &size) < 0) cookie = 0;
    raw::close(static_cast<int>(fd));
    return cookie;
}

}  // namespace smbdirect::session
