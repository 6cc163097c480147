// Sixteen numbers at a time, in the compiler's own vectors: this reader shares no vector code with the codecs.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fewbits {
namespace {

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t WholeLanes __attribute__((vector_size(64)));
typedef uint8_t ByteLanes __attribute__((vector_size(16)));
typedef int8_t SignedByteLanes __attribute__((vector_size(16)));
typedef uint16_t WordLanes __attribute__((vector_size(32)));
typedef float HalfLanes __attribute__((vector_size(32)));
typedef double DoubleLanes __attribute__((vector_size(64)));  // eight

template <typename Vector>
Vector load(const void* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Bytes as numbers, and one number in all lanes: compilers go through memory, element by element, where a vector takes
// two registers, so x86 is told how.
#if defined(__AVX512F__)
inline Lanes all(float x) { return (Lanes)_mm512_set1_ps(x); }
inline WholeLanes whole(ByteLanes v) { return (WholeLanes)_mm512_cvtepu8_epi32((__m128i)v); }
inline WholeLanes whole(SignedByteLanes v) { return (WholeLanes)_mm512_cvtepi8_epi32((__m128i)v); }
inline WholeLanes whole(WordLanes v) { return (WholeLanes)_mm512_cvtepu16_epi32((__m256i)v); }
#elif defined(__AVX2__)
inline Lanes all(float x) {
    const __m256 both[] = {_mm256_set1_ps(x), _mm256_set1_ps(x)};
    return load<Lanes>(both);
}
inline WholeLanes joined(__m256i low, __m256i high) {
    const __m256i both[] = {low, high};
    return load<WholeLanes>(both);
}
inline WholeLanes whole(ByteLanes v) {
    const __m128i bytes = (__m128i)v;
    return joined(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)));
}
inline WholeLanes whole(SignedByteLanes v) {
    const __m128i bytes = (__m128i)v;
    return joined(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
}
inline WholeLanes whole(WordLanes v) {
    const __m256i words = (__m256i)v;
    return joined(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
}
#else
inline Lanes all(float x) { return x - Lanes{}; }
template <typename Narrow>
WholeLanes whole(Narrow v) { return __builtin_convertvector(v, WholeLanes); }
#endif

// sum + v * v, rounded once.
inline Lanes plus_square(Lanes sum, Lanes v) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_fmadd_ps((__m512)v, (__m512)v, (__m512)sum);
#elif defined(__AVX2__)
    __m256 a[2], b[2];
    std::memcpy(a, &v, sizeof a);
    std::memcpy(b, &sum, sizeof b);
    for (int half = 0; half < 2; ++half) b[half] = _mm256_fmadd_ps(a[half], a[half], b[half]);
    return load<Lanes>(b);
#else
    for (int lane = 0; lane < 16; ++lane) sum[lane] = __builtin_fmaf(v[lane], v[lane], sum[lane]);
    return sum;
#endif
}

template <typename Bytes>
Lanes to_floats(Bytes v) { return __builtin_convertvector(whole(v), Lanes); }

inline DoubleLanes widened(const float* p) { return __builtin_convertvector(load<HalfLanes>(p), DoubleLanes); }

inline void store(Lanes v, float* p) { std::memcpy(p, &v, sizeof v); }

inline WholeLanes larger(WholeLanes a, WholeLanes b) { return a > b ? a : b; }

// Magnitudes as whole numbers: they order alike and, unlike floats, may be compared in any order.
inline WholeLanes magnitudes(Lanes v) { return load<WholeLanes>(&v) & 0x7fffffff; }

#if defined(__AVX512F__)
// The largest lanes of eight pairs of vectors: of the first ones in lanes 0 to 7 of the result, of the second ones in lanes
// 8 to 15. Each round halves what is left of every vector and puts two of them into one.
class LargestOfPairs {
  public:
    void set(int i, WholeLanes first, WholeLanes second) {
        const auto a = (__m512i)first, b = (__m512i)second;
        v_[i] = _mm512_max_epi32(_mm512_shuffle_i64x2(a, b, 0x44), _mm512_shuffle_i64x2(a, b, 0xee));
    }
    WholeLanes lanes() const {
        __m512i a[4], b[2];
        for (int i = 0; i < 4; ++i)
            a[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(v_[2 * i], v_[2 * i + 1]), _mm512_unpackhi_epi32(v_[2 * i], v_[2 * i + 1]));
        for (int i = 0; i < 2; ++i)
            b[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
        const __m512i found = _mm512_max_epi32(_mm512_shuffle_i32x4(b[0], b[1], 0x88), _mm512_shuffle_i32x4(b[0], b[1], 0xdd));
        return (WholeLanes)_mm512_shuffle_i32x4(found, found, 0xd8);  // quarters were first, second, first, second
    }

  private:
    __m512i v_[8];
};
#else
// Lane i of the result: the largest of the sixteen lanes of v[i]. Each round halves what is left of every vector and
// puts two of them into one.
inline WholeLanes largest_of_each(WholeLanes* v) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FEWBITS_SHUFFLES
#endif
#endif
#ifdef FEWBITS_SHUFFLES
    for (int i = 0; i < 8; ++i)
        v[i] = larger(__builtin_shufflevector(v[i], v[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                      __builtin_shufflevector(v[i], v[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
    for (int i = 0; i < 4; ++i)
        v[i] = larger(__builtin_shufflevector(v[i], v[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                      __builtin_shufflevector(v[i], v[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
    for (int i = 0; i < 2; ++i)
        v[i] = larger(__builtin_shufflevector(v[i], v[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                      __builtin_shufflevector(v[i], v[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
    const WholeLanes mixed =  // lane 8a + 4b + 2c + d has the largest of v[8a + 4b + 2c + d]
        larger(__builtin_shufflevector(v[0], v[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
               __builtin_shufflevector(v[0], v[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
    return mixed;
#else
    WholeLanes found = {};
    for (int i = 0; i < 16; ++i)
        for (int lane = 0; lane < 16; ++lane) found[i] = v[i][lane] > found[i] ? v[i][lane] : found[i];
    return found;
#endif
}

// The same of eight pairs of vectors: of the first ones in lanes 0 to 7 of the result, of the second ones in lanes 8 to 15.
class LargestOfPairs {
  public:
    void set(int i, WholeLanes first, WholeLanes second) {
        v_[i] = first;
        v_[8 + i] = second;
    }
    WholeLanes lanes() { return largest_of_each(v_); }

  private:
    WholeLanes v_[16];
};
#endif

}  // namespace
}  // namespace fewbits
