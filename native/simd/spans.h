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

}  // namespace
}  // namespace fewbits
