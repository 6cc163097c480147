// Products of numbers in bfloat16 on a vector type V of 1, 4, 8 or 16 lanes, which is included before this file. Sums have
// sixteen lanes; lane l takes columns 2l and 2l + 1 of each 32, first the odd one, then the even one, each with one
// rounding: what the instruction vdpbf16ps does, except that it takes numbers below 2^-126 for 0.
//
// A panel has four rows, 32 columns of each in turn, so that a product reads one stream; columns and rows that are not there
// are zero. Weights of 11 bits (F16) are rounded to bfloat16 when they are packed.
#pragma once
#include <algorithm>

#include "fewbits/engine.h"
#include "floats.h"

namespace fewbits {
namespace {

constexpr int bfloat_rows = 4;
constexpr int64_t pair_columns = 32;

inline int64_t bfloat_columns(int64_t cols) { return (cols + pair_columns - 1) / pair_columns * pair_columns; }
inline int64_t bfloat_panel_bytes(int64_t cols) { return bfloat_rows * bfloat_columns(cols) * 2; }

template <Number kind>
void pack_bfloats(const uint8_t* stored, int64_t row_bytes, int64_t present, int64_t cols, uint8_t* panel) {
    auto* out = reinterpret_cast<uint16_t*>(panel);
    if (present < bfloat_rows || cols % pair_columns) std::memset(panel, 0, static_cast<size_t>(bfloat_panel_bytes(cols)));
    for (int64_t first = 0; first < cols; first += pair_columns)
        for (int64_t r = 0; r < present; ++r) {
            const auto* in = reinterpret_cast<const uint16_t*>(stored + r * row_bytes) + first;
            uint16_t* to = out + first * bfloat_rows + r * pair_columns;
            const int64_t count = std::min(pair_columns, cols - first);
            if (kind == Number::bf16) std::memcpy(to, in, static_cast<size_t>(count) * 2);
            else
                for (int64_t c = 0; c < count; ++c) to[c] = float_to_bfloat(half_to_float(in[c]));
        }
}

template <typename V>
void round_bfloats(const float* x, int64_t count, uint16_t* out) {
    int64_t i = 0;
    for (; i + V::lanes <= count; i += V::lanes) store_bfloat(V::load(x + i), out + i);
    for (; i < count; ++i) out[i] = float_to_bfloat(x[i]);
    std::fill(out + count, out + bfloat_columns(count), uint16_t{0});
}

// What odd, or even, places of some columns add to the sums of a panel.
template <bool odd, typename V, int tokens>
void add_places(const uint16_t* w, const uint16_t* x, int64_t stride, V (&sums)[tokens][bfloat_rows]) {
    V own[bfloat_rows];
    for (int r = 0; r < bfloat_rows; ++r) own[r] = load_bfloat_places<odd, V>(w + r * pair_columns);
    for (int t = 0; t < tokens; ++t) {
        const V number = load_bfloat_places<odd, V>(x + t * stride);
        for (int r = 0; r < bfloat_rows; ++r) sums[t][r] = plus_product(sums[t][r], own[r], number);
    }
}

// A panel by some tokens: lanes of each vector's width go one after another, so that all sums stay in registers.
template <typename V, int tokens>
void multiply_bfloat_panel(const uint16_t* w, const Bfloats& x, int64_t token, float (&out)[tokens][bfloat_rows]) {
    Sixteen<V> lanes[tokens][bfloat_rows];
    const uint16_t* numbers = x.numbers + token * x.cols;
    for (int part = 0; part < Sixteen<V>::count; ++part) {
        V sums[tokens][bfloat_rows];
        for (auto& own : sums)
            for (V& sum : own) sum = V::all(0.0f);
        for (int64_t c = 0, within = 2 * V::lanes * part; c < x.cols; c += pair_columns) {
            add_places<true, V, tokens>(w + c * bfloat_rows + within, numbers + c + within, x.cols, sums);
            add_places<false, V, tokens>(w + c * bfloat_rows + within, numbers + c + within, x.cols, sums);
        }
        for (int t = 0; t < tokens; ++t)
            for (int r = 0; r < bfloat_rows; ++r) lanes[t][r].v[part] = sums[t][r];
    }
    for (int t = 0; t < tokens; ++t)
        across_four(lanes[t][0].folded(), lanes[t][1].folded(), lanes[t][2].folded(), lanes[t][3].folded(), out[t]);
}

template <typename V, int tokens>
void multiply_bfloat_tokens(const uint16_t* panels, int64_t present, const Bfloats& x, int64_t token, float* out, int64_t stride) {
    for (int64_t row = 0; row < present; row += bfloat_rows, panels += bfloat_rows * x.cols) {
        float sums[tokens][bfloat_rows];
        multiply_bfloat_panel<V, tokens>(panels, x, token, sums);
        for (int t = 0; t < tokens; ++t) std::copy_n(sums[t], std::min<int64_t>(bfloat_rows, present - row), out + (token + t) * stride + row);
    }
}

template <typename V>
void multiply_bfloats(const uint8_t* panels, int64_t present, const Bfloats& x, float* out, int64_t stride) {
    constexpr int together = V::lanes == 16 ? 4 : 2;
    const auto* w = reinterpret_cast<const uint16_t*>(panels);
    int64_t t = 0;
    for (; t + together <= x.tokens; t += together) multiply_bfloat_tokens<V, together>(w, present, x, t, out, stride);
    for (; t < x.tokens; ++t) multiply_bfloat_tokens<V, 1>(w, present, x, t, out, stride);
}

}  // namespace
}  // namespace fewbits
