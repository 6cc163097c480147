// Small floats and 64ths as vectors: rounding to their numbers, and their codes by way of binary16, which holds them all.
#pragma once
#include "fewbits/small_floats.h"
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
// The power of two at or below a magnitude; 0 below the smallest normal number.
inline Vec power_below(Vec x) {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7f800000)))};
}
inline Vec with_sign(Vec magnitude, Vec sign) {
    const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    const __m512i from_first = _mm512_castps_si512(sign.v), from_second = _mm512_castps_si512(magnitude.v);
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(bit, from_first, from_second, 0xCA))};
}
#elif defined(__AVX2__)
inline Vec power_below(Vec x) { return {_mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)))}; }
inline Vec with_sign(Vec magnitude, Vec sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
#elif defined(__ARM_NEON)
inline Vec power_below(Vec x) {
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v), vdupq_n_u32(0x7f800000u)))};
}
inline Vec with_sign(Vec magnitude, Vec sign) { return {vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, magnitude.v)}; }
#endif

constexpr float two_to(int exponent) {
    float power = 1.0f;
    for (; exponent > 0; --exponent) power *= 2.0f;
    for (; exponent < 0; ++exponent) power *= 0.5f;
    return power;
}

// A small float. Times `to_half` its numbers are binary16 numbers whose magnitudes are codes shifted by `shift`.
template <const MiniFloat& type, const Levels& own_levels>
struct Float {
    static constexpr const Levels& levels = own_levels;
    static constexpr int bits = type.sign_bit() + 1, fraction_bits = type.fraction_bits, shift = 10 - fraction_bits;
    static constexpr float largest = own_levels.levels[0], lowest = two_to(1 - type.bias);
    static constexpr float to_half = two_to(type.bias - 15), from_half = two_to(15 - type.bias);
    static constexpr int largest_power = static_cast<int>(type.top >> type.fraction_bits) - type.bias;
    static constexpr uint32_t nan = !type.infinity && type.last() > type.top ? type.last() : ~0u;  // of no other code
    static constexpr const int (&shifts)[2] = mx_float_shifts;
};
using E4M3 = Float<e4m3, e4m3_levels>;
using E5M2 = Float<e5m2, e5m2_levels>;
using E3M2 = Float<e3m2, e3m2_levels>;
using E2M3 = Float<e2m3, e2m3_levels>;
using E2M1 = Float<e2m1, e2m1_levels>;

// OCP's INT8, 64ths: rounded as a float whose powers of two all have the steps of 1.
struct Sixtyfourths {
    static constexpr int bits = 8, fraction_bits = 6, largest_power = 0;
    static constexpr float largest = int8_largest, lowest = 1.0f;
    static constexpr const int (&shifts)[2] = mx_integer_shifts;
};

// The nearest number: added to 1.5 * 2^23 of its steps a magnitude is rounded by the addition, to nearest even.
template <typename Type>
struct Rounding {
    Vec largest = Vec::all(Type::largest), lowest = Vec::all(Type::lowest);
    Vec magic = Vec::all(1.5f * two_to(23 - Type::fraction_bits));

    Vec operator()(Vec x) const {
        const Vec magnitude = min(abs(x), largest), far = max(power_below(magnitude), lowest) * magic;
        return with_sign((magnitude + far) - far, x);
    }
};

// Numbers of a type, times to_half and as binary16, from codes, and back. `count` numbers of a row from its start.
template <typename Type>
void to_halves(const uint8_t* codes, int64_t count, uint16_t* halves) {
    constexpr uint32_t magnitude = (1u << (Type::bits - 1)) - 1, sign = magnitude + 1;
    if constexpr (Type::bits == 8) {
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t code = codes[i], special = (code & magnitude) == Type::nan ? 0x7c00u : 0u;
            halves[i] = static_cast<uint16_t>((code & sign) << 8 | (code & magnitude) << Type::shift | special);
        }
    } else if constexpr (Type::bits == 4) {  // two to a word of 32 bits
        for (int64_t i = 0; i < (count + 1) / 2; ++i) {
            const uint32_t b = codes[i];
            const uint32_t both = (b & 7) << 9 | (b & 8) << 12 | (b & 0x70) << 21 | (b & 0x80) << 24;
            std::memcpy(halves + 2 * i, &both, 4);
        }
    } else {  // four to a word of 64 bits
        constexpr uint64_t every = 0x0001000100010001u;
        for (int64_t i = 0; i < count; i += 4) {
            const int64_t bytes = (count - i < 4 ? count - i : 4) * 6 + 7;
            uint64_t x = 0;
            std::memcpy(&x, codes + i / 4 * 3, static_cast<size_t>(bytes / 8));
            x = (x | x << 20) & 0x00000fff00000fffu;
            x = (x | x << 10) & every * 0x3f;
            x = (x & every * magnitude) << Type::shift | (x & every * sign) << 10;
            std::memcpy(halves + i, &x, 8);
        }
    }
}

#if defined(__AVX2__)
// Codes of six bits, sixteen at a time, as long as sixteen bytes may be written; returns how many.
template <typename Type>
int64_t sixes_from_halves(const uint16_t* halves, int64_t count, uint8_t* codes) {
    const __m256i three = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const int64_t bytes = (count * 6 + 7) / 8;
    int64_t i = 0;
    for (; i + 16 <= count && i / 4 * 3 + 16 <= bytes; i += 16) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + i));
        const __m256i size = _mm256_and_si256(_mm256_srli_epi16(x, Type::shift), _mm256_set1_epi16(31));
        const __m256i code = _mm256_or_si256(size, _mm256_and_si256(_mm256_srli_epi16(x, 10), _mm256_set1_epi16(32)));
        const __m256i two = _mm256_madd_epi16(code, _mm256_set1_epi32(64 << 16 | 1));
        const __m256i four = _mm256_shuffle_epi8(_mm256_or_si256(two, _mm256_srli_epi64(two, 20)), three);
        const __m128i packed = _mm_or_si128(_mm256_castsi256_si128(four), _mm_slli_si128(_mm256_extracti128_si256(four, 1), 6));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i / 4 * 3), packed);
    }
    return i;
}
#else
template <typename Type>
int64_t sixes_from_halves(const uint16_t*, int64_t, uint8_t*) { return 0; }
#endif

template <typename Type>
void from_halves(const uint16_t* halves, int64_t count, uint8_t* codes) {
    constexpr uint32_t magnitude = (1u << (Type::bits - 1)) - 1, sign = magnitude + 1;
    if constexpr (Type::bits == 8) {
        for (int64_t i = 0; i < count; ++i)
            codes[i] = static_cast<uint8_t>((halves[i] >> 8 & sign) | (halves[i] >> Type::shift & magnitude));
    } else if constexpr (Type::bits == 4) {
        for (int64_t i = 0; i < (count + 1) / 2; ++i) {
            uint32_t both;
            std::memcpy(&both, halves + 2 * i, 4);
            codes[i] = static_cast<uint8_t>((both >> 9 & 7) | (both >> 12 & 8) | (both >> 21 & 0x70) | (both >> 24 & 0x80));
        }
    } else {
        constexpr uint64_t every = 0x0001000100010001u;
        for (int64_t i = sixes_from_halves<Type>(halves, count, codes); i < count; i += 4) {
            const int64_t bytes = (count - i < 4 ? count - i : 4) * 6 + 7;
            uint64_t x;
            std::memcpy(&x, halves + i, 8);
            x = (x >> Type::shift & every * magnitude) | (x >> 10 & every * sign);
            x = (x | x >> 10) & 0x00000fff00000fffu;
            x |= x >> 20;
            std::memcpy(codes + i / 4 * 3, &x, static_cast<size_t>(bytes / 8));
        }
    }
}
constexpr int halves_beyond = 3;  // that are written, or read as zeros, behind the last number of a row

}  // namespace
}  // namespace fewbits
