// Two 16-bit whole numbers of one group per 32-bit lane: whole-number arithmetic is exact in any order, so sums of
// products may run over pairs at once where floats must go one after another.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
struct Sums { __m512i v; };
struct Words { __m512i v; };
inline Sums no_sums() { return {_mm512_setzero_si512()}; }
inline Words all_words(int16_t x) { return {_mm512_set1_epi16(x)}; }
inline Words round_words(Vec low, Vec high) {
    const __m512i l = _mm512_cvtps_epi32(low.v), h = _mm512_cvtps_epi32(high.v);
    return {_mm512_mask_blend_epi16(0xAAAAAAAAu, l, _mm512_slli_epi32(h, 16))};
}
// The same in an order of its own.
inline Words round_unordered(Vec a, Vec b) { return {_mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v))}; }
// (a * b + 2^14) >> 15, the product in 32 bits.
inline Words scaled(Words a, Words b) { return {_mm512_mulhrs_epi16(a.v, b.v)}; }
inline Words operator+(Words a, Words b) { return {_mm512_add_epi16(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Words capped_sum(Words a, Words b) { return {_mm512_adds_epi16(a.v, b.v)}; }  // at most 32767
inline Words load_words(const float* p) { return {_mm512_loadu_si512(p)}; }
inline Words min(Words a, Words b) { return {_mm512_min_epi16(a.v, b.v)}; }
inline Words max(Words a, Words b) { return {_mm512_max_epi16(a.v, b.v)}; }
inline Words max_unsigned(Words a, Words b) { return {_mm512_max_epu16(a.v, b.v)}; }
inline Sums add_products(Sums sum, Words a, Words b) { return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)}; }
inline Vec to_floats(Sums sum) { return {_mm512_cvtepi32_ps(sum.v)}; }
// a and b of a - 2^15 b, where 0 <= a < 2^15.
inline void to_floats(Sums sum, Vec* a, Vec* b) {
    const __m512i second = _mm512_srai_epi32(_mm512_sub_epi32(_mm512_set1_epi32(32767), sum.v), 15);
    *a = {_mm512_cvtepi32_ps(_mm512_add_epi32(sum.v, _mm512_slli_epi32(second, 15)))};
    *b = {_mm512_cvtepi32_ps(second)};
}
inline void store_words(Words a, float* p) { _mm512_storeu_si512(p, a.v); }
// The two bfloat16 numbers of each lane: the lower and the upper half.
inline Vec lower_half(Vec a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 16))}; }
inline Vec upper_half(Vec a) {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#elif defined(__AVX2__)
struct Sums { __m256i v; };
struct Words { __m256i v; };
inline Sums no_sums() { return {_mm256_setzero_si256()}; }
inline Words all_words(int16_t x) { return {_mm256_set1_epi16(x)}; }
inline Words round_words(Vec low, Vec high) {
    const __m256i l = _mm256_cvtps_epi32(low.v), h = _mm256_cvtps_epi32(high.v);
    return {_mm256_blend_epi16(l, _mm256_slli_epi32(h, 16), 0xAA)};
}
inline Words round_unordered(Vec a, Vec b) { return {_mm256_packs_epi32(_mm256_cvtps_epi32(a.v), _mm256_cvtps_epi32(b.v))}; }
inline Words scaled(Words a, Words b) { return {_mm256_mulhrs_epi16(a.v, b.v)}; }
inline Words operator+(Words a, Words b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {_mm256_or_si256(a.v, b.v)}; }
inline Words capped_sum(Words a, Words b) { return {_mm256_adds_epi16(a.v, b.v)}; }
inline Words load_words(const float* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
inline Words min(Words a, Words b) { return {_mm256_min_epi16(a.v, b.v)}; }
inline Words max(Words a, Words b) { return {_mm256_max_epi16(a.v, b.v)}; }
inline Words max_unsigned(Words a, Words b) { return {_mm256_max_epu16(a.v, b.v)}; }
inline Sums add_products(Sums sum, Words a, Words b) {
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
inline Vec to_floats(Sums sum) { return {_mm256_cvtepi32_ps(sum.v)}; }
inline void to_floats(Sums sum, Vec* a, Vec* b) {
    const __m256i second = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_set1_epi32(32767), sum.v), 15);
    *a = {_mm256_cvtepi32_ps(_mm256_add_epi32(sum.v, _mm256_slli_epi32(second, 15)))};
    *b = {_mm256_cvtepi32_ps(second)};
}
inline void store_words(Words a, float* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline Vec lower_half(Vec a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 16))}; }
inline Vec upper_half(Vec a) {
    return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#elif defined(__ARM_NEON)
struct Sums { int32x4_t v; };
struct Words { int16x8_t v; };
inline Sums no_sums() { return {vdupq_n_s32(0)}; }
inline Words all_words(int16_t x) { return {vdupq_n_s16(x)}; }
inline Words round_words(Vec low, Vec high) {
    const uint32x4_t l = vreinterpretq_u32_s32(vcvtnq_s32_f32(low.v));
    const uint32x4_t h = vreinterpretq_u32_s32(vcvtnq_s32_f32(high.v));
    return {vreinterpretq_s16_u32(vsliq_n_u32(l, h, 16))};
}
inline Words round_unordered(Vec a, Vec b) {
    return {vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v)), vmovn_s32(vcvtnq_s32_f32(b.v)))};
}
inline Words scaled(Words a, Words b) { return {vqrdmulhq_s16(a.v, b.v)}; }
inline Words operator+(Words a, Words b) { return {vaddq_s16(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {vorrq_s16(a.v, b.v)}; }
inline Words capped_sum(Words a, Words b) { return {vqaddq_s16(a.v, b.v)}; }
inline Words load_words(const float* p) { return {vreinterpretq_s16_f32(vld1q_f32(p))}; }
inline Words min(Words a, Words b) { return {vminq_s16(a.v, b.v)}; }
inline Words max(Words a, Words b) { return {vmaxq_s16(a.v, b.v)}; }
inline Words max_unsigned(Words a, Words b) {
    return {vreinterpretq_s16_u16(vmaxq_u16(vreinterpretq_u16_s16(a.v), vreinterpretq_u16_s16(b.v)))};
}
inline Sums add_products(Sums sum, Words a, Words b) {
    const int32x4_t first = vmull_s16(vget_low_s16(a.v), vget_low_s16(b.v)), second = vmull_high_s16(a.v, b.v);
    return {vaddq_s32(sum.v, vpaddq_s32(first, second))};
}
inline Vec to_floats(Sums sum) { return {vcvtq_f32_s32(sum.v)}; }
inline void to_floats(Sums sum, Vec* a, Vec* b) {
    const int32x4_t second = vshrq_n_s32(vsubq_s32(vdupq_n_s32(32767), sum.v), 15);
    *a = {vcvtq_f32_s32(vaddq_s32(sum.v, vshlq_n_s32(second, 15)))};
    *b = {vcvtq_f32_s32(second)};
}
inline void store_words(Words a, float* p) { vst1q_f32(p, vreinterpretq_f32_s16(a.v)); }
inline Vec lower_half(Vec a) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a.v), 16))}; }
inline Vec upper_half(Vec a) {
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.v), vdupq_n_u32(0xffff0000u)))};
}
#endif

}  // namespace
}  // namespace fewbits
