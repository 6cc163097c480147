#include "openmp.h"

#include <atomic>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace fewbits {
namespace {

// The entries of GCC's libgomp, which are the same for all compilers that use it.
struct Library {
    void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
    int (*thread)();
    int (*threads)();
    int (*inside)();
};

std::atomic<const Library*> library{nullptr};

struct Round {
    const Library& own;
    const std::function<void(int)>& work;
    int count;
    std::atomic<bool> fewer;
};

void body(void* data) {
    Round& round = *static_cast<Round*>(data);
    if (round.own.threads() != round.count) round.fewer = true;  // all of them see the same number
    else round.work(round.own.thread());
}

}  // namespace

bool use_openmp_of(const std::string& path) {
#if defined(__linux__)
    if (library.load()) return true;
    void* handle = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_NOW);
    if (!handle) return false;
    static Library found;
    found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(handle, "GOMP_parallel"));
    found.thread = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_thread_num"));
    found.threads = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_num_threads"));
    found.inside = reinterpret_cast<int (*)()>(dlsym(handle, "omp_in_parallel"));
    if (!found.parallel || !found.thread || !found.threads || !found.inside) return false;
    library = &found;
    return true;
#else
    (void)path;
    return false;
#endif
}

void forget_openmp() { library = nullptr; }

bool has_openmp() { return library.load() != nullptr; }

bool run_by_openmp(int count, const std::function<void(int)>& work) {
    const Library* own = library.load();
    if (!own || own->inside()) return false;
    Round round{*own, work, count, {false}};
    own->parallel(body, &round, static_cast<unsigned>(count), 0);
    return !round.fewer;
}

}  // namespace fewbits
