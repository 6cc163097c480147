// The engine's float kernels on a vector type V of 1, 4, 8 or 16 lanes, which is included before this file. Sums over
// columns have sixteen lanes of fused multiply-adds, column c in lane c % 16, and lanes are added up in halves: 0 with 8,
// then 0 with 4, ...
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

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
    float sum() const { return across(folded()); }
    // Lanes i, i + lanes, ... of a vector added up, in halves.
    V folded() const {
        V part[count];
        for (int i = 0; i < count; ++i) part[i] = v[i];
        for (int half = count / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) part[i] = part[i] + part[i + half];
        return part[0];
    }
};

// ---- products of plain numbers
//
// Columns are taken in stretches of `product_columns`: the sixteen lanes of one are added up, and stretches in their order.

constexpr int64_t product_columns = 512;

template <typename V, Number kind>
V load_number(const uint8_t* row, int64_t c) {
    if constexpr (kind == Number::f32) return V::load(reinterpret_cast<const float*>(row) + c);
    const uint16_t* bits = reinterpret_cast<const uint16_t*>(row) + c;
    if constexpr (kind == Number::f16) return load_half(bits);
    return load_bfloat(bits);
}

constexpr int64_t bytes_of(Number kind) { return kind == Number::f32 ? 4 : 2; }

// Rows by one token, from where they lie; whole sixteens of columns.
template <typename V, Number kind, int rows>
void multiply_one(const uint8_t* w, int64_t row_bytes, int64_t cols, const float* x, float* out) {
    for (int64_t first = 0; first < cols; first += product_columns) {
        Sixteen<V> sums[rows];
        for (auto& sum : sums) sum = Sixteen<V>::all(0.0f);
        for (int64_t c = first; c < std::min(first + product_columns, cols); c += 16)
            for (int r = 0; r < rows; ++r) {
                // The rows that come next: one of this many streams is too short for the processor to foresee it.
                __builtin_prefetch(w + (r + rows) * row_bytes + c * bytes_of(kind));
                for (int i = 0; i < Sixteen<V>::count; ++i)
                    sums[r].v[i] = plus_product(sums[r].v[i], load_number<V, kind>(w + r * row_bytes, c + i * V::lanes),
                                                V::load(x + c + i * V::lanes));
            }
        for (int r = 0; r < rows; ++r) out[r] = first ? out[r] + sums[r].sum() : sums[r].sum();
    }
}

template <typename V, Number kind>
void multiply_rows(const uint8_t* w, int64_t rows, int64_t cols, const float* x, float* out) {
    const int64_t row_bytes = cols * bytes_of(kind);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) multiply_one<V, kind, 4>(w + r * row_bytes, row_bytes, cols, x, out + r);
    for (; r < rows; ++r) multiply_one<V, kind, 1>(w + r * row_bytes, row_bytes, cols, x, out + r);
}

constexpr int rows_at_once = 3, block_rows = 12;

// Some rows, widened, by some tokens: lanes of each vector's width one after another, so that all sums stay in registers.
template <typename V, int rows, int tokens>
void multiply_block(const float* w, int64_t cols, const float* x, int64_t x_stride, float* out, int64_t out_stride, bool first) {
    constexpr int parts = 16 / V::lanes;
    Sixteen<V> lanes[rows][tokens];
    for (int part = 0; part < parts; ++part) {
        V sums[rows][tokens];
        for (auto& row : sums)
            for (V& sum : row) sum = V::all(0.0f);
        for (int64_t c = part * V::lanes; c < cols; c += 16) {
            V own[rows];
            for (int r = 0; r < rows; ++r) own[r] = V::load(w + r * product_columns + c);
            for (int t = 0; t < tokens; ++t) {
                const V number = V::load(x + t * x_stride + c);
                for (int r = 0; r < rows; ++r) sums[r][t] = plus_product(sums[r][t], own[r], number);
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int t = 0; t < tokens; ++t) lanes[r][t].v[part] = sums[r][t];
    }
    for (int r = 0; r < rows; ++r) {
        float sums[tokens];
        for (int t = 0; t + 4 <= tokens; t += 4)
            across_four(lanes[r][t].folded(), lanes[r][t + 1].folded(), lanes[r][t + 2].folded(), lanes[r][t + 3].folded(), sums + t);
        for (int t = tokens / 4 * 4; t < tokens; ++t) sums[t] = lanes[r][t].sum();
        for (int t = 0; t < tokens; ++t) {
            float& to = out[t * out_stride + r];
            to = first ? sums[t] : to + sums[t];
        }
    }
}

template <typename V, int tokens>
void multiply_block_rows(const float* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, float* out,
                         int64_t out_stride, bool first) {
    int64_t r = 0;
    for (; r + rows_at_once <= rows; r += rows_at_once)
        multiply_block<V, rows_at_once, tokens>(w + r * product_columns, cols, x, x_stride, out + r, out_stride, first);
    for (; r < rows; ++r) multiply_block<V, 1, tokens>(w + r * product_columns, cols, x, x_stride, out + r, out_stride, first);
}

template <typename V, Number kind>
void widen_block(const uint8_t* w, int64_t row_bytes, int64_t rows, int64_t first, int64_t cols, float* out) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; c += V::lanes) load_number<V, kind>(w + r * row_bytes, first + c).store(out + r * product_columns + c);
}

template <typename V, Number kind>
void multiply_many(const uint8_t* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens, float* out,
                   int64_t out_stride) {
    constexpr int together = V::lanes == 16 ? 8 : 4;
    const int64_t row_bytes = cols * bytes_of(kind);
    alignas(64) float block[block_rows * product_columns];
    for (int64_t r = 0; r < rows; r += block_rows) {
        const int64_t present = std::min<int64_t>(block_rows, rows - r);
        for (int64_t first = 0; first < cols; first += product_columns) {
            const int64_t count = std::min(product_columns, cols - first);
            widen_block<V, kind>(w + r * row_bytes, row_bytes, present, first, count, block);
            const float* at = x + first;
            int64_t t = 0;
            for (; t + together <= tokens; t += together)
                multiply_block_rows<V, together>(block, present, count, at + t * x_stride, x_stride, out + t * out_stride + r, out_stride, first == 0);
            for (; t < tokens; ++t)
                multiply_block_rows<V, 1>(block, present, count, at + t * x_stride, x_stride, out + t * out_stride + r, out_stride, first == 0);
        }
    }
}

template <typename V, Number kind>
void multiply_kind(const uint8_t* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens, float* out,
                   int64_t out_stride) {
    if (tokens == 1) multiply_rows<V, kind>(w, rows, cols, x, out);
    else multiply_many<V, kind>(w, rows, cols, x, x_stride, tokens, out, out_stride);
}

// Rows of `cols` elements with zeros behind them, so that there are `padded`.
inline std::vector<uint8_t> padded_rows(const void* rows, int64_t count, int64_t stride, int64_t cols, int64_t padded, int64_t width) {
    std::vector<uint8_t> out(static_cast<size_t>(count * padded * width));
    for (int64_t r = 0; r < count; ++r)
        std::memcpy(out.data() + r * padded * width, static_cast<const uint8_t*>(rows) + r * stride * width, static_cast<size_t>(cols * width));
    return out;
}

template <typename V>
void multiply_floats(Number kind, const void* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens,
                     float* out, int64_t out_stride) {
    if (const int64_t padded = (cols + 15) / 16 * 16; padded != cols) {
        const auto own_w = padded_rows(w, rows, cols, cols, padded, bytes_of(kind)), own_x = padded_rows(x, tokens, x_stride, cols, padded, 4);
        return multiply_floats<V>(kind, own_w.data(), rows, padded, reinterpret_cast<const float*>(own_x.data()), padded, tokens, out, out_stride);
    }
    const auto run = kind == Number::f32   ? multiply_kind<V, Number::f32>
                     : kind == Number::f16 ? multiply_kind<V, Number::f16>
                                           : multiply_kind<V, Number::bf16>;
    run(static_cast<const uint8_t*>(w), rows, cols, x, x_stride, tokens, out, out_stride);
}

// ---- rows of numbers

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
    if (kind == Activation::silu_limited) {
        map_numbers<V>(x, count, out, [&](V v, int64_t i) { return silu_limited(v, load_within<V>(up, i, count)); });
        return;
    }
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
