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

#if defined(__AVX512F__)
// The numbers of codes of `bits` bits, thirty-two at a time: the lower halves of numbers are looked up in registers, then
// the upper ones. Reading them one by one from memory takes more than twice as long.
template <int bits>
class Numbers256 {
  public:
    static constexpr int together = 32;

    explicit Numbers256(const float* table) {
        for (int i = 0; i < parts; ++i) {
            const __m512i first = _mm512_loadu_si512(table + 32 * i), second = _mm512_loadu_si512(table + 32 * i + 16);
            lower_[i] = joined(first, second);
            upper_[i] = joined(_mm512_srli_epi32(first, 16), _mm512_srli_epi32(second, 16));
        }
    }
    void decode(const uint8_t* codes, Vec scale, float* w) const {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // so that halves meet in the order of the codes
        const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
        const __m512i index = _mm512_cvtepu8_epi16(_mm256_permutevar8x32_epi32(some, order));
        const __m512i low = find<bits>(lower_, index), high = find<bits>(upper_, index);
        (scale * Vec{_mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high))}).store(w);
        (scale * Vec{_mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high))}).store(w + 16);
    }

  private:
    static constexpr int parts = 1 << (bits - 5);
    __m512i lower_[parts], upper_[parts];

    static __m512i joined(__m512i first, __m512i second) {
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(first)), _mm512_cvtepi32_epi16(second), 1);
    }
    template <int left>
    static __m512i find(const __m512i* halves, __m512i index) {
        if constexpr (left == 5) return _mm512_permutexvar_epi16(index, halves[0]);
        else if constexpr (left == 6) return _mm512_permutex2var_epi16(halves[0], index, halves[1]);
        else {
            const __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(1 << (left - 1)));
            return _mm512_mask_blend_epi16(upper, find<left - 1>(halves, index), find<left - 1>(halves + (1 << (left - 6)), index));
        }
    }
};
#else
template <int bits>
class Numbers256 {
  public:
    static constexpr int together = Vec::lanes;

    explicit Numbers256(const float* table) : table_(table) {}
    void decode(const uint8_t* codes, Vec scale, float* w) const {
#if defined(__AVX2__)
        const __m128i some = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
        (scale * look_up(table_, Places{_mm256_cvtepu8_epi32(some)})).store(w);
#else
        float found[Vec::lanes];
        for (int j = 0; j < Vec::lanes; ++j) found[j] = table_[codes[j]];
        (scale * Vec::load(found)).store(w);
#endif
    }

  private:
    const float* table_;
};
#endif

// w = scale * table[code], for codes of more than four bits.
template <int bits>
void decode_256(const Grouped& f, const uint8_t* codes, const float* scales, int64_t groups, float* w) {
    const Numbers256<bits> numbers(f.table);
    constexpr int together = Numbers256<bits>::together;
    for (int64_t g = 0; g < groups; ++g, codes += f.group, w += f.group) {
        int64_t i = 0;
        for (; i + together <= f.group; i += together) numbers.decode(codes + i, Vec::all(scales[g]), w + i);
        for (; i < f.group; ++i) w[i] = scales[g] * f.table[codes[i]];
    }
}

using Decode256 = void (*)(const Grouped&, const uint8_t*, const float*, int64_t, float*);
constexpr Decode256 decoding_256[4] = {decode_256<5>, decode_256<6>, decode_256<7>, decode_256<8>};

}  // namespace
}  // namespace fewbits
