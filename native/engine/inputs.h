// Inputs of products as whole numbers (fewbits/engine.h says which), on a vector type V that is included before this file.
#pragma once
#include <algorithm>
#include <cmath>

#include "fewbits/engine.h"
#include "rounding.h"

namespace fewbits {
namespace {

// Of `count` numbers, a multiple of 32.
struct Extent {
    float smallest, largest;  // 0 at the least; NaN is passed over
    float poison;             // 0, or NaN where one of them is not finite
};

template <typename V>
Extent extent_of(const float* x, int64_t count) {
    V low = V::all(0.0f), high = low, poison = low;
    for (int64_t e = 0; e < count; e += V::lanes) {
        const V own = V::load(x + e);
        low = min(own, low);
        high = max(own, high);
        poison = poison + own * V::all(0.0f);
    }
    float lanes[3][V::lanes];
    low.store(lanes[0]);
    high.store(lanes[1]);
    poison.store(lanes[2]);
    Extent extent{0.0f, 0.0f, 0.0f};
    for (int i = 0; i < V::lanes; ++i) {
        extent.smallest = std::min(extent.smallest, lanes[0][i]);
        extent.largest = std::max(extent.largest, lanes[1][i]);
        extent.poison += lanes[2][i];
    }
    return extent;
}

inline float magnitude(const Extent& extent) { return std::max(-extent.smallest, extent.largest); }

// round_even(x * inverse) for 32 numbers; what is not finite has no code, and its scale says so.
template <typename V>
void whole_numbers(const float* x, float inverse, float* out) {
    for (int e = 0; e < 32; e += V::lanes) round_even(V::load(x + e) * V::all(inverse)).store(out + e);
}

inline void store_bytes(const float* whole, int8_t* out) {
    for (int e = 0; e < 32; ++e) out[e] = static_cast<int8_t>(static_cast<int>(whole[e]));
}

template <typename V>
void round_group16(const float* x, int64_t token, int64_t group, const Rounded& out) {
    const Extent extent = extent_of<V>(x, 32);
    const float most = 127.0f * upper_step + 127.0f, largest = magnitude(extent);
    float whole[32] = {}, upper[32], lower[32];
    if (extent.poison == 0.0f) whole_numbers<V>(x, largest > least_rounded ? most / largest : 0.0f, whole);
    for (int e = 0; e < 32; e += V::lanes) {
        const V all = V::load(whole + e), high = round_even(all * V::all(1.0f / upper_step));  // never half way: 255 is odd
        high.store(upper + e);
        less_product(all, high, V::all(upper_step)).store(lower + e);
    }
    for (int part = 0; part < 2; ++part) {
        const int64_t g = (token + part * out.tokens / 2) * (out.cols / 32) + group;
        store_bytes(part ? lower : upper, out.codes + 32 * g);
        out.scales[g] = largest / most + extent.poison;
        note_sums(out, g);
    }
}

// Scales below normal numbers are 0, as formats store them.
inline float stored_scale(float scale) { return scale < 0x1p-126f ? 0.0f : scale; }
inline float inverse_of(float scale) { return scale != 0.0f ? 1.0f / scale : 0.0f; }

// Codes round_even(x * inverse) + middle, within -127 .. 127, of `groups` groups from group `first` on, under one scale.
template <typename V>
void round_span(const float* x, float scale, float inverse, float middle, int64_t first, int64_t groups, const Rounded& out) {
    for (int64_t g = first; g < first + groups; ++g, x += 32) {
        float whole[32];
        whole_numbers<V>(x, inverse, whole);
        for (int e = 0; e < 32; ++e)
            out.codes[32 * g + e] = static_cast<int8_t>(static_cast<int>(std::min(std::max(-127.0f, whole[e] + middle), 127.0f)));
        out.scales[g] = scale;
        note_sums(out, g);
    }
}

template <typename V>
void round_even_span(const float* x, int64_t first, int64_t groups, const Rounded& out) {
    const Extent extent = extent_of<V>(x, 32 * groups);
    const float scale = stored_scale(magnitude(extent) / 127.0f);
    round_span<V>(x, scale + extent.poison, extent.poison == 0.0f ? inverse_of(scale) : 0.0f, 0.0f, first, groups, out);
}

// Code 1 is the smallest number, and 128 what is 0 to products; the zero point is counted from there.
template <typename V>
float round_moved_span(const float* x, int64_t first, int64_t groups, const Rounded& out) {
    const Extent extent = extent_of<V>(x, 32 * groups);
    const bool finite = extent.poison == 0.0f;
    const float scale = stored_scale((extent.largest - extent.smallest) / 254.0f), inverse = finite ? inverse_of(scale) : 0.0f;
    const float zero = -127.0f - (finite ? std::nearbyint(extent.smallest * inverse) : 0.0f);
    round_span<V>(x, scale + extent.poison, inverse, zero, first, groups, out);
    return zero;
}

template <typename V>
void round_inputs(Inputs how, const float* x, int64_t stride, int64_t begin, int64_t end, const Rounded& out, float* zeros) {
    const int64_t groups = out.cols / 32;
    for (int64_t t = begin; t < end; ++t) {
        const float* in = x + t * stride;
        if (how == Inputs::token8) round_even_span<V>(in, t * groups, groups, out);
        if (how == Inputs::token8_zero) zeros[t] = round_moved_span<V>(in, t * groups, groups, out);
        for (int64_t g = 0; g < groups; ++g) {
            if (how == Inputs::group8) round_even_span<V>(in + 32 * g, t * groups + g, 1, out);
            if (how == Inputs::group16) round_group16<V>(in + 32 * g, t, g, out);
        }
    }
}

}  // namespace
}  // namespace fewbits
