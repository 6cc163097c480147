#include "team.h"

#include <pthread.h>

#include <mutex>
#include <new>

#include "openmp.h"

namespace fewbits {
namespace {

// The threads of all layers of this process: torch's, where it shares them, or else a team of their own. Whoever finds them
// busy works alone; a forked process starts its own, since only the thread that forks goes on there. They are never ended:
// at exit the process ends them.
class Team {
  public:
    static Team& of_process() {
        static Team* team = new Team;
        return *team;
    }
    void run(int threads, const std::function<void(ThreadPool&, int)>& work) {
        std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (threads > 1 && lock.owns_lock()) {
            ThreadPool shared(threads, run_by_openmp);
            if (has_openmp() && shared.run([&](int thread) { work(shared, thread); })) return;
            ThreadPool& pool = pool_of(threads);
            pool.run([&](int thread) { work(pool, thread); });
        } else {
            ThreadPool alone(1);
            alone.run([&](int thread) { work(alone, thread); });
        }
    }

  private:
    Team() { pthread_atfork(nullptr, nullptr, [] { of_process().forget(); }); }
    ThreadPool& pool_of(int threads) {
        if (!pool_ || pool_->count() != threads) {
            delete pool_;
            pool_ = nullptr;
            pool_ = new ThreadPool(threads);
        }
        return *pool_;
    }
    void forget() {
        forget_openmp();
        pool_ = nullptr;
        new (&mutex_) std::mutex;  // whoever held it is not in this process
    }
    std::mutex mutex_;
    ThreadPool* pool_ = nullptr;
};

}  // namespace

void run_in_team(int threads, const std::function<void(ThreadPool&, int)>& work) { Team::of_process().run(threads, work); }

}  // namespace fewbits
