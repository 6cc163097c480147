// Codes of a panel: one vector holds four columns of `rows` rows, a byte each, and products of them with four numbers of
// eight bits are added up in whole numbers, one per row.
#pragma once
#include <cstdint>
#include <cstring>

#include "vec.h"

namespace fewbits {
namespace {

constexpr int panel_rows = Vec::lanes;
constexpr int quad_bytes = 4 * panel_rows;

inline Vec power_of_two(Vec whole);

#if defined(__AVX512F__)
// Products take codes 0 .. 255 and numbers -127 .. 127.
constexpr bool signed_bytes = false;

struct Quads {
    __m512i v;
    static Quads load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
    static Quads all(uint8_t byte) { return {_mm512_set1_epi8(static_cast<char>(byte))}; }
    static Quads repeat(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, 4);
        return {_mm512_set1_epi32(word)};
    }
    void store(uint8_t* p) const { _mm512_storeu_si512(p, v); }
};
inline Quads operator&(Quads a, Quads b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Quads operator|(Quads a, Quads b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
Quads shifted(Quads a) {  // to the right, or to the left where n is negative
    if constexpr (n == 0) return a;
    else if constexpr (n > 0) return {_mm512_srli_epi16(a.v, n)};
    else return {_mm512_slli_epi16(a.v, -n)};
}
struct Lookup {
    __m512i v;
    explicit Lookup(const int8_t (&table)[16]) : v(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))) {}
    Quads operator()(Quads codes) const { return {_mm512_shuffle_epi8(v, codes.v)}; }
};

struct Wholes {
    __m512i v;
    static Wholes all(int32_t x) { return {_mm512_set1_epi32(x)}; }
    static Wholes widened(const uint8_t* p) {  // signed bytes
        return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    Vec floats() const { return {_mm512_cvtepi32_ps(v)}; }
};
inline Wholes operator+(Wholes a, Wholes b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Wholes operator-(Wholes a, Wholes b) { return {_mm512_sub_epi32(a.v, b.v)}; }

template <int bits>
struct Products {
    Wholes sum;
    template <int step>
    void add(Quads codes, Quads x) { sum.v = _mm512_dpbusd_epi32(step == 0 ? _mm512_setzero_si512() : sum.v, codes.v, x.v); }
    template <int steps>
    Wholes total() const { return sum; }
};

inline Vec power_of_two(Vec whole) { return {_mm512_scalef_ps(_mm512_set1_ps(1.0f), whole.v)}; }

inline __m128 folded_to_four(Vec a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

#elif defined(__AVX2__)
// Codes of eight bits are signed.
constexpr bool signed_bytes = true;

struct Quads {
    __m256i v;
    static Quads load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
    static Quads all(uint8_t byte) { return {_mm256_set1_epi8(static_cast<char>(byte))}; }
    static Quads repeat(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, 4);
        return {_mm256_set1_epi32(word)};
    }
    void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};
inline Quads operator&(Quads a, Quads b) { return {_mm256_and_si256(a.v, b.v)}; }
inline Quads operator|(Quads a, Quads b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int n>
Quads shifted(Quads a) {
    if constexpr (n == 0) return a;
    else if constexpr (n > 0) return {_mm256_srli_epi16(a.v, n)};
    else return {_mm256_slli_epi16(a.v, -n)};
}
struct Lookup {
    __m256i v;
    explicit Lookup(const int8_t (&table)[16]) : v(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))) {}
    Quads operator()(Quads codes) const { return {_mm256_shuffle_epi8(v, codes.v)}; }
};

struct Wholes {
    __m256i v;
    static Wholes all(int32_t x) { return {_mm256_set1_epi32(x)}; }
    static Wholes widened(const uint8_t* p) {
        return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
    }
    Vec floats() const { return {_mm256_cvtepi32_ps(v)}; }
};
inline Wholes operator+(Wholes a, Wholes b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Wholes operator-(Wholes a, Wholes b) { return {_mm256_sub_epi32(a.v, b.v)}; }

inline __m256i widened_pairs(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Running sums stay in their registers; compilers would rather keep all products and add them up as a tree.
inline __m256i running(__m256i sum) {
    asm("" : "+x"(sum));
    return sum;
}

// Pairs of products are whole numbers of 16 bits; as many of them are added up in 16 bits as cannot overflow:
// 2 * 127 * the largest code each.
template <int bits>
struct Products {
    static constexpr int together = bits == 5 ? 4 : bits == 6 ? 2 : 1;
    __m256i narrow, wide;
    template <int step>
    void add(Quads codes, Quads x) {
        const __m256i pairs = _mm256_maddubs_epi16(codes.v, x.v);
        narrow = step % together == 0 ? pairs : running(_mm256_add_epi16(narrow, pairs));
        if constexpr (step == together - 1) wide = widened_pairs(narrow);
        else if constexpr (step % together == together - 1) wide = running(_mm256_add_epi32(wide, widened_pairs(narrow)));
    }
    template <int steps>
    Wholes total() const { return {wide}; }
};

struct FewBitProducts {  // eight steps fit
    __m256i narrow;
    template <int step>
    void add(Quads codes, Quads x) {
        const __m256i pairs = _mm256_maddubs_epi16(codes.v, x.v);
        narrow = step == 0 ? pairs : running(_mm256_add_epi16(narrow, pairs));
    }
    template <int steps>
    Wholes total() const { return {widened_pairs(narrow)}; }
};
template <> struct Products<1> : FewBitProducts {};
template <> struct Products<2> : FewBitProducts {};
template <> struct Products<3> : FewBitProducts {};
template <> struct Products<4> : FewBitProducts {};

template <>
struct Products<8> {  // signed codes
    __m256i wide;
    template <int step>
    void add(Quads codes, Quads x) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes.v), _mm256_sign_epi8(x.v, codes.v));
        wide = step == 0 ? widened_pairs(pairs) : running(_mm256_add_epi32(wide, widened_pairs(pairs)));
    }
    template <int steps>
    Wholes total() const { return {wide}; }
};

inline Vec power_of_two(Vec whole) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}

inline __m128 folded_to_four(Vec a) { return _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1)); }

#elif defined(__ARM_NEON)
constexpr bool signed_bytes = true;

struct Quads {
    uint8x16_t v;
    static Quads load(const uint8_t* p) { return {vld1q_u8(p)}; }
    static Quads all(uint8_t byte) { return {vdupq_n_u8(byte)}; }
    static Quads repeat(const int8_t* four) {
        uint32_t word;
        std::memcpy(&word, four, 4);
        return {vreinterpretq_u8_u32(vdupq_n_u32(word))};
    }
    void store(uint8_t* p) const { vst1q_u8(p, v); }
};
inline Quads operator&(Quads a, Quads b) { return {vandq_u8(a.v, b.v)}; }
inline Quads operator|(Quads a, Quads b) { return {vorrq_u8(a.v, b.v)}; }
template <int n>
Quads shifted(Quads a) {
    if constexpr (n == 0) return a;
    else if constexpr (n > 0) return {vshrq_n_u8(a.v, n)};
    else return {vshlq_n_u8(a.v, -n)};
}
struct Lookup {
    int8x16_t v;
    explicit Lookup(const int8_t (&table)[16]) : v(vld1q_s8(table)) {}
    Quads operator()(Quads codes) const { return {vreinterpretq_u8_s8(vqtbl1q_s8(v, codes.v))}; }
};

struct Wholes {
    int32x4_t v;
    static Wholes all(int32_t x) { return {vdupq_n_s32(x)}; }
    static Wholes widened(const uint8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return {vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)))))};
    }
    Vec floats() const { return {vcvtq_f32_s32(v)}; }
};
inline Wholes operator+(Wholes a, Wholes b) { return {vaddq_s32(a.v, b.v)}; }
inline Wholes operator-(Wholes a, Wholes b) { return {vsubq_s32(a.v, b.v)}; }

template <int bits>
struct Products {
    int32x4_t sum;
    template <int step>
    void add(Quads codes, Quads x) {
        const int8x16_t a = vreinterpretq_s8_u8(codes.v), b = vreinterpretq_s8_u8(x.v);
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_s8(vget_high_s8(a), vget_high_s8(b));
        const int32x4_t four = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
        sum = step == 0 ? four : vaddq_s32(sum, four);
    }
    template <int steps>
    Wholes total() const { return {sum}; }
};

inline Vec power_of_two(Vec whole) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(whole.v), vdupq_n_s32(127));
    return {vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23))};
}
#endif

// Lanes added up in halves: 0 with half of them, and so on.
#if defined(__AVX2__)
inline void across_four(Vec a, Vec b, Vec c, Vec d, float* out) {
    const __m128 p = folded_to_four(a), q = folded_to_four(b), r = folded_to_four(c), s = folded_to_four(d);
    const __m128 pq = _mm_add_ps(_mm_unpacklo_ps(p, q), _mm_unpackhi_ps(p, q)), rs = _mm_add_ps(_mm_unpacklo_ps(r, s), _mm_unpackhi_ps(r, s));
    _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(pq, rs), _mm_movehl_ps(rs, pq)));
}
inline float across(Vec a) {
    const __m128 four = folded_to_four(a), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#elif defined(__ARM_NEON)
inline float across(Vec a) {
    const float32x2_t two = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline void across_four(Vec a, Vec b, Vec c, Vec d, float* out) {
    const Vec all[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) out[i] = across(all[i]);
}
#endif

}  // namespace
}  // namespace fewbits
