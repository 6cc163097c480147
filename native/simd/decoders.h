// Sixteen codes at a time to numbers, in registers: for scopes of whole sixteens. What is left, and machines without
// these instructions, go by way of memory (fields.h).
#pragma once
#include "elements.h"

namespace fewbits {
namespace {

#if defined(__AVX2__)
template <typename Type>
class Decoder {
  public:
    static constexpr int bytes = 2 * Type::bits, read = Type::bits == 6 ? 16 : bytes;  // the latter are looked at

    void operator()(const uint8_t* codes, Vec scale, float* w) const {
        const __m256i halves = sixteen_halves(codes);
        const Vec from_half = Vec::all(Type::from_half);
#if defined(__AVX512F__)
        (scale * (Vec{_mm512_cvtph_ps(halves)} * from_half)).store(w);
#else
        (scale * (Vec{_mm256_cvtph_ps(_mm256_castsi256_si128(halves))} * from_half)).store(w);
        (scale * (Vec{_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))} * from_half)).store(w + 8);
#endif
    }

  private:
    // As to_halves makes them.
    static __m256i sixteen_halves(const uint8_t* p) {
        if constexpr (Type::bits == 8) {
            const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
            if constexpr (Type::shift == 8) return _mm256_slli_epi16(_mm256_cvtepu8_epi16(codes), 8);
            const __m256i moved = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), Type::shift);
            const __m256i magnitude = _mm256_set1_epi16(127 << Type::shift);
            const __m256i size = _mm256_and_si256(moved, magnitude), sign = _mm256_set1_epi16(static_cast<int16_t>(0x8000));
            const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(size, magnitude), _mm256_set1_epi16(0x7c00));
            return _mm256_or_si256(_mm256_or_si256(size, nan), _mm256_and_si256(moved, sign));
        } else if constexpr (Type::bits == 4) {
            // A half's upper byte is looked up; indices of lower bytes are 0, which stands for 0.
            const __m256i upper = _mm256_broadcastsi128_si256(
                _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -128, -126, -124, -122, -120, -118, -116, -114));
            const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
            const __m256i apart = _mm256_or_si256(_mm256_slli_epi32(both, 8), _mm256_slli_epi32(both, 20));
            return _mm256_shuffle_epi8(upper, _mm256_and_si256(apart, _mm256_set1_epi32(0x0f000f00)));
        } else {
            const __m256i three = _mm256_setr_epi8(0, 1, 2, -1, -1, -1, -1, -1, 3, 4, 5, -1, -1, -1, -1, -1,  //
                                                   6, 7, 8, -1, -1, -1, -1, -1, 9, 10, 11, -1, -1, -1, -1, -1);
            const __m256i loaded = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
            __m256i x = _mm256_shuffle_epi8(loaded, three);
            x = _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi64(x, 20)), _mm256_set1_epi64x(0x00000fff00000fff));
            x = _mm256_or_si256(x, _mm256_slli_epi64(x, 10));  // bits above the sixth fall out below
            const __m256i size = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(31)), Type::shift);
            return _mm256_or_si256(size, _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(32)), 10));
        }
    }
};

#if defined(__AVX512F__)
// All numbers of four bits, under the scale, are one register to look up from.
template <>
class Decoder<E2M1> {
  public:
    static constexpr int bytes = 8, read = 8;

    void operator()(const uint8_t* codes, Vec scale, float* w) const {
        const __m512i both = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
        const __m512i apart = _mm512_or_si512(both, _mm512_slli_epi64(both, 28));  // of each index, four bits count
        _mm512_storeu_ps(w, _mm512_permutexvar_ps(apart, (scale * Vec{numbers_}).v));
    }

  private:
    __m512 numbers_ = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
};
#endif

template <>
class Decoder<Sixtyfourths> {
  public:
    static constexpr int bytes = 16, read = 16;

    void operator()(const uint8_t* codes, Vec scale, float* w) const {
        const Vec step = Vec::all(0x1p-6f);
        for (int i = 0; i < 16; i += Vec::lanes) {
#if defined(__AVX512F__)
            const __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
            (scale * (Vec{_mm512_cvtepi32_ps(whole)} * step)).store(w);
#else
            const __m256i whole = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
            (scale * (Vec{_mm256_cvtepi32_ps(whole)} * step)).store(w + i);
#endif
        }
    }
};
#else
template <typename Type>
class Decoder {
  public:
    static constexpr int bytes = 2 * Type::bits, read = 0;  // nothing is done here
    void operator()(const uint8_t*, Vec, float*) const {}
};
#endif

}  // namespace
}  // namespace fewbits
