// How llama.cpp weighs squared errors when columns have an importance.
#pragma once
#include <cmath>
#include <cstdint>

namespace fewbits {
namespace {

// weights = importance * sqrt(2 * the span's mean square + w^2), for spans of `columns`.
template <int columns>
void weigh_by_spread(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    for (int64_t i = 0; i < rows * cols; i += columns) {
        float squares = 0;
        for (int64_t c = i; c < i + columns; ++c) squares += w[c] * w[c];
        const float spread = squares * (2.0f / columns);
        for (int64_t c = i; c < i + columns; ++c) weights[c] = importance[c % cols] * std::sqrt(spread + w[c] * w[c]);
    }
}

}  // namespace
}  // namespace fewbits
