#include "engine/trace_writer.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <ctime>

#include "session/trace_ring.hpp"

namespace smbdirect::engine {

namespace {

constexpr fabric::Nanoseconds kDrainInterval = 50'000'000;  // only while somebody traces

spdlog::log_clock::time_point at(uint64_t realtime_ns) {
    return spdlog::log_clock::time_point(
        std::chrono::duration_cast<spdlog::log_clock::duration>(std::chrono::nanoseconds(realtime_ns)));
}

uint64_t realtime_ns() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

std::string file_name(std::string_view directory, std::string_view program, int pid) {
    std::string name(program.substr(0, 31));
    for (auto& c : name)
        if (c == '/' || c == '\0') c = '_';
    return fmt::format("{}/{}.{}.trace", directory, name.empty() ? "program" : name, pid);
}

}  // namespace

class TraceFile final : public fabric::Watcher {
  public:
    TraceFile(TraceWriter* writer, fabric::EventLoop* loop, int pid)
        : writer_(writer), loop_(loop), pid_(pid) {}
    ~TraceFile() {
        if (pid_fd_ >= 0) {
            loop_->unwatch(pid_fd_, this);
            ::close(pid_fd_);
        }
        if (logger_) logger_->flush();
        session::unmap_trace_ring(ring_);
    }

    Result<int> open(const std::string& path, std::string_view program) {
        try {
            auto sink = std::make_shared<spdlog::sinks::basic_file_sink_st>(path, false);
            logger_ = std::make_shared<spdlog::logger>("trace", sink);
        } catch (const spdlog::spdlog_ex&) {
            return fail(Reason::engine_refused, EACCES);
        }
        logger_->set_pattern("%Y-%m-%d %H:%M:%S.%f %v");
        int memfd = session::create_trace_ring(pid_, std::string(program).c_str(), &ring_);
        if (memfd < 0) return fail(Reason::engine_resources);
        pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
        if (pid_fd_ >= 0) loop_->watch(pid_fd_, EPOLLIN, this);
        return memfd;
    }

    void on_ready(uint32_t) override {  // the process has ended
        drain();
        ended_ = true;
        loop_->unwatch(pid_fd_, this);
        ::close(pid_fd_);
        pid_fd_ = -1;
    }

    void drain() {
        session::TraceRecord record;
        bool wrote = false;
        while (ring_ && session::trace_read(ring_, &record)) {
            if (record.connection_id) writer_->bind_connection(record.connection_id, pid_);
            const std::string_view text(record.text, std::min<size_t>(record.length, sizeof record.text));
            if (record.level == 2) {
                write(record.time_ns, fmt::format("  stack: {}", text));
            } else {
                write(record.time_ns,
                      fmt::format("{}fd={} {}{}", record.level == 1 ? "ERROR " : "", record.fd,
                                  record.connection_id ? fmt::format("conn={} ", record.connection_id) : "",
                                  text));
            }
            wrote = true;
        }
        if (uint64_t dropped = ring_ ? ring_->dropped.exchange(0) : 0) {
            dropped_ += dropped;
            write(realtime_ns(), fmt::format("{} records were dropped: the ring was full", dropped));
            wrote = true;
        }
        if (wrote || dirty_) logger_->flush();
        dirty_ = false;
    }

    void engine_line(std::string_view line, bool error) {
        drain();  // what the program said before comes first
        write(realtime_ns(), fmt::format("{}engine {}", error ? "ERROR " : "", line));
        dirty_ = true;
    }

    bool ended() const { return ended_; }
    int pid() const { return pid_; }
    uint64_t take_dropped() { return std::exchange(dropped_, 0); }

  private:
    void write(uint64_t time_ns, const std::string& line) {
        logger_->log(at(time_ns), spdlog::source_loc{}, spdlog::level::info, line);
    }

    TraceWriter* const writer_;
    fabric::EventLoop* const loop_;
    const int pid_;
    std::shared_ptr<spdlog::logger> logger_;
    session::TraceRing* ring_ = nullptr;
    int pid_fd_ = -1;
    uint64_t dropped_ = 0;
    bool ended_ = false, dirty_ = false;
};

std::string in_words(Error error) {
    return fmt::format("reason {} ({}): {}", static_cast<unsigned>(error.reason), reason_name(error.reason),
                       reason_sentence(error.reason));
}

TraceWriter::TraceWriter(fabric::EventLoop* loop, uint64_t* dropped) : loop_(loop), dropped_(dropped) {}

TraceWriter::~TraceWriter() {
    if (timer_) loop_->cancel_timer(timer_);
    drain();
}

Result<int> TraceWriter::open(int pid, std::string_view program, std::string_view directory) {
    if (directory.empty() || directory[0] != '/') return fail(Reason::engine_refused, EINVAL);
    auto file = std::make_unique<TraceFile>(this, loop_, pid);
    auto memfd = file->open(file_name(directory, program, pid), program);
    if (!memfd) return memfd;
    if (auto old = files_.find(pid); old != files_.end()) {
        old->second->drain();
    }
    files_[pid] = std::move(file);
    arm();
    return memfd;
}

TraceFile* TraceWriter::of_connection(uint64_t connection_id) const {
    auto bound = by_connection_.find(connection_id);
    if (bound == by_connection_.end()) return nullptr;
    auto file = files_.find(bound->second);
    return file == files_.end() ? nullptr : file->second.get();
}

void TraceWriter::forget_connection(uint64_t connection_id) { by_connection_.erase(connection_id); }

void TraceWriter::bind_connection(uint64_t connection_id, int pid) { by_connection_[connection_id] = pid; }

void TraceWriter::write(uint64_t connection_id, std::string_view line, bool error) {
    if (TraceFile* file = of_connection(connection_id))
        file->engine_line(fmt::format("conn={} {}", connection_id, line), error);
}

void TraceWriter::write_to(int pid, std::string_view line, bool error) {
    if (const auto file = files_.find(pid); file != files_.end()) file->second->engine_line(line, error);
}

void TraceWriter::drain() {
    for (auto it = files_.begin(); it != files_.end();) {
        it->second->drain();
        *dropped_ += it->second->take_dropped();
        if (!it->second->ended()) {
            ++it;
            continue;
        }
        std::erase_if(by_connection_, [pid = it->first](const auto& entry) { return entry.second == pid; });
        it = files_.erase(it);
    }
}

void TraceWriter::arm() {
    if (timer_ || files_.empty()) return;
    timer_ = loop_->add_timer(loop_->now() + kDrainInterval, [this] {
        timer_ = 0;
        drain();
        arm();
    });
}

}  // namespace smbdirect::engine
