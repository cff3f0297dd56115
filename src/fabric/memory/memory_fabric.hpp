// The memory fabric: both ends in one process and on one EventLoop, no kernel and no wire. A message is one
// memcpy from the sender's elements into the receive that the peer posted. Rules, errors and events are those
// of iwarp.
#pragma once

#include <memory>

#include "fabric/fabric.hpp"

namespace smbdirect::fabric {

// Listeners and connections meet within one Fabric object. It must outlive what it made.
std::unique_ptr<Fabric> make_memory_fabric(EventLoop& loop);

}  // namespace smbdirect::fabric
