#include "memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace fewbits {

Memory::Memory(size_t bytes) : size_(bytes) {
    if (!bytes) return;
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(mapped);
#ifdef MADV_HUGEPAGE
    madvise(mapped, bytes, MADV_HUGEPAGE);  // where it is refused, pages are small
#endif
}

Memory::~Memory() {
    if (data_) munmap(data_, size_);
}

namespace {

void say_and_end(int) {
    constexpr char sentence[] = "fewbits: the model's file got shorter while it was in use; leave it alone while it runs, and start again.\n";
    const ssize_t written = write(STDERR_FILENO, sentence, sizeof sentence - 1);
    (void)written;
    _exit(2);
}

}  // namespace

void explain_vanished_pages() {
    struct sigaction now {};
    if (sigaction(SIGBUS, nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL) return;
    struct sigaction own {};
    own.sa_handler = say_and_end;
    sigemptyset(&own.sa_mask);
    sigaction(SIGBUS, &own, nullptr);
}

void let_go(const uint8_t* data, size_t bytes) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace fewbits
