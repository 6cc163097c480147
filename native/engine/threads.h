// One pool of threads that go through a program together: everyone takes a share of each operation, and waits at a barrier
// for the rest before the next.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fewbits {

class ThreadPool {
  public:
    explicit ThreadPool(int count);
    // Threads of somebody else: `fork(count, work)` calls work(0), ..., work(count - 1), all at the same time, or nothing and
    // says false.
    using Fork = bool (*)(int count, const std::function<void(int)>& work);
    ThreadPool(int count, Fork fork) : count_(count), fork_(fork) {}
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int count() const { return count_; }
    // work(0) in the caller's thread, work(1), ... in the others; returns when all have returned. False where threads of
    // somebody else are not to be had, and nothing was done.
    bool run(const std::function<void(int)>& work);
    // In `run`: waits until all threads have come here.
    void barrier();
    // In `run`: the next of the units that are shared since the last barrier, counted from 0.
    int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

  private:
    void wait_for_work(int index);

    const int count_;
    const Fork fork_ = nullptr;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<uint64_t> round_{0};  // of work that was handed out
    std::atomic<int> running_{0};
    std::atomic<bool> ending_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint64_t> passed_{0};  // barriers
    alignas(64) std::atomic<int64_t> next_{0};
};

}  // namespace fewbits
