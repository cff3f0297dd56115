// The monitor: a small process that owns the meeting socket and remembers the listeners, and starts a new
// engine when one dies. Connections of the dead engine see a reset at once (the kernel closes B); listeners
// that still have a holder are served again by the successor without the program being touched.
#pragma once

#include <sys/types.h>

#include "engine/settings.hpp"

namespace smbdirect::engine {

struct MonitorOptions {
    Settings settings;
    const char* socket_name = nullptr;      // SMBDIRECT_SOCKET, or null
    bool system = false;                    // meet every user under the system's name
    bool foreground = false;                // say on stderr what happens
    int ready_fd = -1;                      // closed when the meeting socket listens
    void (*rename)(const char*) = nullptr;  // shows the monitor's role in ps
};

// The exit status for main(): 0 after an orderly end, 4 when another engine holds the meeting place, 1 on
// failure.
int run_monitor(const MonitorOptions&);

}  // namespace smbdirect::engine
