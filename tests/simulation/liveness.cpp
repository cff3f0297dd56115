// Hours of simulated time while programs stand still (DESIGN.md D4), and company with models of other
// implementations.
#include "peer_model.hpp"
#include "world.hpp"

using namespace smbdirect;
using namespace smbdirect::test;

namespace {

Settings settings_with(uint16_t target) {
    Settings settings;
    settings.send_credit_target = settings.receive_credit_max = target;
    settings.max_send_size = settings.max_receive_size = 1364;
    settings.max_fragmented_receive_size = 1 << 20;
    return settings;
}

std::unique_ptr<CoreNode> core(Role role, uint16_t target) {
    return std::make_unique<CoreNode>(role, settings_with(target), target);
}

CoreNode& as_core(World& world, int i) { return dynamic_cast<CoreNode&>(*world.nodes[i]); }

// One of ours and a model; seed decides which is the initiator. Returns the index of ours.
struct Mixed {
    World world;
    int ours;
};
Mixed mixed(ModelKind kind, uint16_t our_target, uint16_t model_target, uint64_t seed) {
    PeerModel::Sizes sizes;
    sizes.target = sizes.credit_max = model_target;
    if (seed % 2 && kind != ModelKind::lc)  // that one is a client only
        return {World(core(Role::active, our_target), std::make_unique<PeerModel>(kind, Role::passive, sizes),
                      seed),
                0};
    return {
        World(std::make_unique<PeerModel>(kind, Role::active, sizes), core(Role::passive, our_target), seed),
        1};
}

void let_time_pass(World& world, Nanoseconds how_long) {
    for (const Nanoseconds end = world.now + how_long; world.now < end;) {
        hold(world.pass_time(), "no timer runs");
        world.settle(1000);
        hold(!world.nodes[0]->dead() && !world.nodes[1]->dead(),
             "the connection ended while a program stood still");
    }
}

}  // namespace

TEST_CASE("liveness: programs that stop reading and writing for hours") {
    for_seeds(300, [](uint64_t seed) {
        Random random(seed);
        const auto a =
            static_cast<uint16_t>(random.chance(50) ? random.between(1, 8) : random.between(8, 255));
        const auto b =
            static_cast<uint16_t>(random.chance(50) ? random.between(1, 8) : random.between(8, 255));
        World world(core(Role::active, a), core(Role::passive, b), seed);
        world.connect();
        world.send_random(30, 100000);
        for (int i = 0; i < 300; ++i) world.step();
        for (int phase = 0; phase < 6; ++phase) {
            for (int i = 0; i < 2; ++i) {
                as_core(world, i).reads = random.chance(50);
                as_core(world, i).writes = random.chance(50);
            }
            world.settle(1000);
            hold(!world.nodes[0]->dead() && !world.nodes[1]->dead(), "dead");
            let_time_pass(world, static_cast<Nanoseconds>(random.between(1, 5) * 3600) * kSecond);
            for (int i = 0; i < 50; ++i) world.step();
        }
        for (int i = 0; i < 2; ++i) as_core(world, i).reads = as_core(world, i).writes = true;
        world.settle(200000, true);
        world.check_delivered();
    });
}

TEST_CASE("liveness: a program that stops in the middle of a message starves nobody") {
    for (const ModelKind kind : {ModelKind::literal, ModelKind::lx}) {
        for_seeds(40, [kind](uint64_t seed) {
            Random random(seed);
            auto [world, ours] = mixed(kind, static_cast<uint16_t>(random.between(4, 255)),
                                       static_cast<uint16_t>(random.between(4, 255)), seed);
            world.connect();
            CoreNode& node = as_core(world, ours);
            node.send(Bytes(50000, std::byte{1}));
            node.writes = false;
            world.settle(1000);
            node.write(static_cast<uint32_t>(random.between(1, 49999)));
            world.settle(1000);
            Node& model = *world.nodes[1 - ours];
            for (int i = 0; i < 40; ++i)
                model.send(Bytes(random.between(1, 100000), std::byte{2}));  // needs grants
            world.settle(200000);
            hold(model.all_sent() && node.received == model.sent, "starved of grants");
            let_time_pass(world, 10 * 3600 * kSecond);
            node.writes = true;
            world.settle(200000, true);
            world.check_delivered();
        });
    }
}

TEST_CASE("liveness: a program that does not read, beside models that judge by silence") {
    for (const ModelKind kind : {ModelKind::literal, ModelKind::lx, ModelKind::lc}) {
        for_seeds(20, [kind](uint64_t seed) {
            auto [world, ours] = mixed(kind, 255, 255, seed);
            world.connect();
            CoreNode& node = as_core(world, ours);
            node.reads = false;
            world.settle(1000);
            for (int i = 0; i < 40; ++i) world.nodes[1 - ours]->send(Bytes(100000, std::byte{2}));
            world.settle(10000);
            let_time_pass(world, 3 * 3600 * kSecond);
            node.reads = true;
            world.settle(200000, true);
            world.check_delivered();
        });
    }
}

TEST_CASE("property 10: beside the models both fall silent, and keep-alives end") {
    for (const ModelKind kind : {ModelKind::literal, ModelKind::lc, ModelKind::lx}) {
        for (const uint16_t ours : {4, 5, 8, 16, 255}) {
            for (const uint16_t theirs : {4, 5, 8, 16, 255}) {
                for_seeds(10, [&](uint64_t seed) {
                    INFO("kind " << static_cast<int>(kind) << " targets " << ours << " " << theirs);
                    auto [world, index] = mixed(kind, ours, theirs, seed);
                    (void)index;
                    world.connect();
                    world.send_random(6, 50000);
                    for (int i = 0; i < 300; ++i) world.step();
                    world.settle(100000, true);
                    world.check_delivered();
                    hold(world.settle(600) < 600, "they do not fall silent");
                    for (int i = 0; i < 20; ++i) {
                        hold(world.pass_time(), "no timer runs");
                        hold(world.settle(100) <= 12, "a keep-alive does not end");
                        world.check_delivered();
                    }
                });
            }
        }
    }
}
