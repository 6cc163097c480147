// How llama.cpp weighs squared errors when columns have an importance.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// weights = importance * sqrt(times * the span's mean square + w^2), for spans of `columns`; sixteen spans are summed at
// once.
template <int columns, int times = 2>
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
            (squares * Vec::all(static_cast<float>(times) / columns)).store(spread + g);
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

// The same with the mean square of the whole row, once: sixteen lanes, then the upper half of them added to the lower one
// until one is left. A row is a multiple of 32 columns.
inline void weigh_by_row_spread(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    constexpr int parts = 16 / Vec::lanes;
    for (int64_t row = 0; row < rows; ++row, w += cols, weights += cols) {
        Vec sums[parts];
        for (Vec& sum : sums) sum = Vec::all(0.0f);
        for (int64_t c = 0; c < cols; c += 16)
            for (int p = 0; p < parts; ++p) {
                const Vec v = Vec::load(w + c + Vec::lanes * p);
                sums[p] = sums[p] + v * v;
            }
        float lanes[16];
        for (int p = 0; p < parts; ++p) sums[p].store(lanes + Vec::lanes * p);
        for (int half = 8; half; half /= 2)
            for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        const Vec spread = Vec::all(lanes[0] / static_cast<float>(cols));
        for (int64_t c = 0; c < cols; c += Vec::lanes) {
            const Vec v = Vec::load(w + c);
            (Vec::load(importance + c) * sqrt(spread + v * v)).store(weights + c);
        }
    }
}

}  // namespace
}  // namespace fewbits
