// A whole number of 32 bits per lane: counts, and codes on their way into bits and out of them.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
struct Integers { __m512i v; };
inline Integers all_integers(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Integers round_integers(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }  // to nearest even
inline Vec to_floats(Integers a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Integers operator+(Integers a, Integers b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Integers operator&(Integers a, Integers b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int bits>
Integers raised(Integers a) { return {_mm512_slli_epi32(a.v, bits)}; }
template <int bits>
Integers lowered(Integers a) { return {_mm512_srli_epi32(a.v, bits)}; }
inline Integers add_where(Integers a, Mask m, Integers b) { return {_mm512_mask_add_epi32(a.v, m.m, a.v, b.v)}; }
inline void store(Integers a, uint32_t* p) { _mm512_storeu_si512(p, a.v); }
inline Integers load_bytes_apart(const uint8_t* p) {  // a byte per lane
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Integers load_pairs_apart(const uint8_t* p) {  // two bits per lane, and other bits above them
    int32_t bits;
    std::memcpy(&bits, p, 4);
    return {_mm512_srlv_epi32(_mm512_set1_epi32(bits), _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30))};
}
// Four vectors of numbers from -128 to 127, rounded to nearest even, and `more`: a byte each, in their order.
inline void store_rounded(const Vec* four, int more, uint8_t* p) {
    const __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(four[0].v), _mm512_cvtps_epi32(four[1].v));
    const __m512i second = _mm512_packs_epi32(_mm512_cvtps_epi32(four[2].v), _mm512_cvtps_epi32(four[3].v));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(first, second));
    _mm512_storeu_si512(p, _mm512_add_epi8(bytes, _mm512_set1_epi8(static_cast<char>(more))));
}
#elif defined(__AVX2__)
struct Integers { __m256i v; };
inline Integers all_integers(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Integers round_integers(Vec a) { return {_mm256_cvtps_epi32(a.v)}; }
inline Vec to_floats(Integers a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline Integers operator+(Integers a, Integers b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Integers operator&(Integers a, Integers b) { return {_mm256_and_si256(a.v, b.v)}; }
template <int bits>
Integers raised(Integers a) { return {_mm256_slli_epi32(a.v, bits)}; }
template <int bits>
Integers lowered(Integers a) { return {_mm256_srli_epi32(a.v, bits)}; }
inline Integers add_where(Integers a, Mask m, Integers b) {
    return {_mm256_add_epi32(a.v, _mm256_and_si256(_mm256_castps_si256(m.m), b.v))};
}
inline void store(Integers a, uint32_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline Integers load_bytes_apart(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
inline Integers load_pairs_apart(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return {_mm256_srlv_epi32(_mm256_set1_epi32(bits), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14))};
}
inline void store_rounded(const Vec* four, int more, uint8_t* p) {
    const __m256i first = _mm256_packs_epi32(_mm256_cvtps_epi32(four[0].v), _mm256_cvtps_epi32(four[1].v));
    const __m256i second = _mm256_packs_epi32(_mm256_cvtps_epi32(four[2].v), _mm256_cvtps_epi32(four[3].v));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_add_epi8(bytes, _mm256_set1_epi8(static_cast<char>(more))));
}
#elif defined(__ARM_NEON)
struct Integers { int32x4_t v; };
inline Integers all_integers(int32_t x) { return {vdupq_n_s32(x)}; }
inline Integers round_integers(Vec a) { return {vcvtnq_s32_f32(a.v)}; }
inline Vec to_floats(Integers a) { return {vcvtq_f32_s32(a.v)}; }
inline Integers operator+(Integers a, Integers b) { return {vaddq_s32(a.v, b.v)}; }
inline Integers operator&(Integers a, Integers b) { return {vandq_s32(a.v, b.v)}; }
template <int bits>
Integers raised(Integers a) { return {vshlq_s32(a.v, vdupq_n_s32(bits))}; }
template <int bits>
Integers lowered(Integers a) {
    return {vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.v), vdupq_n_s32(-bits)))};
}
inline Integers add_where(Integers a, Mask m, Integers b) { return {vaddq_s32(a.v, vandq_s32(vreinterpretq_s32_u32(m.m), b.v))}; }
inline void store(Integers a, uint32_t* p) { vst1q_u32(p, vreinterpretq_u32_s32(a.v)); }
inline Integers load_bytes_apart(const uint8_t* p) {
    uint32_t four;
    std::memcpy(&four, p, 4);
    const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)))};
}
inline Integers load_pairs_apart(const uint8_t* p) {
    const int32_t down[4] = {0, -2, -4, -6};
    return {vreinterpretq_s32_u32(vshlq_u32(vdupq_n_u32(*p), vld1q_s32(down)))};
}
inline void store_rounded(const Vec* four, int more, uint8_t* p) {
    int16x4_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = vqmovn_s32(vcvtnq_s32_f32(four[i].v));
    const int8x8_t first = vqmovn_s16(vcombine_s16(words[0], words[1])), second = vqmovn_s16(vcombine_s16(words[2], words[3]));
    vst1q_u8(p, vreinterpretq_u8_s8(vaddq_s8(vcombine_s8(first, second), vdupq_n_s8(static_cast<int8_t>(more)))));
}
#endif

// Numbers of two bits: -d, 0, d and 2 d, looked up by the lowest two bits of each lane.
class FourNumbers {
  public:
    explicit FourNumbers(float d) : d_(Vec::all(d)) {
        const float steps[16] = {-1, 0, 1, 2, -1, 0, 1, 2, -1, 0, 1, 2, -1, 0, 1, 2};
        numbers_ = d_ * Vec::load(steps);
    }
    Vec operator()(Integers codes) const {
#if defined(__AVX512F__)
        return {_mm512_permutexvar_ps(codes.v, numbers_.v)};
#elif defined(__AVX2__)
        return {_mm256_permutevar8x32_ps(numbers_.v, codes.v)};
#else
        return d_ * (to_floats(codes & all_integers(3)) - Vec::all(1.0f));
#endif
    }

  private:
    Vec d_, numbers_;
};

}  // namespace
}  // namespace fewbits
