// How llama.cpp weighs squared errors when columns have an importance.
#pragma once
#include <cmath>
#include <cstdint>

namespace fewbits {
namespace {

// weights = importance * sqrt(times * the span's mean square + w^2), for spans of `columns`.
template <int columns, int times = 2>
void weigh_by_spread(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    for (int64_t i = 0; i < rows * cols; i += columns) {
        float squares = 0;
        for (int64_t c = i; c < i + columns; ++c) squares += w[c] * w[c];
        const float spread = squares * (static_cast<float>(times) / columns);
        for (int64_t c = i; c < i + columns; ++c) weights[c] = importance[c % cols] * std::sqrt(spread + w[c] * w[c]);
    }
}

// The same with the mean square of the whole row, once. Lane j sums columns j, j + 16, ...; then the upper half of the
// lanes is added to the lower one until one is left.
inline void weigh_by_row_spread(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    for (int64_t row = 0; row < rows; ++row, w += cols, weights += cols) {
        float lanes[16] = {};
        for (int64_t c = 0; c < cols; ++c) lanes[c % 16] += w[c] * w[c];
        for (int half = 8; half; half /= 2)
            for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        const float spread = lanes[0] / static_cast<float>(cols);
        for (int64_t c = 0; c < cols; ++c) weights[c] = importance[c] * std::sqrt(spread + w[c] * w[c]);
    }
}

}  // namespace
}  // namespace fewbits
