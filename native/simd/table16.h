// Sixteen ascending numbers, and the nearest of them per lane: halfway between two the larger one, for NaN the last.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

inline float halfway(const float* numbers, int k) { return (numbers[k - 1] + numbers[k]) * 0.5f; }

#if defined(__AVX512F__)
// Four comparisons narrow the code down, each with the halfway that the bits so far lead to.
class Table16 {
  public:
    explicit Table16(const float* numbers) : numbers_(_mm512_loadu_ps(numbers)), middle_(_mm512_set1_ps(halfway(numbers, 8))) {
        float at[3][16] = {};
        for (int c = 0; c < 16; c += 2) {
            at[0][c] = halfway(numbers, c + 1);
            if (c % 4 == 0) at[1][c] = halfway(numbers, c + 2);
            if (c % 8 == 0) at[2][c] = halfway(numbers, c + 4);
        }
        for (int bit = 0; bit < 3; ++bit) halfways_[bit] = _mm512_loadu_ps(at[bit]);
    }
    Vec nearest(Vec x) const { return {_mm512_permutexvar_ps(find(x), numbers_)}; }
    Vec code(Vec x) const { return {_mm512_cvtepi32_ps(find(x))}; }

  private:
    __m512 numbers_, middle_, halfways_[3];

    static __mmask16 reaches(Vec x, __m512 halfway) { return _mm512_cmp_ps_mask(x.v, halfway, _CMP_NLT_UQ); }
    __m512i find(Vec x) const {
        __m512i code = _mm512_maskz_set1_epi32(reaches(x, middle_), 8);
        for (int bit = 2; bit >= 0; --bit) {
            const __mmask16 more = reaches(x, _mm512_permutexvar_ps(code, halfways_[bit]));
            code = _mm512_mask_or_epi32(code, more, code, _mm512_set1_epi32(1 << bit));
        }
        return code;
    }
};
#elif defined(__AVX2__)
// As above with tables of eight: the first three decisions, the first one counting least, are the index into tables.
class Table16 {
  public:
    explicit Table16(const float* numbers) : middle_(_mm256_set1_ps(halfway(numbers, 8))) {
        float half[3][8] = {}, number[2][8], code[2][8];
        for (int i = 0; i < 8; ++i) {
            const int c = (i & 1) * 8 + (i & 2) * 2 + (i >> 2) * 2;
            half[0][i] = halfway(numbers, (i & 1) * 8 + 4);
            half[1][i] = halfway(numbers, (i & 1) * 8 + (i & 2) * 2 + 2);
            half[2][i] = halfway(numbers, c + 1);
            for (int odd = 0; odd < 2; ++odd) {
                number[odd][i] = numbers[c + odd];
                code[odd][i] = static_cast<float>(c + odd);
            }
        }
        for (int bit = 0; bit < 3; ++bit) halfways_[bit] = _mm256_loadu_ps(half[bit]);
        for (int odd = 0; odd < 2; ++odd) {
            numbers_[odd] = _mm256_loadu_ps(number[odd]);
            codes_[odd] = _mm256_loadu_ps(code[odd]);
        }
    }
    Vec nearest(Vec x) const { return look_up(x, numbers_); }
    Vec code(Vec x) const { return look_up(x, codes_); }

  private:
    __m256 middle_, halfways_[3], numbers_[2], codes_[2];

    static __m256 reaches(Vec x, __m256 halfway) { return _mm256_cmp_ps(x.v, halfway, _CMP_NLT_UQ); }
    static __m256i bit(__m256 mask, int value) { return _mm256_and_si256(_mm256_castps_si256(mask), _mm256_set1_epi32(value)); }
    Vec look_up(Vec x, const __m256* table) const {
        __m256i index = bit(reaches(x, middle_), 1);
        index = _mm256_or_si256(index, bit(reaches(x, _mm256_permutevar8x32_ps(halfways_[0], index)), 2));
        index = _mm256_or_si256(index, bit(reaches(x, _mm256_permutevar8x32_ps(halfways_[1], index)), 4));
        const __m256 odd = reaches(x, _mm256_permutevar8x32_ps(halfways_[2], index));
        return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(table[0], index), _mm256_permutevar8x32_ps(table[1], index), odd)};
    }
};
#else
class Table16 {
  public:
    explicit Table16(const float* numbers) {
        for (int k = 0; k < 16; ++k) {
            numbers_[k] = numbers[k];
            halfways_[k] = k ? halfway(numbers, k) : 0.0f;
            codes_[k] = static_cast<float>(k);
        }
    }
    Vec nearest(Vec x) const { return look_up(x, numbers_); }
    Vec code(Vec x) const { return look_up(x, codes_); }

  private:
    float numbers_[16], halfways_[16], codes_[16];

    Vec look_up(Vec x, const float* table) const {
        Vec found = Vec::all(table[0]);
        for (int k = 1; k < 16; ++k) found = select(Vec::all(halfways_[k]) > x, found, Vec::all(table[k]));
        return found;
    }
};
#endif

// Sixteen bytes of two codes each as the 32 small numbers that a table of bytes has for them: the low halves first.
inline void look_up_halves(const uint8_t* q, const int8_t* table, Vec* numbers) {
#if defined(__AVX2__) || defined(__AVX512F__)
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q)), mask = _mm_set1_epi8(15);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    const __m128i found[2] = {_mm_shuffle_epi8(bytes, _mm_and_si128(both, mask)),
                              _mm_shuffle_epi8(bytes, _mm_and_si128(_mm_srli_epi16(both, 4), mask))};
    for (int half = 0; half < 2; ++half) {
#if defined(__AVX512F__)
        numbers[half] = {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(found[half]))};
#else
        numbers[2 * half] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(found[half]))};
        numbers[2 * half + 1] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(found[half], 8)))};
#endif
    }
#else
    for (int e = 0; e < 32; e += Vec::lanes) {
        float some[Vec::lanes];
        for (int i = 0; i < Vec::lanes; ++i) some[i] = static_cast<float>(table[q[(e + i) % 16] >> (e / 16 * 4) & 15]);
        numbers[e / Vec::lanes] = Vec::load(some);
    }
#endif
}

}  // namespace
}  // namespace fewbits
