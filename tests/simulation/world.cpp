#include "world.hpp"

#include <algorithm>

namespace smbdirect::test {

void World::connect(bool late_event) {
    for (int i = 0; i < 2; ++i) {
        auto* core = dynamic_cast<CoreNode*>(nodes[i].get());
        if (!core) continue;
        // Only the acceptor can be overtaken: the initiator speaks first.
        if (late_event && i == 1)
            pending_event_[i] = true;
        else
            core->transport_established(now);
    }
}

bool World::give(int from) {
    auto message = nodes[from]->give(now);
    if (!message) return false;
    InFlight flight;
    const auto field = [&](size_t at) {
        return std::to_integer<uint32_t>((*message)[at]) | std::to_integer<uint32_t>((*message)[at + 1]) << 8;
    };
    const bool negotiate = from == 0 ? field(0) == 0x100 && field(2) == 0x100 : field(4) == 0x100;
    flight.data = !negotiate;
    flight.granted = !negotiate ? field(2) : from == 1 ? field(10) : 0;
    if (flight.data && mutate_targets && random.chance(30)) {
        (*message)[0] = static_cast<std::byte>(random.between(1, largest_target));
        (*message)[1] = std::byte{0};
    }
    flight.bytes = std::move(*message);
    link_[1 - from].push_back(std::move(flight));
    ++carried;
    return true;
}

bool World::take(int at) {
    if (link_[at].empty()) return false;
    const InFlight flight = std::move(link_[at].front());
    link_[at].pop_front();
    nodes[at]->take(flight.bytes, now);
    return true;
}

// Property 4: whoever holds a credit, or has spent it on a message under way, has a receive waiting for it.
void World::check_conservation(int sender) const {
    if (!nodes[0]->established() || !nodes[1]->established()) return;
    uint64_t owed = nodes[sender]->send_credits();
    for (const InFlight& flight : link_[1 - sender]) owed += flight.data;
    for (const InFlight& flight : link_[sender]) owed += flight.granted;
    hold(nodes[1 - sender]->receives_posted() >= owed, "property 4: credits without receives");
}

void World::step() {
    const int node = static_cast<int>(random.below(2));
    switch (random.below(3)) {
        case 0:
            give(node);
            break;
        case 1:
            take(node);
            break;
        default:
            nodes[node]->stir(random);
    }
    if (pending_event_[1] && random.chance(5)) {
        pending_event_[1] = false;
        dynamic_cast<CoreNode&>(*nodes[1]).transport_established(now);
    }
    check_conservation(0);
    check_conservation(1);
}

uint64_t World::settle(uint64_t at_most, bool until_delivered) {
    if (pending_event_[1]) {
        pending_event_[1] = false;
        dynamic_cast<CoreNode&>(*nodes[1]).transport_established(now);
    }
    const uint64_t before = carried;
    for (bool busy = true; busy && carried - before < at_most;) {
        busy = false;
        for (int i = 0; i < 2; ++i) {
            nodes[i]->calm();
            busy |= give(i);
            busy |= take(i);
            check_conservation(i);
        }
        if (until_delivered && link_[0].empty() && link_[1].empty() && delivered()) break;
    }
    return carried - before;
}

bool World::pass_time() {
    std::optional<Nanoseconds> next;
    for (const auto& node : nodes)
        if (const auto due = node->deadline()) next = std::min(next.value_or(*due), *due);
    if (!next) return false;
    // A timer may be due at once: who becomes starved may have been silent for long. But not again and again.
    standing_ = *next > now ? 0 : standing_ + 1;
    hold(standing_ < 4, "time stands still");
    now = std::max(now, *next);
    for (const auto& node : nodes) node->timer(now);
    return true;
}

bool World::delivered() const {
    return nodes[0]->all_sent() && nodes[1]->all_sent() &&
           nodes[0]->received.size() == nodes[1]->sent.size() &&
           nodes[1]->received.size() == nodes[0]->sent.size();
}

void World::send_random(uint32_t messages, uint32_t largest) {
    for (const auto& node : nodes) {
        for (uint64_t n = random.below(messages + 1); n > 0; --n) {
            Bytes message(random.between(1, random.chance(20) ? largest : std::min(largest, 3000U)));
            for (auto& b : message) b = static_cast<std::byte>(random.next());
            node->send(std::move(message));
        }
    }
}

void World::check_delivered() const {
    for (int i = 0; i < 2; ++i) {
        hold(!nodes[i]->dead(), "the connection ended");
        hold(nodes[i]->all_sent(), "property 8: deadlock, not all was sent");
        hold(nodes[i]->received == nodes[1 - i]->sent, "property 3: not what was sent, or not all of it");
    }
}

}  // namespace smbdirect::test
