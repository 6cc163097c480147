// Short spans sixteen at a time: their sums are folded together, where one alone would wait for every addition.
#pragma once
#include "fields.h"
#include "lanes.h"

namespace fewbits {
namespace {

constexpr int64_t longest_short = 64;

// Whether the spans of a slab are short, of whole sixteens and one after another.
inline bool spans_are_short(const Slab& slab) {
    return slab.scope_rows == 1 && slab.span() <= longest_short && slab.span() % lanes == 0;
}

// Calls body(first span, spans present) for sixteen spans at a time.
template <typename Body>
void for_sixteens(int64_t spans, Body body) {
    for (int64_t s = 0; s < spans; s += batch) body(s, static_cast<int>(spans - s < batch ? spans - s : batch));
}

// Sums along each of `present` spans, sixteen of each per span: add(span, numbers, weights, sums).
template <bool weighted, size_t count, typename Add>
void add_along(const float* x, const float* weights, int64_t span, int present, LaneSums* const (&sums)[count], Add add) {
    for (int s = 0; s < present; ++s, x += span, weights += weighted ? span : 0)
        for (int p = 0; p < lanes; p += Vec::lanes) {
            Vec own[count];
            for (Vec& sum : own) sum = Vec::all(0.0f);
            for (int64_t e = p; e < span; e += lanes)
                add(s, Vec::load(x + e), weighted ? Vec::load(weights + e) : Vec::all(1.0f), own);
            for (size_t i = 0; i < count; ++i) own[i].store(sums[i]->of(s) + p);
        }
}

// The largest magnitude of each of `present` spans.
inline void largest_along(const float* x, int64_t span, int present, float* largest) {
    LaneSums sizes;
    for (int s = 0; s < present; ++s, x += span)
        for (int p = 0; p < lanes; p += Vec::lanes) {
            Vec most = Vec::all(0.0f);
            for (int64_t e = p; e < span; e += lanes) most = max(most, abs(Vec::load(x + e)));
            most.store(sizes.of(s) + p);
        }
    sizes.largest(largest);
}

}  // namespace
}  // namespace fewbits
