// How llama.cpp weighs squared errors when columns have an importance.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// weights = importance * sqrt(2 * the span's mean square + w^2), for spans of `columns`; sixteen spans are summed at once.
template <int columns>
void weigh_by_spread(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    alignas(64) float x[columns * batch], spread[batch];
    float filled[columns * batch] = {};
    const int64_t spans = rows * cols / columns, per_row = cols / columns;
    for (int64_t first = 0; first < spans; first += batch) {
        const int present = static_cast<int>(spans - first < batch ? spans - first : batch);
        const float* numbers = w + first * columns;
        if (present < batch) {
            std::memcpy(filled, numbers, static_cast<size_t>(present) * columns * sizeof(float));
            numbers = filled;
        }
        to_columns(numbers, columns, x);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec squares = Vec::all(0.0f);
            for (int e = 0; e < columns; ++e) squares = squares + Vec::load(x + batch * e + g) * Vec::load(x + batch * e + g);
            (squares * Vec::all(2.0f / columns)).store(spread + g);
        }
        for (int s = 0; s < present; ++s) {
            const float *own = numbers + columns * s, *columns_importance = importance + (first + s) % per_row * columns;
            float* out = weights + (first + s) * columns;
            for (int c = 0; c < columns; c += Vec::lanes) {
                const Vec v = Vec::load(own + c);
                (Vec::load(columns_importance + c) * sqrt(Vec::all(spread[s]) + v * v)).store(out + c);
            }
        }
    }
}

}  // namespace
}  // namespace fewbits
