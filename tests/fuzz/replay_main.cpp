// A main() for LLVMFuzzerTestOneInput where there is no libFuzzer (GCC): runs the files of the corpus folders
// given, then inputs made from them by a seed. Everything can be repeated: a failure names its seed and
// round. SMBDIRECT_FUZZ_SEED, SMBDIRECT_FUZZ_ROUNDS: other inputs, more of them; SMBDIRECT_FUZZ_ONLY=n: that
// round alone.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "support/bytes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Input = std::vector<uint8_t>;
using smbdirect::test::Random;

char where[256] = "before the first input\n";  // what is under way, for the death callback

void report() {
    if (write(STDERR_FILENO, where, std::strlen(where)) < 0) return;
}
void on_abort(int) {
    report();
    std::_Exit(1);
}

void run(const Input& input) {
    // Exactly as long, on the heap, so that AddressSanitizer sees a byte too many.
    const Input copy(input);
    LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

Input random_bytes(Random& random, size_t size) {
    Input bytes(size);
    for (auto& b : bytes) b = static_cast<uint8_t>(random.next());
    return bytes;
}

void mutate(Random& random, Input& input, const std::vector<Input>& corpus) {
    const auto at = [&] { return static_cast<long>(random.below(input.size() + 1)); };
    switch (random.below(7)) {
        case 0:
            if (!input.empty()) input[random.below(input.size())] = static_cast<uint8_t>(random.next());
            break;
        case 1:
            if (!input.empty())
                input[random.below(input.size())] ^= static_cast<uint8_t>(1U << random.below(8));
            break;
        case 2:  // a number that lies at an edge
            for (size_t i = 0, start = static_cast<size_t>(at()); i < 4 && start + i < input.size(); ++i)
                input[start + i] = random.pick<uint8_t>({0, 1, 0x7f, 0x80, 0xff});
            break;
        case 3: {
            const Input more = random_bytes(random, random.between(1, 24));
            input.insert(input.begin() + at(), more.begin(), more.end());
            break;
        }
        case 4: {
            const long a = at(), b = at();
            input.erase(input.begin() + std::min(a, b), input.begin() + std::max(a, b));
            break;
        }
        case 5:
            if (!corpus.empty()) {
                const Input& other = corpus[random.below(corpus.size())];
                input.insert(input.end(), other.begin(), other.end());
            }
            break;
        default: {
            const long a = at(), b = at();
            const Input part(input.begin() + std::min(a, b), input.begin() + std::max(a, b));
            input.insert(input.begin() + at(), part.begin(), part.end());
        }
    }
    if (input.size() > 8192) input.resize(8192);
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
    std::signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(report);

    std::vector<std::filesystem::path> files;
    for (int i = 1; i < argc; ++i) {
        if (!std::filesystem::is_directory(argv[i])) {
            files.emplace_back(argv[i]);
            continue;
        }
        for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    std::vector<Input> corpus;
    for (const auto& file : files) {
        std::ifstream stream(file, std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
        std::snprintf(where, sizeof where, "input: %.200s\n", file.c_str());
        run(corpus.back());
    }

    const uint64_t seed = number("SMBDIRECT_FUZZ_SEED", 1), rounds = number("SMBDIRECT_FUZZ_ROUNDS", 300000);
    const uint64_t only = number("SMBDIRECT_FUZZ_ONLY", rounds);
    for (uint64_t round = only < rounds ? only : 0; round < (only < rounds ? only + 1 : rounds); ++round) {
        Random random(seed * 0x9E3779B97F4A7C15 + round);
        std::snprintf(where, sizeof where, "input: SMBDIRECT_FUZZ_SEED=%llu SMBDIRECT_FUZZ_ONLY=%llu\n",
                      static_cast<unsigned long long>(seed), static_cast<unsigned long long>(round));
        Input input = corpus.empty() || random.chance(10) ? random_bytes(random, random.below(200))
                                                          : corpus[random.below(corpus.size())];
        for (uint64_t n = random.below(12); n > 0; --n) mutate(random, input, corpus);
        run(input);
    }
    std::printf("%zu files and %llu made inputs\n", corpus.size(), static_cast<unsigned long long>(rounds));
}
