// Walking over spans, a batch at a time.
#pragma once
#include "batch.h"
#include "fewbits/families.h"

namespace fewbits {
namespace {

template <typename T, size_t n>
constexpr int length_of(const T (&)[n]) { return static_cast<int>(n); }

// Calls body(first span, spans present, numbers) for `per_batch` spans at a time; the last batch is filled with zeros.
template <int columns, int per_batch, typename Numbers, typename Body>
void for_batches(const Numbers* w, int64_t spans, Body body) {
    int64_t s = 0;
    for (; s + per_batch <= spans; s += per_batch) body(s, per_batch, w + s * columns);
    if (s == spans) return;
    Numbers filled[columns * per_batch] = {};
    std::memcpy(filled, w + s * columns, static_cast<size_t>(spans - s) * columns * sizeof(Numbers));
    body(s, static_cast<int>(spans - s), filled);
}

// The same with the weights of errors beside the numbers: body(first, present, numbers, weights or nullptr).
template <int columns, int per_batch, typename Body>
void for_batches(const float* w, const float* weights, int64_t spans, Body body) {
    const int64_t whole = spans / per_batch * per_batch;
    for (int64_t s = 0; s < whole; s += per_batch) body(s, per_batch, w + s * columns, weights ? weights + s * columns : nullptr);
    if (whole == spans) return;
    float filled[columns * per_batch] = {}, filled_weights[columns * per_batch] = {};
    const size_t bytes = static_cast<size_t>(spans - whole) * columns * sizeof(float);
    std::memcpy(filled, w + whole * columns, bytes);
    if (weights) std::memcpy(filled_weights, weights + whole * columns, bytes);
    body(whole, static_cast<int>(spans - whole), filled, weights ? filled_weights : nullptr);
}

}  // namespace
}  // namespace fewbits
