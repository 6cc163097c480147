// Tables of more than sixteen numbers: the nearest one per lane by halving, in memory.
#pragma once
#include "fewbits/grouped.h"
#include "table16.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
struct Places { __m512i v; };
inline Places no_places() { return {_mm512_setzero_si512()}; }
inline Vec look_up(const float* table, Places at) { return {_mm512_i32gather_ps(at.v, table, 4)}; }
// The places moved on by `step` where x reaches the number there; NaN reaches all.
inline Places moved(Places at, int step, Vec x, const float* table) {
    const __m512i next = _mm512_add_epi32(at.v, _mm512_set1_epi32(step));
    const __mmask16 reached = _mm512_cmp_ps_mask(x.v, _mm512_i32gather_ps(next, table, 4), _CMP_NLT_UQ);
    return {_mm512_mask_mov_epi32(at.v, reached, next)};
}
#elif defined(__AVX2__)
struct Places { __m256i v; };
inline Places no_places() { return {_mm256_setzero_si256()}; }
inline Vec look_up(const float* table, Places at) { return {_mm256_i32gather_ps(table, at.v, 4)}; }
inline Places moved(Places at, int step, Vec x, const float* table) {
    const __m256i next = _mm256_add_epi32(at.v, _mm256_set1_epi32(step));
    const __m256 reached = _mm256_cmp_ps(x.v, _mm256_i32gather_ps(table, next, 4), _CMP_NLT_UQ);
    return {_mm256_blendv_epi8(at.v, next, _mm256_castps_si256(reached))};
}
#else
struct Places { int at[Vec::lanes]; };
inline Places no_places() { return {}; }
inline Vec look_up(const float* table, Places places) {
    float found[Vec::lanes];
    for (int j = 0; j < Vec::lanes; ++j) found[j] = table[places.at[j]];
    return Vec::load(found);
}
inline Places moved(Places places, int step, Vec x, const float* table) {
    float numbers[Vec::lanes];
    x.store(numbers);
    for (int j = 0; j < Vec::lanes; ++j)
        if (!(numbers[j] < table[places.at[j] + step])) places.at[j] += step;
    return places;
}
#endif

// As Table16, for up to 256 numbers.
class Table256 {
  public:
    explicit Table256(const Grouped& f) : numbers_(f.sorted) {
        for (int k = 0; k < most_numbers; ++k) {
            halfways_[k] = k ? halfway(f.sorted, k) : 0.0f;
            codes_[k] = static_cast<float>(k);
        }
        while (2 * first_ < f.distinct) first_ *= 2;
    }
    Vec nearest(Vec x) const { return look_up(numbers_, find(x)); }
    Vec code(Vec x) const { return look_up(codes_, find(x)); }

  private:
    const float* numbers_;
    float halfways_[most_numbers], codes_[most_numbers];
    int first_ = 1;  // half of the places, rounded up to a power of two

    Places find(Vec x) const {
        Places at = no_places();
        for (int step = first_; step; step /= 2) at = moved(at, step, x, halfways_);
        return at;
    }
};

// The numbers of as many codes as a vector has lanes. A few numbers are looked up in registers, many in memory: of 256
// the registers would hold an eighth at a time.
template <int bits>
Vec numbers_at(const float* table, const uint8_t* codes) {
#if defined(__AVX512F__)
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    if constexpr (bits > 6) return look_up(table, Places{index});
    const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
    if constexpr (bits == 5) return {low};
    const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32), index, _mm512_loadu_ps(table + 48));
    return {_mm512_mask_blend_ps(_mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), low, high)};
#elif defined(__AVX2__)
    return look_up(table, Places{_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)))});
#else
    float found[Vec::lanes];
    for (int j = 0; j < Vec::lanes; ++j) found[j] = table[codes[j]];
    return Vec::load(found);
#endif
}

// w[i] = scale * table[codes[i]], for codes of more than four bits.
template <int bits>
void decode_256(const uint8_t* codes, int64_t count, float scale, const float* table, float* w) {
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) (Vec::all(scale) * numbers_at<bits>(table, codes + i)).store(w + i);
    for (; i < count; ++i) w[i] = scale * table[codes[i]];
}

using Decode256 = void (*)(const uint8_t*, int64_t, float, const float*, float*);
constexpr Decode256 decoding_256[4] = {decode_256<5>, decode_256<6>, decode_256<7>, decode_256<8>};

}  // namespace
}  // namespace fewbits
