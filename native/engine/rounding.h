// What is known of a group of rounded numbers beside its codes.
#pragma once
#include "fewbits/engine.h"

namespace fewbits {
namespace {

// What follows from the codes and the scale of group g, counted over all tokens.
inline void note_sums(const Rounded& out, int64_t g) {
    for (int half = 0; half < 2; ++half) {
        int sum = 0;
        for (int e = 0; e < 16; ++e) sum += out.codes[32 * g + 16 * half + e];
        out.sums[2 * g + half] = sum;
        out.low_sums[2 * g + half] = static_cast<float>(sum) * out.scales[g];
    }
    out.pairs[g] = out.sums[2 * g] + out.sums[2 * g + 1];
    out.low_pairs[g] = static_cast<float>(out.pairs[g]) * out.scales[g];
}

}  // namespace
}  // namespace fewbits
