// engine/bfloats.h with the AVX-512 instruction that multiplies pairs of bfloat16 and adds both to a float.
#include <immintrin.h>

#include <algorithm>

#include "fewbits/products.h"

namespace fewbits {
namespace {

constexpr int rows = 4, token_tile = 6;  // whose sums stay in registers, beside the numbers of four rows
constexpr int64_t pair_columns = 32;

__m512bh pairs_at(const uint16_t* numbers) {
    const __m512i bits = _mm512_loadu_si512(numbers);
    return reinterpret_cast<const __m512bh&>(bits);
}

// Lanes added up in halves: 0 with 8, then 0 with 4, ...
__m128 four_lanes(__m512 sum) {
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sum), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sum), upper);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

__m128 across_four(const __m512 (&sums)[rows]) {
    const __m128 a = four_lanes(sums[0]), b = four_lanes(sums[1]), c = four_lanes(sums[2]), d = four_lanes(sums[3]);
    const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)), cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

// A panel by `tokens` tokens, of whose sums `present` are written for each.
template <int tokens>
void multiply_panel(const uint16_t* w, const Bfloats& x, int64_t token, int64_t present, float* out, int64_t stride) {
    __m512 sums[tokens][rows];
    for (auto& own : sums)
        for (__m512& sum : own) sum = _mm512_setzero_ps();
    const uint16_t* numbers = x.numbers + token * x.cols;
    for (int64_t c = 0; c < x.cols; c += pair_columns, w += rows * pair_columns) {
        __m512bh own[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) own[r] = pairs_at(w + r * pair_columns);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; ++t) {
            const __m512bh pairs = pairs_at(numbers + t * x.cols + c);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) sums[t][r] = _mm512_dpbf16_ps(sums[t][r], own[r], pairs);
        }
    }
    const auto mask = static_cast<__mmask8>((1u << present) - 1);
    for (int t = 0; t < tokens; ++t) _mm_mask_storeu_ps(out + (token + t) * stride, mask, across_four(sums[t]));
}

template <int tokens>
void multiply_tokens(const uint16_t* panels, int64_t present, const Bfloats& x, int64_t token, float* out, int64_t stride) {
    for (int64_t row = 0; row < present; row += rows, panels += rows * x.cols)
        multiply_panel<tokens>(panels, x, token, std::min<int64_t>(rows, present - row), out + row, stride);
}

void multiply(const uint8_t* panels, int64_t present, const Bfloats& x, float* out, int64_t stride) {
    const auto* w = reinterpret_cast<const uint16_t*>(panels);
    int64_t t = 0;
    for (; t + token_tile <= x.tokens; t += token_tile) multiply_tokens<token_tile>(w, present, x, t, out, stride);
    for (; t < x.tokens; ++t) multiply_tokens<1>(w, present, x, t, out, stride);
}

}  // namespace

MultiplyBfloats bfloat_rows_with_avx512() { return multiply; }

}  // namespace fewbits
