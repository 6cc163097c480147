// Products of a weight and rows of numbers, in units that threads share.
#pragma once
#include <algorithm>

#include "machine.h"

namespace fewbits {

constexpr int64_t rows_of_unit = 64;  // whole pairs of panels

inline int64_t units_of(const Weight& w) { return (w.rows + rows_of_unit - 1) / rows_of_unit; }

// The numbers that a weight is multiplied with: as they are, and rounded as weights want them.
struct Input {
    const float* x;
    int64_t x_stride, tokens;
    Rounded rounded;  // for packed weights
    Bfloats bfloats;  // for those in bfloat16

    Input part(int64_t begin, int64_t count) const {
        Input own{x + begin * x_stride, x_stride, count, {}, {count, bfloats.cols, nullptr}};
        if (rounded.codes) own.rounded = rounded.token(begin, count);
        if (bfloats.numbers) own.bfloats.numbers = bfloats.numbers + begin * bfloats.cols;
        return own;
    }
};

// Rows of numbers (tokens, cols), rounded by all threads as `weights` want it: each for itself where there is one row, which
// takes less time than to wait; else it ends with a barrier.
Input input_for(Session& session, const std::vector<Weight*>& weights, const float* x, int64_t x_stride, int64_t tokens, int thread);

// Panels of weights that have none yet, by all threads; ends with a barrier where there was something to do.
void make_panels(Machine& machine, const std::vector<Weight*>& weights, int thread);

// Rows `first` .. of one expert, at most a unit of them: out[token * stride + row - first].
void multiply_unit(Session& session, const Weight& w, int64_t expert, int64_t unit, const Input& input, int thread, float* out,
                   int64_t stride);

}  // namespace fewbits
