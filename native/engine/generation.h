// A text, token by token, without Python in between: the machine says what may follow, the sampler chooses.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "machine.h"
#include "sampler.h"

namespace fewbits {

class Generation {
  public:
    // Reads the tokens of `history` from `position` on, and then chooses up to `count`; ends at one of `stops`, which is
    // not among them. Logits are what `buffer` holds.
    Generation(Session& session, Sampler& sampler, std::vector<int32_t> history, int64_t sequence, int64_t position,
               int64_t count, std::vector<int32_t> stops, int64_t buffer);

    // All of it; returns when it has ended. What is thrown ends it too.
    void run();
    // Waits until there are tokens that were not taken yet, it has ended, or some seconds have passed.
    void wait(double seconds);
    std::vector<int32_t> take();
    void cancel() { cancelled_ = true; }
    bool ended() const { return ended_; }
    int64_t position() const { return position_; }  // tokens of the sequence in the cache
    int32_t refused() const { return refused_; }    // what the sampler says where it chooses none; 0 where it did

  private:
    bool step();
    void publish(int32_t token);

    Session& session_;
    Sampler& sampler_;
    std::vector<int32_t> history_;
    const int64_t sequence_, count_, buffer_;
    const std::unordered_set<int32_t> stops_;
    std::atomic<int64_t> position_;
    std::atomic<bool> cancelled_{false}, ended_{false};
    std::atomic<int32_t> refused_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<int32_t> chosen_;
    size_t taken_ = 0;
};

}  // namespace fewbits
