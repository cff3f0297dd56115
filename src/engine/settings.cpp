#include "engine/settings.hpp"

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <initializer_list>
#include <string_view>
#include <utility>

namespace smbdirect::engine {
namespace {

// An unsigned number in [least, most] from the environment; anything else leaves the default.
template <class T>
void read_number(const char* name, T* value, uint64_t least, uint64_t most) {
    const char* text = std::getenv(name);
    if (!text || !*text) return;
    char* end = nullptr;
    errno = 0;
    unsigned long long number = std::strtoull(text, &end, 10);
    if (errno == 0 && *end == '\0' && number >= least && number <= most) *value = static_cast<T>(number);
}

// One of these words from the environment; anything else leaves the default.
template <class T>
void read_word(const char* name, T* value, std::initializer_list<std::pair<std::string_view, T>> words) {
    const char* text = std::getenv(name);
    if (!text) return;
    for (const auto& [word, meaning] : words)
        if (text == word) *value = meaning;
}

}  // namespace

Settings settings_from_environment() {
    using fabric::iwarp::Crc;
    Settings settings;
    // A whole SMB message of 8 MiB: smbd reads the next one from its file while this one is on its way
    // (measured: get on the memory path at 1.2 instead of 1.0 of TCP).
    settings.geometry.transmit_size = 8u << 20;
    // What of it is used depends on the peer's messages: Driver::adjust_window().
    settings.geometry.receive_area_size = 16u << 20;
    settings.geometry.extent_area_size = 32u << 20;
    settings.stranger.max_send_size = 8136;  // the most that Windows takes as PreferredSendSize [MS-SMBD] <6>
    settings.stranger.max_receive_size = 8192;
    // [MS-SMBD] 3.1.4.1 has 120 s; nobody at a prompt waits so long for a peer that says nothing.
    settings.stranger.negotiate_timeout_active = 20'000'000'000;
    settings.own_kind = settings.stranger;
    // 64 KiB of data with the headers of SMB2 are one message (fit_to_wire() in driver.cpp).
    settings.own_kind.max_send_size = settings.own_kind.max_receive_size = 64 * 1024 + 1024 + 24;

    uint32_t idle_exit = UINT32_MAX;
    read_number("SMBDIRECT_IDLE_EXIT", &idle_exit, 0, 86'400);  // seconds
    if (idle_exit != UINT32_MAX)
        settings.idle_exit_seconds = settings.idle_exit_with_device_seconds = idle_exit;
    read_number("SMBDIRECT_CONNECT_TIMEOUT", &settings.connect_timeout_ms, 1, 600'000);  // milliseconds
    uint32_t spin_us = UINT32_MAX;
    read_number("SMBDIRECT_SPIN", &spin_us, 0, 1000);  // microseconds
    if (spin_us != UINT32_MAX) settings.spin_us = spin_us;
    read_number("SMBDIRECT_CREDITS", &settings.stranger.send_credit_target, 4, 65'535);           // messages
    read_number("SMBDIRECT_MAX_SEND_SIZE", &settings.stranger.max_send_size, 1029, 8136);         // bytes
    read_number("SMBDIRECT_MAX_RECEIVE_SIZE", &settings.stranger.max_receive_size, 128, 65'536);  // bytes
    read_number("SMBDIRECT_OWN_FRAGMENT", &settings.own_kind.max_send_size, 1029, 1 << 20);       // bytes
    read_number("SMBDIRECT_MAX_FRAGMENTED_SIZE", &settings.stranger.max_fragmented_receive_size, 131'072,
                UINT32_MAX / 2);  // bytes
    uint32_t transmit_kib = 0, receive_kib = 0;
    read_number("SMBDIRECT_TRANSMIT_RING", &transmit_kib, 64, 1u << 20);  // KiB, rounded up to a power of two
    read_number("SMBDIRECT_RECEIVE_AREA", &receive_kib, 512, 1u << 20);   // KiB
    if (transmit_kib) settings.geometry.transmit_size = std::bit_ceil(transmit_kib) * 1024;
    if (receive_kib) settings.geometry.receive_area_size = (receive_kib + 3) / 4 * 4096;
    read_word("SMBDIRECT_IWARP_CRC", &settings.iwarp.crc,
              {{"off", Crc::off}, {"on", Crc::on}, {"auto", Crc::automatic}});
    read_number("SMBDIRECT_IWARP_REVISION", &settings.iwarp.revision, 1, 2);  // of MPA, in our requests
    read_word("SMBDIRECT_CHANNELS", &settings.channels,
              {{"off", ChannelUse::off},
               {"needed", ChannelUse::needed},
               {"on", ChannelUse::on},
               {"auto", ChannelUse::automatic}});
    uint64_t keepalive_ms = 0;
    read_number("SMBDIRECT_KEEPALIVE", &keepalive_ms, 100, 86'400'000);  // milliseconds
    if (keepalive_ms) settings.stranger.keepalive_interval = static_cast<int64_t>(keepalive_ms) * 1'000'000;

    settings.own_kind.send_credit_target = settings.stranger.send_credit_target;
    settings.own_kind.max_receive_size = settings.own_kind.max_send_size;
    settings.own_kind.max_fragmented_receive_size = settings.stranger.max_fragmented_receive_size;
    settings.own_kind.keepalive_interval = settings.stranger.keepalive_interval;
    return settings;
}

}  // namespace smbdirect::engine
