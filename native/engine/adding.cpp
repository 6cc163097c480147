#include "adding.h"

#include <algorithm>

#include "team.h"

namespace fewbits {
namespace {

constexpr int64_t codes_at_once = 1 << 14;

}  // namespace

void add_codes(const WholeKernels& kernels, const uint8_t* one, const uint8_t* other, int64_t count, const Addition& how, uint8_t* codes, int threads) {
    const int64_t parts = (count + codes_at_once - 1) / codes_at_once;
    run_in_team(parts == 1 ? 1 : threads, [&](ThreadPool& pool, int) {
        for (int64_t at = pool.take(); at < parts; at = pool.take()) {
            const int64_t first = at * codes_at_once;
            kernels.add(one + first, other + first, std::min(codes_at_once, count - first), how, codes + first);
        }
    });
}

}  // namespace fewbits
