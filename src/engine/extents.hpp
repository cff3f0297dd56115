// Who uses which part of the extent area: extents are runs of granules, one message each.
#pragma once

#include <cstdint>
#include <vector>

namespace smbdirect::engine {

class Extents {
  public:
    static constexpr uint32_t kGranule = 64 * 1024;
    static constexpr uint32_t kNone = UINT32_MAX;

    void initialise(uint32_t size) { runs_.assign(size / kGranule, 0); }

    // The extent's number, below count(); kNone while there is no room. `kept` granules stay free at least.
    uint32_t take(uint32_t bytes, uint32_t kept = 0) {
        const uint32_t wanted = (bytes + kGranule - 1) / kGranule;
        if (used_ + wanted + kept > count()) return kNone;
        for (uint32_t first = 0, run = 0, i = 0; i < count();) {
            if (runs_[i] != 0) {
                i += runs_[i];
                first = i;
                run = 0;
                continue;
            }
            ++i;
            if (++run < wanted) continue;
            runs_[first] = static_cast<uint16_t>(wanted);
            used_ += wanted;
            return first;
        }
        return kNone;
    }
    void give_back(uint32_t extent) {
        used_ -= runs_[extent];
        runs_[extent] = 0;
    }

    uint32_t count() const { return static_cast<uint32_t>(runs_.size()); }
    uint32_t largest() const { return count() * kGranule; }
    bool empty() const { return used_ == 0; }
    static uint32_t offset_of(uint32_t extent) { return extent * kGranule; }

  private:
    std::vector<uint16_t> runs_;  // granules of the extent that begins here; 0: none begins
    uint32_t used_ = 0;
};

}  // namespace smbdirect::engine
