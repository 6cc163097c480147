// Short spans sixteen at a time: their sums are folded together, where one alone would wait for every addition.
#pragma once
#include "lanes.h"

namespace fewbits {
namespace {

constexpr int64_t longest_short = 128;

// Whether spans are short and of whole sixteens.
inline bool is_short(int64_t span) { return span <= longest_short && span % batch == 0; }

// Calls body(first span, spans present) for sixteen spans at a time.
template <typename Body>
void for_sixteens(int64_t spans, Body body) {
    for (int64_t s = 0; s < spans; s += batch) body(s, static_cast<int>(spans - s < batch ? spans - s : batch));
}

// Sums along each of `present` spans, sixteen of each per span: add(span, numbers, weights, sums).
template <bool weighted, size_t count, typename Add>
void add_along(const float* x, const float* weights, int64_t span, int present, LaneSums* const (&sums)[count], Add add) {
    for (int s = 0; s < present; ++s, x += span, weights += weighted ? span : 0)
        for (int p = 0; p < batch; p += Vec::lanes) {
            Vec own[count];
            for (Vec& sum : own) sum = Vec::all(0.0f);
            for (int64_t e = p; e < span; e += batch)
                add(s, Vec::load(x + e), weighted ? Vec::load(weights + e) : Vec::all(1.0f), own);
            for (size_t i = 0; i < count; ++i) own[i].store(sums[i]->of(s) + p);
        }
}

// The largest number(x) of each of `present` spans; none is negative.
template <typename Number>
void largest_along(const float* x, int64_t span, int present, float* largest, Number number) {
    LaneSums sizes;
    for (int s = 0; s < present; ++s, x += span)
        for (int p = 0; p < batch; p += Vec::lanes) {
            Vec most = Vec::all(0.0f);
            for (int64_t e = p; e < span; e += batch) most = max(most, number(Vec::load(x + e)));
            most.store(sizes.of(s) + p);
        }
    sizes.largest(largest);
}

inline void largest_along(const float* x, int64_t span, int present, float* largest) {
    largest_along(x, span, present, largest, [](Vec v) { return abs(v); });
}

}  // namespace
}  // namespace fewbits
