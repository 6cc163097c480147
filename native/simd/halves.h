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
#elif defined(__ARM_NEON)
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
