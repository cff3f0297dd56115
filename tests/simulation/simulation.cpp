// Two Connections under random schedules: properties 3, 4, 5, 7, 8, 9, 10, 12, 22 and 25 of facts/ms-smbd.md
// section 10. Properties 4, 5, 7 and 12 are checked at every step, inside the nodes and the world.
#include "world.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

Settings random_settings(Random& random, uint32_t least_target, uint32_t most_target) {
    Settings settings;
    settings.send_credit_target = static_cast<uint16_t>(random.between(least_target, most_target));
    settings.receive_credit_max = static_cast<uint16_t>(random.between(least_target, most_target));
    const auto size = [&] {
        return static_cast<uint32_t>(random.chance(30) ? 128 : random.between(128, 8192));
    };
    settings.max_send_size = size();
    settings.max_receive_size = size();
    settings.max_fragmented_receive_size = 131072;
    return settings;
}

World random_world(uint64_t seed, uint32_t least_target, uint32_t most_target, bool varied) {
    Random random(seed);
    const auto node = [&](Role role) {
        const Settings settings = random_settings(random, least_target, most_target);
        const auto slots = static_cast<uint32_t>(settings.receive_credit_max + random.below(8));
        auto core = std::make_unique<CoreNode>(role, settings, slots);
        core->varies_ceiling = varied;
        return core;
    };
    auto active = node(Role::active);
    auto passive = node(Role::passive);
    World world(std::move(active), std::move(passive), random.next());
    world.mutate_targets = varied;
    world.largest_target = static_cast<uint16_t>(most_target);
    return world;
}

// Bytes there, memory enough: whatever the schedule did before, all must arrive.
void run_to_the_end(World& world) {
    for (int i = 0; i < 400; ++i) world.step();
    world.settle(200000, true);
    world.check_delivered();
}

uint64_t digest(const World& world) {
    return dynamic_cast<CoreNode&>(*world.nodes[0]).digest * 31 +
           dynamic_cast<CoreNode&>(*world.nodes[1]).digest;
}

}  // namespace

TEST_CASE("properties 3, 4, 5, 7, 8, 12, 22: small targets, random schedules") {
    for_seeds(6000, [](uint64_t seed) {
        World world = random_world(seed, 1, 8, false);
        world.connect(seed % 2 == 0);
        world.send_random(6, 20000);
        run_to_the_end(world);
    });
}

TEST_CASE("property 8: every mix of targets 1 to 8, one or both queues full") {
    for (uint16_t a = 1; a <= 8; ++a) {
        for (uint16_t b = 1; b <= 8; ++b) {
            for (int full = 1; full <= 3; ++full) {
                Settings settings;
                settings.max_send_size = settings.max_receive_size = 128;
                settings.max_fragmented_receive_size = 131072;
                settings.send_credit_target = settings.receive_credit_max = a;
                auto active = std::make_unique<CoreNode>(Role::active, settings, a);
                settings.send_credit_target = settings.receive_credit_max = b;
                auto passive = std::make_unique<CoreNode>(Role::passive, settings, b);
                World world(std::move(active), std::move(passive),
                            static_cast<uint64_t>(a * 100 + b * 10 + full));
                world.connect();
                for (int i = 0; i < 2; ++i)
                    for (int n = 0; n < 20 && (full & (1 << i)); ++n)
                        world.nodes[i]->send(Bytes(1000, std::byte{7}));
                INFO("targets " << a << " and " << b << ", queues " << full);
                REQUIRE_NOTHROW(run_to_the_end(world));
            }
        }
    }
}

TEST_CASE("property 9: targets and ceilings raised and lowered in mid-stream") {
    for_seeds(4000, [](uint64_t seed) {
        World world = random_world(seed, 1, 8, true);
        world.connect();
        world.send_random(8, 20000);
        run_to_the_end(world);
    });
}

TEST_CASE("property 3: ordinary targets and large messages") {
    for_seeds(60, [](uint64_t seed) {
        World world = random_world(seed, 16, 255, seed % 3 == 0);
        world.connect();
        world.send_random(20, 131072);
        for (int i = 0; i < 5000; ++i) world.step();
        run_to_the_end(world);
    });
}

TEST_CASE("property 10: after the queues drained both fall silent, and keep-alives end") {
    for_seeds(2000, [](uint64_t seed) {
        World world = random_world(seed, 1, seed % 2 ? 5 : 255, false);
        world.connect();
        world.send_random(6, 20000);
        run_to_the_end(world);
        hold(world.settle(100) < 100, "they do not fall silent");
        for (int i = 0; i < 20; ++i) {
            hold(world.pass_time(), "no timer runs");
            hold(world.settle(100) <= 4, "a keep-alive does not end");
            world.check_delivered();
        }
    });
}

TEST_CASE("property 25: the same events, the same actions") {
    for_seeds(200, [](uint64_t seed) {
        uint64_t digests[2];
        for (uint64_t& result : digests) {
            World world = random_world(seed, 1, 8, true);
            world.connect(true);
            world.send_random(6, 20000);
            run_to_the_end(world);
            result = digest(world);
        }
        hold(digests[0] == digests[1], "a replay differs");
    });
}
