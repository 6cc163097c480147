// exp and what is made of it, on a vector type of one lane or of many: every lane gets the same bits.
#pragma once
#include "fewbits/engine.h"

namespace fewbits {
namespace {

// e^x to about one unit in the last place; 0 below -87.3, and the value of 88.3 above it. Reduction by ln 2 in two parts
// (Cody and Waite), then the Taylor polynomial of degree 7 on [-0.35, 0.35].
template <typename V>
V exponential(V x) {
    const V lowest = V::all(-87.3f), bounded = min(max(x, lowest), V::all(88.3f));
    const V n = round_even(bounded * V::all(1.44269504088896341f));
    const V r = less_product(less_product(bounded, n, V::all(0.693145751953125f)), n, V::all(1.42860677e-6f));
    V p = V::all(1.0f / 5040);
    for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = plus_product(V::all(c), p, r);
    return select(lowest > x, V::all(0.0f), p * power_of_two(n));
}

template <typename V>
V hyperbolic_tangent(V x) {
    const V e = exponential(x + x);
    return V::all(1.0f) - V::all(2.0f) / (e + V::all(1.0f));
}

// The error function to 1.2e-7 (Abramowitz and Stegun, 7.1.26 with its five terms).
template <typename V>
V error_function(V x) {
    const V size = abs(x), t = V::all(1.0f) / plus_product(V::all(1.0f), size, V::all(0.3275911f));
    V p = V::all(1.061405429f);
    for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = plus_product(V::all(c), p, t);
    const V y = V::all(1.0f) - p * t * exponential(V::all(0.0f) - size * size);
    return select(V::all(0.0f) > x, V::all(0.0f) - y, y);
}

// The gated network of gpt-oss (its reference implementation), whose constants are no configuration's.
template <typename V>
V silu_limited(V gate, V up) {
    const V one = V::all(1.0f), limit = V::all(7.0f), bounded = min(gate, limit);
    const V silu = bounded / (one + exponential(V::all(-1.702f) * bounded));
    return (max(min(up, limit), V::all(-7.0f)) + one) * silu;
}

template <typename V>
V activated(Activation kind, V x) {
    const V one = V::all(1.0f), half = V::all(0.5f) * x;
    switch (kind) {
        case Activation::silu: return x / (one + exponential(V::all(0.0f) - x));
        case Activation::gelu: return half * (one + error_function(x * V::all(0.70710678118654752f)));
        case Activation::gelu_tanh: {
            const V cubic = plus_product(x, V::all(0.044715f) * x * x, x);
            return half * (one + hyperbolic_tangent(V::all(0.79788456080286536f) * cubic));
        }
        default: return max(x, V::all(0.0f));
    }
}

}  // namespace
}  // namespace fewbits
