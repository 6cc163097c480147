// The engine's float kernels on a vector type V of 1, 4, 8 or 16 lanes, which is included before this file. Sums over columns have sixteen lanes of fused
// multiply-adds, column c in lane c % 16, and lanes are added up in halves: 0 with 8, then 0 with 4, ...
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "curves.h"
#include "fewbits/half.h"
#include "fewbits/kernels.h"

namespace fewbits {
namespace {

// Sixteen numbers.
template <typename V>
struct Sixteen {
    static constexpr int count = 16 / V::lanes;
    V v[count];

    static Sixteen all(float x) {
        Sixteen s;
        for (V& part : s.v) part = V::all(x);
        return s;
    }
    static Sixteen load(const float* p) {
        Sixteen s;
        for (int i = 0; i < count; ++i) s.v[i] = V::load(p + i * V::lanes);
        return s;
    }
    // The last 1 to 15 numbers of a row, and zeros.
    static Sixteen load(const float* p, int64_t present) {
        float padded[16] = {};
        std::memcpy(padded, p, static_cast<size_t>(present) * sizeof(float));
        return load(padded);
    }
    void add_product(const Sixteen& a, const Sixteen& b) {
        for (int i = 0; i < count; ++i) v[i] = plus_product(v[i], a.v[i], b.v[i]);
    }
    float sum() const {
        float lane[16];
        for (int i = 0; i < count; ++i) v[i].store(lane + i * V::lanes);
        for (int half = 8; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
        return lane[0];
    }
};

template <typename V>
Sixteen<V> load_sixteen(Number kind, const void* row, int64_t c) {
    if (kind == Number::f32) return Sixteen<V>::load(static_cast<const float*>(row) + c);
    const uint16_t* bits = static_cast<const uint16_t*>(row) + c;
    Sixteen<V> s;
    for (int i = 0; i < s.count; ++i)
        s.v[i] = kind == Number::f16 ? load_half(bits + i * V::lanes) : load_bfloat(bits + i * V::lanes);
    return s;
}
template <typename V>
Sixteen<V> load_sixteen(Number kind, const void* row, int64_t c, int64_t present) {
    uint8_t padded[64] = {};
    const size_t width = kind == Number::f32 ? 4 : 2;
    std::memcpy(padded, static_cast<const uint8_t*>(row) + static_cast<size_t>(c) * width, static_cast<size_t>(present) * width);
    return load_sixteen<V>(kind, padded, 0);
}

template <typename V, Number kind, int rows, int tokens>
void multiply_tile(const uint8_t* w, int64_t row_bytes, int64_t cols, const float* x, int64_t x_stride, float* out,
                   int64_t out_stride) {
    Sixteen<V> sums[rows][tokens];
    for (auto& row : sums)
        for (auto& sum : row) sum = Sixteen<V>::all(0.0f);
    for (int64_t c = 0; c < cols; c += 16) {
        const int64_t present = std::min<int64_t>(16, cols - c);
        Sixteen<V> each[rows];
        for (int r = 0; r < rows; ++r)
            each[r] = present == 16 ? load_sixteen<V>(kind, w + r * row_bytes, c) : load_sixteen<V>(kind, w + r * row_bytes, c, present);
        for (int t = 0; t < tokens; ++t) {
            const float* at = x + t * x_stride + c;
            const Sixteen<V> numbers = present == 16 ? Sixteen<V>::load(at) : Sixteen<V>::load(at, present);
            for (int r = 0; r < rows; ++r) sums[r][t].add_product(each[r], numbers);
        }
    }
    for (int t = 0; t < tokens; ++t)
        for (int r = 0; r < rows; ++r) out[t * out_stride + r] = sums[r][t].sum();
}

template <typename V, Number kind, int rows>
void multiply_rows(const uint8_t* w, int64_t row_bytes, int64_t cols, const float* x, int64_t x_stride, int64_t tokens, float* out,
                   int64_t out_stride) {
    constexpr int most = V::lanes == 16 ? 6 : 3;
    int64_t t = 0;
    for (; t + most <= tokens; t += most)
        multiply_tile<V, kind, rows, most>(w, row_bytes, cols, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
    for (; t < tokens; ++t)
        multiply_tile<V, kind, rows, 1>(w, row_bytes, cols, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
}

template <typename V, Number kind>
void multiply_kind(const uint8_t* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens, float* out,
                   int64_t out_stride) {
    const int64_t row_bytes = cols * (kind == Number::f32 ? 4 : 2);
    constexpr int64_t together = 4;
    int64_t r = 0;
    if (tokens == 1)
        for (; r + together <= rows; r += together)
            multiply_tile<V, kind, together, 1>(w + r * row_bytes, row_bytes, cols, x, x_stride, out + r, out_stride);
    for (; r + 2 <= rows; r += 2)
        multiply_rows<V, kind, 2>(w + r * row_bytes, row_bytes, cols, x, x_stride, tokens, out + r, out_stride);
    for (; r < rows; ++r)
        multiply_rows<V, kind, 1>(w + r * row_bytes, row_bytes, cols, x, x_stride, tokens, out + r, out_stride);
}

template <typename V>
void multiply_floats(Number kind, const void* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens,
                     float* out, int64_t out_stride) {
    const auto run = kind == Number::f32   ? multiply_kind<V, Number::f32>
                     : kind == Number::f16 ? multiply_kind<V, Number::f16>
                                           : multiply_kind<V, Number::bf16>;
    run(static_cast<const uint8_t*>(w), rows, cols, x, x_stride, tokens, out, out_stride);
}

template <typename V>
float dot(const float* a, const float* b, int64_t count) {
    Sixteen<V> sum = Sixteen<V>::all(0.0f);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) sum.add_product(Sixteen<V>::load(a + i), Sixteen<V>::load(b + i));
    if (i < count) sum.add_product(Sixteen<V>::load(a + i, count - i), Sixteen<V>::load(b + i, count - i));
    return sum.sum();
}

// function(vector of numbers, index of the first) over `count` numbers; those past the end are zeros and are not stored.
template <typename V, typename F>
void map_numbers(const float* x, int64_t count, float* out, F function) {
    int64_t i = 0;
    for (; i + V::lanes <= count; i += V::lanes) function(V::load(x + i), i).store(out + i);
    if (i >= count) return;
    float padded[16] = {}, result[16];
    std::memcpy(padded, x + i, static_cast<size_t>(count - i) * sizeof(float));
    function(V::load(padded), i).store(result);
    std::memcpy(out + i, result, static_cast<size_t>(count - i) * sizeof(float));
}
// A vector from p + i on, of an array of `count` numbers.
template <typename V>
V load_within(const float* p, int64_t i, int64_t count) {
    if (i + V::lanes <= count) return V::load(p + i);
    float padded[16] = {};
    std::memcpy(padded, p + i, static_cast<size_t>(count - i) * sizeof(float));
    return V::load(padded);
}

template <typename V>
void rms_norm(const float* x, const float* gain, float epsilon, int64_t count, float* out) {
    const V inverse = V::all(1.0f / std::sqrt(dot<V>(x, x, count) / static_cast<float>(count) + epsilon));
    map_numbers<V>(x, count, out, [&](V v, int64_t i) {
        const V normal = v * inverse;
        return gain ? normal * load_within<V>(gain, i, count) : normal;
    });
}

template <typename V>
void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, int64_t count, float* out) {
    Sixteen<V> sum = Sixteen<V>::all(0.0f);
    const Sixteen<V> ones = Sixteen<V>::all(1.0f);
    for (int64_t i = 0; i < count; i += 16)
        sum.add_product(count - i < 16 ? Sixteen<V>::load(x + i, count - i) : Sixteen<V>::load(x + i), ones);
    const V mean = V::all(sum.sum() / static_cast<float>(count));
    map_numbers<V>(x, count, out, [&](V v, int64_t) { return v - mean; });
    const V inverse = V::all(1.0f / std::sqrt(dot<V>(out, out, count) / static_cast<float>(count) + epsilon));
    map_numbers<V>(out, count, out, [&](V v, int64_t i) {
        const V scaled = v * inverse * load_within<V>(gain, i, count);
        return bias ? scaled + load_within<V>(bias, i, count) : scaled;
    });
}

template <typename V>
void gate(Activation kind, const float* x, const float* up, int64_t count, float* out) {
    map_numbers<V>(x, count, out, [&](V v, int64_t i) {
        const V active = activated(kind, v);
        return up ? active * load_within<V>(up, i, count) : active;
    });
}

// exp(x - largest) over `count` numbers; returns their sum.
template <typename V>
float exponentials(float* x, int64_t count, float largest) {
    const V top = V::all(largest);
    map_numbers<V>(x, count, x, [&](V v, int64_t) { return exponential(v - top); });
    Sixteen<V> sum = Sixteen<V>::all(0.0f);
    const Sixteen<V> ones = Sixteen<V>::all(1.0f);
    for (int64_t i = 0; i < count; i += 16)
        sum.add_product(count - i < 16 ? Sixteen<V>::load(x + i, count - i) : Sixteen<V>::load(x + i), ones);
    return sum.sum();
}

template <typename V>
void softmax(float* x, int64_t count) {
    const float sum = exponentials<V>(x, count, *std::max_element(x, x + count));
    map_numbers<V>(x, count, x, [&](V v, int64_t) { return v / V::all(sum); });
}

}  // namespace
}  // namespace fewbits
