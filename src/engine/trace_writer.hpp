// Trace files, one a traced process, written with spdlog from the records that the process leaves in its
// trace ring and from what the engine itself has to say of that process's connections. Costs nothing while
// nobody traces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.hpp"
#include "fabric/event_loop.hpp"

namespace smbdirect::engine {

class TraceWriter;

std::string in_words(Error);  // reason NUMBER (NAME): SENTENCE

class TraceFile;  // of one process; owned by the writer

class TraceWriter {
  public:
    TraceWriter(fabric::EventLoop*, uint64_t* dropped);
    ~TraceWriter();

    // Opens <directory>/<program>.<pid>.trace and makes the ring; the memfd is the caller's to pass and
    // close.
    Result<int> open(int pid, std::string_view program, std::string_view directory);
    // The file of the process that spoke of this connection last, or null.
    TraceFile* of_connection(uint64_t connection_id) const;
    void forget_connection(uint64_t connection_id);
    void bind_connection(uint64_t connection_id, int pid);
    bool active() const { return !files_.empty(); }
    void write(uint64_t connection_id, std::string_view line, bool error = false);
    void write_to(int pid, std::string_view line, bool error = false);  // of no connection
    void drain();                                                       // all rings, now

  private:
    void arm();

    fabric::EventLoop* loop_;
    uint64_t* dropped_;
    uint64_t timer_ = 0;
    std::unordered_map<int, std::unique_ptr<TraceFile>> files_;  // by pid
    // The process, which may begin to trace after it has connected.
    std::unordered_map<uint64_t, int> by_connection_;
};

}  // namespace smbdirect::engine
