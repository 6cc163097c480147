// Sixteen groups side by side: element e of group g lies at [16 * e + g], so a vector holds the same element of several
// groups and every sum runs within a lane, in the order of the elements. No reduction crosses lanes, on any machine.
#pragma once
#include "fewbits/half.h"
#include "fewbits/layouts.h"
#include "fewbits/search.h"
#include "vec.h"

namespace fewbits {
namespace {

constexpr int batch = 16;

#if defined(__AVX512F__)
// columns[16 * e + g] = rows[stride * g + e] for e and g below 16: pairs, fours, then quarters of vectors change places.
inline void transpose_16(const float* rows, int stride, float* columns) {
    __m512 a[16], b[16];
    for (int g = 0; g < 16; ++g) a[g] = _mm512_loadu_ps(rows + stride * g);
    for (int g = 0; g < 16; g += 2) {
        b[g] = _mm512_unpacklo_ps(a[g], a[g + 1]);
        b[g + 1] = _mm512_unpackhi_ps(a[g], a[g + 1]);
    }
    for (int g = 0; g < 16; g += 4)
        for (int i = 0; i < 2; ++i) {  // a[g + c]: column c of each quarter, of groups g .. g + 3
            const __m512d x = _mm512_castps_pd(b[g + i]), y = _mm512_castps_pd(b[g + 2 + i]);
            a[g + 2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            a[g + 2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    for (int c = 0; c < 4; ++c) {
        const __m512 even_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88), odd_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_store_ps(columns + 16 * c, _mm512_shuffle_f32x4(even_low, even_high, 0x88));
        _mm512_store_ps(columns + 16 * (4 + c), _mm512_shuffle_f32x4(odd_low, odd_high, 0x88));
        _mm512_store_ps(columns + 16 * (8 + c), _mm512_shuffle_f32x4(even_low, even_high, 0xdd));
        _mm512_store_ps(columns + 16 * (12 + c), _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd));
    }
}
#elif defined(__AVX2__)
// columns[16 * e + g] = rows[stride * g + e] for e and g below 8: groups g and g + 4 share a vector from the start.
inline void transpose_8(const float* rows, int stride, float* columns) {
    for (int e = 0; e < 8; e += 4) {
        __m256 a[4];
        for (int g = 0; g < 4; ++g) {
            const float* p = rows + stride * g + e;
            a[g] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
        }
        const __m256 low = _mm256_unpacklo_ps(a[0], a[1]), high = _mm256_unpackhi_ps(a[0], a[1]);
        const __m256 next_low = _mm256_unpacklo_ps(a[2], a[3]), next_high = _mm256_unpackhi_ps(a[2], a[3]);
        _mm256_storeu_ps(columns + 16 * e, _mm256_shuffle_ps(low, next_low, 0x44));
        _mm256_storeu_ps(columns + 16 * (e + 1), _mm256_shuffle_ps(low, next_low, 0xee));
        _mm256_storeu_ps(columns + 16 * (e + 2), _mm256_shuffle_ps(high, next_high, 0x44));
        _mm256_storeu_ps(columns + 16 * (e + 3), _mm256_shuffle_ps(high, next_high, 0xee));
    }
}
#endif

// columns[16 * e + g] = rows[length * g + e], for 16 groups of `length` elements, a multiple of 8; `columns` is aligned.
inline void to_columns(const float* rows, int length, float* columns) {
#if defined(__AVX512F__)
    for (int e = 0; e < length; e += 16) transpose_16(rows + e, length, columns + batch * e);
#elif defined(__AVX2__)
    for (int g = 0; g < batch; g += 8)
        for (int e = 0; e < length; e += 8) transpose_8(rows + length * g + e, length, columns + batch * e + g);
#else
    for (int g = 0; g < batch; ++g)
        for (int e = 0; e < length; ++e) columns[batch * e + g] = rows[length * g + e];
#endif
}

#if defined(__SSE2__)
// Four rounds of interleaving bytes i and i + 8 turn 16 rows of 16 bytes into their columns.
inline void transpose_16(const uint8_t* in, uint8_t* out, int stride) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 16 * i));
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride * i), a[i]);
}
#else
inline void transpose_16(const uint8_t* in, uint8_t* out, int stride) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) out[stride * i + j] = in[16 * j + i];
}
#endif

// rows[length * g + e] = columns[16 * e + g]: the codes of 16 groups back in the order of the numbers.
inline void to_rows(const uint8_t* columns, int length, uint8_t* rows) {
    for (int e = 0; e < length; e += 16) transpose_16(columns + batch * e, rows + e, length);
}

// Lane i: what is left of row i when its lanes are joined, by an operation that may take them in any order. Each round
// halves what is left of rows, two to a vector.
template <typename Join>
Vec join_rows(Vec* v, Join join) {
#if defined(__AVX512F__)
    for (int i = 0; i < 8; ++i)
        v[i] = join(Vec{_mm512_unpacklo_ps(v[2 * i].v, v[2 * i + 1].v)}, Vec{_mm512_unpackhi_ps(v[2 * i].v, v[2 * i + 1].v)});
    for (int i = 0; i < 4; ++i) {
        const __m512d a = _mm512_castps_pd(v[2 * i].v), b = _mm512_castps_pd(v[2 * i + 1].v);
        v[i] = join(Vec{_mm512_castpd_ps(_mm512_unpacklo_pd(a, b))}, Vec{_mm512_castpd_ps(_mm512_unpackhi_pd(a, b))});
    }
    for (int count = 2; count; count /= 2)
        for (int i = 0; i < count; ++i)
            v[i] = join(Vec{_mm512_shuffle_f32x4(v[2 * i].v, v[2 * i + 1].v, 0x88)},
                        Vec{_mm512_shuffle_f32x4(v[2 * i].v, v[2 * i + 1].v, 0xdd)});
    return v[0];
#elif defined(__AVX2__)
    for (int i = 0; i < 4; ++i)
        v[i] = join(Vec{_mm256_unpacklo_ps(v[2 * i].v, v[2 * i + 1].v)}, Vec{_mm256_unpackhi_ps(v[2 * i].v, v[2 * i + 1].v)});
    for (int i = 0; i < 2; ++i) {
        const __m256d a = _mm256_castps_pd(v[2 * i].v), b = _mm256_castps_pd(v[2 * i + 1].v);
        v[i] = join(Vec{_mm256_castpd_ps(_mm256_unpacklo_pd(a, b))}, Vec{_mm256_castpd_ps(_mm256_unpackhi_pd(a, b))});
    }
    return join(Vec{_mm256_permute2f128_ps(v[0].v, v[1].v, 0x20)}, Vec{_mm256_permute2f128_ps(v[0].v, v[1].v, 0x31)});
#elif defined(__ARM_NEON)
    for (int i = 0; i < 2; ++i)
        v[i] = join(Vec{vzip1q_f32(v[2 * i].v, v[2 * i + 1].v)}, Vec{vzip2q_f32(v[2 * i].v, v[2 * i + 1].v)});
    const float64x2_t a = vreinterpretq_f64_f32(v[0].v), b = vreinterpretq_f64_f32(v[1].v);
    return join(Vec{vreinterpretq_f32_f64(vzip1q_f64(a, b))}, Vec{vreinterpretq_f32_f64(vzip2q_f64(a, b))});
#endif
}

// Two codes per byte: the low half of byte e from first[e], the high half from second[e]; `count` is a multiple of 8.
template <int count>
void pack_halves(const uint8_t* first, const uint8_t* second, uint8_t* q) {
#if defined(__SSE2__)
    const __m128i mask = _mm_set1_epi8(15);
    const auto packed = [&](__m128i low, __m128i high) {
        return _mm_or_si128(_mm_and_si128(low, mask), _mm_slli_epi16(_mm_and_si128(high, mask), 4));
    };
    const auto at = [](const uint8_t* p) { return reinterpret_cast<const __m128i*>(p); };
    for (int e = 0; e + 16 <= count; e += 16)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + e), packed(_mm_loadu_si128(at(first + e)), _mm_loadu_si128(at(second + e))));
    if constexpr (count % 16 != 0) {
        constexpr int e = count / 16 * 16;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(q + e), packed(_mm_loadl_epi64(at(first + e)), _mm_loadl_epi64(at(second + e))));
    }
#else
    for (int e = 0; e < count; ++e) q[e] = static_cast<uint8_t>((first[e] & 15) | (second[e] & 15) << 4);
#endif
}

// The fifth bits of 32 codes, bit e of the four bytes from code e.
inline void pack_fifth_bits(const uint8_t* codes, uint8_t* high) {
#if defined(__SSE2__)
    for (int e = 0; e < 32; e += 16) {
        const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + e));
        const int bits = _mm_movemask_epi8(_mm_slli_epi16(sixteen, 3));  // bit 4 of a byte becomes its sign
        high[e / 8] = static_cast<uint8_t>(bits);
        high[e / 8 + 1] = static_cast<uint8_t>(bits >> 8);
    }
#else
    for (int b = 0; b < 4; ++b) {
        int bits = 0;
        for (int e = 0; e < 8; ++e) bits |= (codes[8 * b + e] >> 4) << e;
        high[b] = static_cast<uint8_t>(bits);
    }
#endif
}

inline half_bits stored_half(float x) {
    const float limit = search::half_max;
    return float_to_half(x > limit ? limit : x < -limit ? -limit : x);
}

inline float inverse(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }

inline float clamp_to(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

inline float round_scalar(float x) { return __builtin_rintf(x); }

inline Vec inverse(Vec x) { return select(abs(x) > Vec::all(0.0f), Vec::all(1.0f) / x, Vec::all(0.0f)); }

}  // namespace
}  // namespace fewbits
