// One vector of floats per instruction set, with just the operations that the codecs need. Every operation is exact
// IEEE single precision, lane by lane, so that a kernel written with it gives the same bits on every machine.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace fewbits {
namespace {

#if defined(__AVX512F__)
struct Mask { __mmask16 m; };
struct Vec {
    static constexpr int lanes = 16;
    __m512 v;
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store_codes(uint8_t* p) const {  // small non-negative whole numbers
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
    }
};
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec plus_product(Vec sum, Vec a, Vec b) { return {_mm512_fmadd_ps(a.v, b.v, sum.v)}; }  // rounded once
inline Vec less_product(Vec sum, Vec a, Vec b) { return {_mm512_fnmadd_ps(a.v, b.v, sum.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec clamp_positive(Vec a, Vec low, Vec high) {  // of positive limits: bits order as numbers do
    const __m512i raised = _mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(low.v));
    return {_mm512_castsi512_ps(_mm512_min_epi32(raised, _mm512_castps_si512(high.v)))};
}
inline Vec round_even(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline Mask operator!(Mask a) { return {static_cast<__mmask16>(~a.m)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
inline Vec load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(Vec a, uint16_t* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_bfloat(const uint16_t* p) {
    const __m512i upper = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0,  //
                                           7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
    const __m512i bits = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, upper, bits))};
}
// Of twice as many bfloat16 numbers as there are lanes, those at odd places, or at even ones.
template <bool odd, typename V>
Vec load_bfloat_places(const uint16_t* p) {
    const __m512i both = _mm512_loadu_si512(p);
    if (odd) return {_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))};
}
// The upper half of each number, rounded to nearest even (NaN stays NaN), and the numbers that they are.
inline Vec store_bfloat(Vec a, uint16_t* p) {
    const __m512i bits = _mm512_castps_si512(a.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), rounded, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
    return {_mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
inline bool any(Mask m) { return m.m != 0; }
inline int bits_of(Mask m) { return m.m; }
inline void add_widened(Vec a, double* sums) {
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), _mm512_cvtps_pd(_mm512_castps512_ps256(a.v))));
    _mm512_storeu_pd(sums + 8, _mm512_add_pd(_mm512_loadu_pd(sums + 8), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))));
}
inline void widen_bytes(__m128i bytes, Vec* out) { out[0] = {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))}; }
#elif defined(__AVX2__)
struct Mask { __m256 m; };
struct Vec {
    static constexpr int lanes = 8;
    __m256 v;
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec all(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store_codes(uint8_t* p) const {
        const __m256i whole = _mm256_cvttps_epi32(v);
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
    }
};
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec plus_product(Vec sum, Vec a, Vec b) { return {_mm256_fmadd_ps(a.v, b.v, sum.v)}; }
inline Vec less_product(Vec sum, Vec a, Vec b) { return {_mm256_fnmadd_ps(a.v, b.v, sum.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec clamp_positive(Vec a, Vec low, Vec high) {
    const __m256i raised = _mm256_max_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(low.v));
    return {_mm256_castsi256_ps(_mm256_min_epi32(raised, _mm256_castps_si256(high.v)))};
}
inline Vec round_even(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
inline Mask operator!(Mask a) { return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
inline Vec load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store_half(Vec a, uint16_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_bfloat(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
template <bool odd, typename V>
Vec load_bfloat_places(const uint16_t* p) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if (odd) return {_mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16))};
}
inline Vec store_bfloat(Vec a, uint16_t* p) {
    const __m256i bits = _mm256_castps_si256(a.v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)), kept = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i upper = _mm256_srli_epi32(kept, 16);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(upper, 16))};
}
inline bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
inline int bits_of(Mask m) { return _mm256_movemask_ps(m.m); }
inline void add_widened(Vec a, double* sums) {
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(_mm256_castps256_ps128(a.v))));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))));
}
inline void widen_bytes(__m128i bytes, Vec* out) {
    out[0] = {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
    out[1] = {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
#elif defined(__ARM_NEON)
struct Mask { uint32x4_t m; };
struct Vec {
    static constexpr int lanes = 4;
    float32x4_t v;
    static Vec load(const float* p) { return {vld1q_f32(p)}; }
    static Vec all(float x) { return {vdupq_n_f32(x)}; }
    void store(float* p) const { vst1q_f32(p, v); }
    void store_codes(uint8_t* p) const {
        const uint16x4_t words = vmovn_u32(vcvtq_u32_f32(v));
        const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
        vst1_lane_u32(reinterpret_cast<uint32_t*>(p), vreinterpret_u32_u8(bytes), 0);
    }
};
inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec plus_product(Vec sum, Vec a, Vec b) { return {vfmaq_f32(sum.v, a.v, b.v)}; }
inline Vec less_product(Vec sum, Vec a, Vec b) { return {vfmsq_f32(sum.v, a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
inline Mask operator>(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
inline Mask operator&(Mask a, Mask b) { return {vandq_u32(a.m, b.m)}; }
inline Mask operator!(Mask a) { return {vmvnq_u32(a.m)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {vbslq_f32(m.m, yes.v, no.v)}; }
inline Vec min(Vec a, Vec b) { return select(b > a, a, b); }  // of a NaN the second, as on x86
inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec clamp_positive(Vec a, Vec low, Vec high) { return min(max(a, low), high); }
inline Vec round_even(Vec a) { return {vrndnq_f32(a.v)}; }
inline Vec load_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
inline void store_half(Vec a, uint16_t* p) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v))); }
inline Vec load_bfloat(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
template <bool odd, typename V>
Vec load_bfloat_places(const uint16_t* p) {
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(p));
    if (odd) return {vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)))};
    return {vreinterpretq_f32_u32(vshlq_n_u32(both, 16))};
}
inline Vec store_bfloat(Vec a, uint16_t* p) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a.v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint16x4_t upper = vshrn_n_u32(vbslq_u32(vceqq_f32(a.v, a.v), rounded, quiet), 16);
    vst1_u16(p, upper);
    return {vreinterpretq_f32_u32(vshll_n_u16(upper, 16))};
}
inline bool any(Mask m) { return vmaxvq_u32(m.m) != 0; }
inline int bits_of(Mask m) {
    const uint32_t each[] = {1, 2, 4, 8};
    return static_cast<int>(vaddvq_u32(vandq_u32(m.m, vld1q_u32(each))));
}
inline void add_widened(Vec a, double* sums) {
    vst1q_f64(sums, vaddq_f64(vld1q_f64(sums), vcvt_f64_f32(vget_low_f32(a.v))));
    vst1q_f64(sums + 2, vaddq_f64(vld1q_f64(sums + 2), vcvt_high_f64_f32(a.v)));
}
inline void widen_bytes(uint8x16_t bytes, Vec* out) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    out[0] = {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)))};
    out[1] = {vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)))};
    out[2] = {vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)))};
    out[3] = {vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))};
}
#endif

// Sixteen bytes of two codes each as 32 numbers: the low halves, then the high halves; 32 / lanes vectors.
inline void unpack_halves(const uint8_t* q, Vec* codes) {
#if defined(__AVX2__) || defined(__AVX512F__)
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q)), mask = _mm_set1_epi8(15);
    widen_bytes(_mm_and_si128(both, mask), codes);
    widen_bytes(_mm_and_si128(_mm_srli_epi16(both, 4), mask), codes + 16 / Vec::lanes);
#elif defined(__ARM_NEON)
    const uint8x16_t both = vld1q_u8(q);
    widen_bytes(vandq_u8(both, vdupq_n_u8(15)), codes);
    widen_bytes(vshrq_n_u8(both, 4), codes + 16 / Vec::lanes);
#endif
}

inline int count(Mask m) { return __builtin_popcount(static_cast<unsigned>(bits_of(m))); }
inline Vec clamp(Vec a, Vec low, Vec high) { return min(max(a, low), high); }
inline Mask operator<(Vec a, Vec b) { return b > a; }

}  // namespace
}  // namespace fewbits
