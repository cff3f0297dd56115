// Holds the readiness mirror to its invariants with real processes, real sockets and a real scheduler: no
// lost wake-up and no spurious one, bytes identical and in order, and a clean end state. And proves that it
// would notice: each wrong variant of the protocol must fail.
//
//   simulate_readiness [--seed N] [--long] [--threads] [--only TEXT] [--no-wrong]
#include <signal.h>
#include <sys/wait.h>

#include <string>
#include <thread>
#include <vector>

#include "stress_engine.hpp"
#include "stress_program.hpp"

namespace stress {
namespace {

void* shared(size_t size) {
    return ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

// One run of one configuration with one policy.
template <class Policy>
class Run {
  public:
    explicit Run(const Config& config) {
        w_.config = config;
        w_.tally = new (shared(sizeof(Tallies))) Tallies{};
        memfd_ = create_connection_memory({config.transmit_size, kRingEntries, kRingEntries * 256}, &w_.view);
        w_.memory().engine_id = config.seed;
        w_.memory().connection_id = static_cast<uint64_t>(::getpid()) << 32 | ++next_id;
        if (memfd_ < 0 || !make_mirror_pair(w_.view.memory, false, &w_.pair)) {
            std::perror("making the pair");
            std::exit(2);
        }
        w_.memory().state = ConnectionState::established;
        engine_ = new Engine<Policy>(w_);
    }
    ~Run() {
        delete engine_;
        ::close(w_.pair.a);
        ::close(w_.pair.b);
        ::close(memfd_);
        unmap_connection_memory(&w_.view);
        ::munmap(w_.tally, sizeof(Tallies));
    }

    // The number of failures.
    uint64_t go() {
        const uint64_t start = now_ms();
        const int parties = w_.config.consumers + w_.config.producers;
        if (w_.config.forked)
            for (int i = 0; i < parties; ++i) children_.push_back(start_child(i));
        std::thread engine([this] { engine_->run(); });
        std::vector<std::thread> threads;
        if (!w_.config.forked)
            for (int i = 0; i < parties; ++i)
                threads.emplace_back(
                    [this, i] { party(i, w_.config.seed * 100 + static_cast<uint64_t>(i)); });
        watch(start);
        for (auto& thread : threads) thread.join();
        if (!w_.tally->stop) recover_locks();
        w_.tally->quit = 1;
        ring_doorbell(w_.view, w_.pair.a);
        engine.join();
        if (!w_.tally->stop) check_end_state();
        report(now_ms() - start);
        return w_.tally->failures();
    }

  private:
    void party(int i, uint64_t seed) {
        if (i < w_.config.consumers)
            Consumer<Policy>(w_, seed).run();
        else
            Producer<Policy>(w_, seed).run();
    }

    pid_t start_child(int i) {
        uint64_t seed = w_.config.seed * 1000 + static_cast<uint64_t>(++started_);
        pid_t pid = fork();
        if (pid == 0) {
            party(i, seed);
            _exit(0);
        }
        if (pid < 0) std::perror("fork"), std::exit(2);  // and no kill(-1) later
        return pid;
    }

    // Until everybody is done: keeps the clock, kills, reaps.
    void watch(uint64_t start) {
        Random random(w_.config.seed + 77);
        Tallies& t = *w_.tally;
        const uint64_t limit = start + static_cast<uint64_t>(w_.config.most_seconds) * 1000;
        while (!over()) {
            if (now_ms() > limit) t.time_up = 1;
            if (now_ms() > limit + 3 * kPatienceMs) t.fail(t.stuck);
            if (t.stop) break;
            usleep(w_.config.kill ? 200 + random.below(6000) : 5000);
            if (w_.config.kill && !t.time_up) kill_one(random);
        }
        for (pid_t pid : children_) {
            if (t.stop) ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
        }
    }

    bool over() {
        Tallies& t = *w_.tally;
        ConnectionMemory& m = w_.memory();
        return t.receive_done && t.send_done && m.receive_head == m.receive_tail &&
               m.transmit_head == m.transmit_tail;
    }

    void kill_one(Random& random) {
        auto i = random.below(static_cast<uint32_t>(children_.size()));
        ::kill(children_[i], SIGKILL);
        int status = 0;
        ::waitpid(children_[i], &status, 0);
        if (WIFSIGNALED(status)) ++w_.tally->kills;
        children_[i] = start_child(static_cast<int>(i));
    }

    // A party that was killed at the very end may have left a lock behind.
    void recover_locks() {
        for (int round = 0; round < 2; ++round) {
            StreamLock receive(w_.view, w_.pair.a, StreamLock::Which::receive);
            StreamLock transmit(w_.view, w_.pair.a, StreamLock::Which::transmit);
            usleep(w_.config.kill ? 50'000 : 1000);
        }
    }

    void check_end_state() {
        for (int i = 0; i < 3; ++i) {
            MirrorSteps<Policy>::begin_turn(engine_->state(), true);
            MirrorSteps<Policy>::end_turn(engine_->state());
        }
        pollfd a{w_.pair.a, POLLIN | POLLOUT | POLLRDHUP, 0};
        ::poll(&a, 1, 0);
        uint32_t in_b = raw::queued(w_.pair.b), in_a = raw::queued(w_.pair.a);
        bool clean = w_.memory().tokens == 0 && a.revents == POLLOUT && in_b == 1 && in_a == 0;
        if (clean) return;
        std::printf("    end state: tokens %d, mask %#x, %u bytes in B, %u in A, stuffed %u, debt %llu\n",
                    w_.memory().tokens.load(), a.revents, in_b, in_a, w_.memory().stuffed.load(),
                    static_cast<unsigned long long>(engine_->state().debt));
        ++w_.tally->stuck;
    }

    void report(uint64_t ms) {
        Tallies& t = *w_.tally;
        auto n = [](const std::atomic<uint64_t>& value) {
            return static_cast<unsigned long long>(value.load());
        };
        std::printf(
            "%-34s %6.1f s  %9llu items %10llu bytes | waits in %llu out %llu, refused %llu, engine slept "
            "%llu, "
            "ring full %llu, kills %llu, dead owners %u | lost in %llu out %llu bell %llu, spurious in %llu "
            "out %llu, wrong %llu, "
            "foreign %llu, stuck %llu\n",
            w_.config.name, static_cast<double>(ms) / 1000,
            static_cast<unsigned long long>(engine_->published()),
            static_cast<unsigned long long>(engine_->taken()), n(t.waits_in), n(t.waits_out), n(t.refused),
            n(t.engine_sleeps), n(t.full_receive_ring), n(t.kills), w_.memory().extra_rings.load() / 2,
            n(t.lost_in), n(t.lost_out), n(t.lost_doorbell), n(t.spurious_in), n(t.spurious_out),
            n(t.wrong_byte), n(t.foreign), n(t.stuck));
        std::fflush(stdout);
    }

    static inline uint64_t next_id = 0;
    World w_;
    Engine<Policy>* engine_;
    std::vector<pid_t> children_;
    int memfd_, started_ = 0;
};

struct Options {
    uint64_t seed = now_ms() ^ static_cast<uint64_t>(::getpid()) << 20;
    bool is_long = false, threads = false, wrong = true;
    std::string only;
};

Config make(const char* name, bool edge, int consumers, int producers) {
    Config config;
    config.name = name;
    config.edge = edge;
    config.consumers = consumers;
    config.producers = producers;
    return config;
}

std::vector<Config> right_ones(const Options& options) {
    std::vector<Config> all = {
        make("level, 1 and 1", false, 1, 1),      make("edge, 1 and 1", true, 1, 1),
        make("level, 3 and 2", false, 3, 2),      make("edge, 2 and 3", true, 2, 3),
        make("select and read", false, 1, 1),     make("doorbells only, level", false, 1, 1),
        make("doorbells only, edge", true, 2, 2), make("starved", false, 1, 1),
        make("killed, level", false, 2, 2),       make("killed, edge", true, 2, 2)};
    all[4].use_select = true;
    all[5].paced = all[6].paced = all[7].paced = false;
    all[7].starved = true;
    all[8].kill = all[9].kill = true;
    for (Config& config : all) {
        config.forked = !options.threads;
        config.seed = options.seed + static_cast<uint64_t>(&config - all.data());
        config.items = options.is_long ? 20'000'000 : 400'000;
        config.bytes = options.is_long ? 2'000'000'000 : 40'000'000;
        config.most_seconds = options.is_long ? 120 : 5;
    }
    if (options.threads) all.resize(8);  // a thread cannot be killed alone
    return all;
}

bool selected(const Options& options, const char* name) {
    return options.only.empty() || std::string(name).find(options.only) != std::string::npos;
}

// A wrong variant gets several tries, level- and edge-triggered, before it may say that it was not caught.
template <class Policy>
bool is_caught(const Options& options, const char* name) {
    if (!selected(options, name)) return true;
    for (int attempt = 0; attempt < 12; ++attempt) {
        Config config = make(name, attempt % 2 == 1, 1, 1);
        config.forked = !options.threads;
        config.seed = options.seed + static_cast<uint64_t>(attempt) * 31;
        config.items = 2'000'000;
        config.bytes = 200'000'000;
        config.most_seconds = 10;
        if (Run<Policy>(config).go() > 0) return true;
    }
    std::printf("NOT CAUGHT: %s\n", name);
    return false;
}

int run_all(const Options& options) {
    int failures = 0;
    for (const Config& config : right_ones(options)) {
        if (!selected(options, config.name)) continue;
        bool jitter =
            config.seed % 2 == 0;  // half of them with time lost between the steps, half at full speed
        failures += (jitter ? Run<Jitter>(config).go() : Run<Correct>(config).go()) > 0;
    }
    if (options.wrong) {
        failures += !is_caught<ClearThenDrainAllTokens>(options, "wrong: R clear, then drain all");
        failures += !is_caught<DrainAllThenClearTokens>(options, "wrong: R drain all, then clear");
        failures += !is_caught<AddWithoutItsSend>(options, "wrong: R add without its send");
        failures += !is_caught<NoTakingBack>(options, "wrong: R no taking back");
        failures += !is_caught<OwedLeftOwing>(options, "wrong: R owed left owing");
        failures += !is_caught<CountBeforeTokens>(options, "wrong: R count before tokens");
        failures += !is_caught<ClearThenDrainAllStuffing>(options, "wrong: W clear, then drain all");
        failures += !is_caught<DrainAllThenClearStuffing>(options, "wrong: W drain all, then clear");
    }
    std::printf("%s, seed %llu\n", failures ? "FAILED" : "ok", static_cast<unsigned long long>(options.seed));
    return failures ? 1 : 0;
}

}  // namespace
}  // namespace stress

int main(int argc, char** argv) {
    stress::Options options;
    for (int i = 1; i < argc; ++i) {
        std::string word = argv[i];
        if (word == "--seed" && i + 1 < argc)
            options.seed = std::strtoull(argv[++i], nullptr, 0);
        else if (word == "--only" && i + 1 < argc)
            options.only = argv[++i];
        else if (word == "--long")
            options.is_long = true;
        else if (word == "--threads")
            options.threads = true;
        else if (word == "--no-wrong")
            options.wrong = false;
        else
            return std::fprintf(stderr,
                                "usage: %s [--seed N] [--long] [--threads] [--only TEXT] [--no-wrong]\n",
                                argv[0]),
                   2;
    }
    std::printf("seed %llu\n", static_cast<unsigned long long>(options.seed));
    std::fflush(stdout);
    return stress::run_all(options);
}
