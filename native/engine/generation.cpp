#include "generation.h"

#include <chrono>

namespace fewbits {

Generation::Generation(Session& session, Sampler& sampler, std::vector<int32_t> history, int64_t sequence, int64_t position,
                       int64_t count, std::vector<int32_t> stops, int64_t buffer)
    : session_(session), sampler_(sampler), history_(std::move(history)), sequence_(sequence), count_(count), buffer_(buffer),
      stops_(stops.begin(), stops.end()), position_(position) {}

void Generation::run() {
    struct Ending {  // whatever happens, nobody waits any longer
        Generation& self;
        ~Ending() {
            const std::lock_guard<std::mutex> lock(self.mutex_);
            self.ended_ = true;
            self.changed_.notify_all();
        }
    } ending{*this};
    while (!cancelled_ && static_cast<int64_t>(chosen_.size()) < count_ && step()) {}
}

// Reads what was not read yet and chooses one token; false where the text ends.
bool Generation::step() {
    const auto end = static_cast<int64_t>(history_.size());
    Batch batch;
    for (int64_t at = position_; at < end; ++at) {
        batch.tokens.push_back(history_[static_cast<size_t>(at)]);
        batch.sequences.push_back(static_cast<int32_t>(sequence_));
        batch.positions.push_back(static_cast<int32_t>(at));
    }
    batch.outputs.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
    session_.run(batch);
    position_ = end;
    const float* logits = session_.row({buffer_, 0}, 0);
    const int32_t token = sampler_.sample(logits, session_.width(buffer_), history_.data(), end, nullptr);
    if (token < 0) refused_ = token;
    if (token < 0 || stops_.count(token)) return false;
    history_.push_back(token);
    publish(token);
    return true;
}

void Generation::publish(int32_t token) {
    const std::lock_guard<std::mutex> lock(mutex_);
    chosen_.push_back(token);
    changed_.notify_all();
}

void Generation::wait(double seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return ended_ || taken_ < chosen_.size(); });
}

std::vector<int32_t> Generation::take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::vector<int32_t> fresh(chosen_.begin() + static_cast<std::ptrdiff_t>(taken_), chosen_.end());
    taken_ = chosen_.size();
    return fresh;
}

}  // namespace fewbits
