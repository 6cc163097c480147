// Codes of four bits, sixteen to a register, and numbers looked up in a table of sixteen.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__AVX2__) || defined(__AVX512F__)
using Codes16 = __m128i;
inline Codes16 load_codes(const uint8_t* q) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(q)); }
inline Codes16 low_halves(Codes16 both) { return _mm_and_si128(both, _mm_set1_epi8(15)); }
inline Codes16 high_halves(Codes16 both) { return _mm_and_si128(_mm_srli_epi16(both, 4), _mm_set1_epi8(15)); }
inline Codes16 low_then_high(const uint8_t* q) {  // the halves of eight bytes
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q));
    return _mm_and_si128(_mm_unpacklo_epi64(eight, _mm_srli_epi16(eight, 4)), _mm_set1_epi8(15));
}
// table[codes] as numbers, 16 / lanes vectors.
inline void look_up(Codes16 codes, const int8_t* table, Vec* out) {
    const __m128i found = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)), codes);
#if defined(__AVX512F__)
    out[0] = {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(found))};
#else
    out[0] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(found))};
    out[1] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(found, 8)))};
#endif
}
// The lowest bits of `sums` with the sign of x on top: codes of a sign and three bits, a byte each.
inline void store_with_sign(Vec sums, Vec x, uint8_t* codes) {
#if defined(__AVX512F__)
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(x.v), 28), _mm512_set1_epi32(8));
    const __m512i both = _mm512_or_si512(_mm512_castps_si512(sums.v), sign);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(both));
#else
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x.v), 28), _mm256_set1_epi32(8));
    const __m256i low = _mm256_and_si256(_mm256_castps_si256(sums.v), _mm256_set1_epi32(7)), both = _mm256_or_si256(low, sign);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(words, words));
#endif
}
#elif defined(__ARM_NEON)
inline void store_with_sign(Vec sums, Vec x, uint8_t* codes) {
    const uint32x4_t sign = vandq_u32(vshrq_n_u32(vreinterpretq_u32_f32(x.v), 28), vdupq_n_u32(8));
    const uint16x4_t words = vmovn_u32(vorrq_u32(vreinterpretq_u32_f32(sums.v), sign));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    vst1_lane_u32(reinterpret_cast<uint32_t*>(codes), vreinterpret_u32_u8(bytes), 0);
}
using Codes16 = uint8x16_t;
inline Codes16 load_codes(const uint8_t* q) { return vld1q_u8(q); }
inline Codes16 low_halves(Codes16 both) { return vandq_u8(both, vdupq_n_u8(15)); }
inline Codes16 high_halves(Codes16 both) { return vshrq_n_u8(both, 4); }
inline Codes16 low_then_high(const uint8_t* q) {
    const uint8x8_t eight = vld1_u8(q);
    return vcombine_u8(vand_u8(eight, vdup_n_u8(15)), vshr_n_u8(eight, 4));
}
inline void look_up(Codes16 codes, const int8_t* table, Vec* out) {
    const int8x16_t found = vqtbl1q_s8(vld1q_s8(table), codes);
    const int16x8_t low = vmovl_s8(vget_low_s8(found)), high = vmovl_s8(vget_high_s8(found));
    out[0] = {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)))};
    out[1] = {vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)))};
    out[2] = {vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)))};
    out[3] = {vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
}
#endif

}  // namespace
}  // namespace fewbits
