// The threads that layers and decoders of this process share.
#pragma once
#include <functional>

#include "threads.h"

namespace fewbits {

// work(pool, thread) in up to `threads` threads: torch's, where it shares them, or else a team of our own. Whoever finds them
// busy works alone, with the same results.
void run_in_team(int threads, const std::function<void(ThreadPool&, int)>& work);

}  // namespace fewbits
