#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fewbits {
namespace {

void pause_a_little() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits for `done`: at first without giving up the processor, for what is waited for takes microseconds.
template <typename Done>
void spin_until(Done done) {
    constexpr int spins = 4000;
    for (int i = 0; !done(); ++i) i < spins ? pause_a_little() : std::this_thread::yield();
}

}  // namespace

ThreadPool::ThreadPool(int count) : count_(count) {
    for (int i = 1; i < count; ++i) threads_.emplace_back([this, i] { wait_for_work(i); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

bool ThreadPool::run(const std::function<void(int)>& work) {
    next_ = 0;
    if (fork_) return fork_(count_, work);
    running_ = count_ - 1;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        work_ = &work;
        round_.fetch_add(1, std::memory_order_release);
    }
    if (count_ > 1) wake_.notify_all();
    work(0);
    spin_until([this] { return running_.load(std::memory_order_acquire) == 0; });
    return true;
}

void ThreadPool::wait_for_work(int index) {
    constexpr int spins = 20000;  // between two tokens, a thread does not go to sleep
    uint64_t seen = 0;
    while (true) {
        for (int i = 0; i < spins && round_.load(std::memory_order_acquire) == seen && !ending_; ++i) pause_a_little();
        if (round_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return ending_ || round_.load(std::memory_order_acquire) != seen; });
        }
        if (ending_) return;
        seen = round_.load(std::memory_order_acquire);
        (*work_)(index);
        running_.fetch_sub(1, std::memory_order_release);
    }
}

void ThreadPool::barrier() {
    const uint64_t passed = passed_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        next_.store(0, std::memory_order_relaxed);
        passed_.fetch_add(1, std::memory_order_release);
        return;
    }
    spin_until([&] { return passed_.load(std::memory_order_acquire) != passed; });
}

}  // namespace fewbits
