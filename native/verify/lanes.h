// Sixteen numbers at a time, in the compiler's own vectors: this reader shares no vector code with the codecs.
#pragma once
#include <cstdint>
#include <cstring>

namespace fewbits {
namespace {

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t WholeLanes __attribute__((vector_size(64)));
typedef uint8_t ByteLanes __attribute__((vector_size(16)));
typedef int8_t SignedByteLanes __attribute__((vector_size(16)));
typedef float HalfLanes __attribute__((vector_size(32)));
typedef double DoubleLanes __attribute__((vector_size(64)));  // eight

template <typename Vector>
Vector load(const void* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <typename Bytes>
Lanes to_floats(Bytes bytes) { return __builtin_convertvector(__builtin_convertvector(bytes, WholeLanes), Lanes); }

inline DoubleLanes widened(const float* p) { return __builtin_convertvector(load<HalfLanes>(p), DoubleLanes); }

inline void store(Lanes v, float* p) { std::memcpy(p, &v, sizeof v); }

inline WholeLanes larger(WholeLanes a, WholeLanes b) { return a > b ? a : b; }

// Magnitudes as whole numbers: they order alike and, unlike floats, may be compared in any order.
inline WholeLanes magnitudes(Lanes v) { return load<WholeLanes>(&v) & 0x7fffffff; }

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

}  // namespace
}  // namespace fewbits
