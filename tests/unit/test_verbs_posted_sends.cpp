#include <string>

#include "fabric/verbs/posted_sends.hpp"
#include "support/catch.hpp"

using namespace smbdirect::fabric;
using namespace smbdirect::fabric::verbs;

namespace {

struct Queue {
    PostedSends sends;

    void post(uint64_t wr_id, bool is_signaled, Opcode opcode = Opcode::send) {
        sends.push({.wr_id = wr_id, .opcode = opcode, .length = 100, .is_signaled = is_signaled});
    }
    // Number in the order of posting, from 0; what the owner hears then: wr_ids, with a '!' if it failed.
    std::string complete(uint64_t number, ibv_wc_status status = IBV_WC_SUCCESS) {
        sends.complete(ibv_wc{.wr_id = number, .status = status});
        std::string heard;
        while (const auto posted = sends.take_completed())
            heard +=
                std::to_string(posted->wr_id) + (posted->completion->status == IBV_WC_SUCCESS ? " " : "! ");
        return heard;
    }
};

}  // namespace

TEST_CASE("a completion is that of the silent ones before it as well") {
    Queue queue;
    queue.post(7, false);
    queue.post(8, false);
    queue.post(9, true);
    queue.post(10, false);
    queue.post(11, true);
    CHECK(queue.complete(2) == "7 8 9 ");
    CHECK(queue.sends.size() == 2);
    CHECK(queue.complete(4) == "10 11 ");
    CHECK(queue.sends.empty());
}

TEST_CASE("a failure is of one request, and those before it went out") {
    Queue queue;
    queue.post(1, false);
    queue.post(2, false);
    queue.post(3, false);
    queue.post(4, true);
    CHECK(queue.complete(1, IBV_WC_RETRY_EXC_ERR) == "1 2! ");
    CHECK(queue.complete(2, IBV_WC_WR_FLUSH_ERR) == "3! ");
    CHECK(queue.complete(3, IBV_WC_WR_FLUSH_ERR) == "4! ");
}

TEST_CASE("a Send behind an RDMA Read waits for it, whoever completes first") {
    Queue queue;
    queue.post(1, false);
    queue.post(2, true, Opcode::rdma_read);
    queue.post(3, false);
    queue.post(4, true);
    CHECK(queue.complete(3) == "1 ");  // siw: sent, while the data of the Read are under way
    CHECK(queue.complete(1) == "2 3 4 ");
    queue.post(5, true, Opcode::rdma_read);
    queue.post(6, true);
    CHECK(queue.complete(5).empty());
    CHECK(queue.complete(4, IBV_WC_REM_ACCESS_ERR) == "5! 6 ");
}

TEST_CASE("completions of what was flushed already are nobody's") {
    Queue queue;
    queue.post(1, true);
    queue.post(2, true);
    CHECK(queue.sends.take().wr_id == 1);
    CHECK(queue.complete(0).empty());
    CHECK(queue.complete(1) == "2 ");
    CHECK(queue.complete(1).empty());
    CHECK(queue.complete(99).empty());
    queue.post(3, true);
    CHECK(queue.complete(2) == "3 ");
}
