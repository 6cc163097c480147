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

// columns[16 * e + g] = rows[length * g + e], for 16 groups of `length` elements.
inline void to_columns(const float* rows, int length, float* columns) {
#if defined(__SSE2__)
    for (int g = 0; g < batch; g += 4)
        for (int e = 0; e < length; e += 4) {
            __m128 a = _mm_loadu_ps(rows + length * g + e), b = _mm_loadu_ps(rows + length * (g + 1) + e);
            __m128 c = _mm_loadu_ps(rows + length * (g + 2) + e), d = _mm_loadu_ps(rows + length * (g + 3) + e);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(columns + batch * e + g, a);
            _mm_storeu_ps(columns + batch * (e + 1) + g, b);
            _mm_storeu_ps(columns + batch * (e + 2) + g, c);
            _mm_storeu_ps(columns + batch * (e + 3) + g, d);
        }
#else
    for (int g = 0; g < batch; ++g)
        for (int e = 0; e < length; ++e) columns[batch * e + g] = rows[length * g + e];
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
