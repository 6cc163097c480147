// Products of a weight and rows of numbers, in units that threads share.
#pragma once
#include <algorithm>

#include "machine.h"

namespace fewbits {

constexpr int64_t rows_of_unit = 64;  // whole pairs of panels

inline int64_t units_of(const Weight& w) { return (w.rows + rows_of_unit - 1) / rows_of_unit; }

// The numbers that a weight is multiplied with: rounded, or as they are.
struct Input {
    Rounded rounded;
    const float* x;
    int64_t x_stride, tokens;
};

// Panels of weights that have none yet, by all threads; ends with a barrier where there was something to do.
void make_panels(Machine& machine, const std::vector<Weight*>& weights, int thread);

// Rows `first` .. of one expert, at most a unit of them: out[token * stride + row - first].
void multiply_unit(Session& session, const Weight& w, int64_t expert, int64_t unit, const Input& input, int thread, float* out,
                   int64_t stride);

// Rows `begin` .. `end` - 1 of numbers, rounded into theirs of `out`.
inline void round_rows(const Session& session, const float* x, int64_t stride, int64_t begin, int64_t end, const Rounded& out) {
    if (begin < end) session.machine.kernels.round(x + begin * stride, stride, out.token(begin, end - begin));
}

}  // namespace fewbits
