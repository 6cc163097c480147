// Constants of the formats made of small floats; the torch formats (fp8.py, mx.py, nvfp4.py) state the same numbers, and
// tests compare the codes.
#pragma once
#include "fewbits/minifloat.h"

namespace fewbits {
namespace {

// What the largest magnitude of a scope may fall on; the first one is the element's largest number.
struct Levels {
    int count;
    float levels[7];
    float reach;  // the largest number and half a step: no magnitude beyond it is cut off
};
constexpr Levels e4m3_levels{7, {448, 256, 288, 320, 352, 384, 416}, 464};
constexpr Levels e5m2_levels{5, {57344, 32768, 40960, 49152, 61440}, 61440};
constexpr Levels e3m2_levels{5, {28, 16, 20, 24, 30}, 30};
constexpr Levels e2m3_levels{6, {7.5f, 5, 5.5f, 6, 6.5f, 7}, 7.75f};
constexpr Levels e2m1_levels{6, {6, 4, 4.5f, 5.5f, 6.5f, 7}, 7};

constexpr float smallest_normal = 0x1p-126f;

// MX: exponents beside that of OCP's rule; NVFP4: codes of E4M3 beside that of the usual scale.
constexpr int mx_float_shifts[] = {0, 1}, mx_integer_shifts[] = {0, -1};
constexpr int nv_scale_shifts[] = {0, -1, 1, 4, 5, 6};
constexpr int mx_span = 32, nv_span = 16;

// OCP's INT8: 64ths in two's complement.
constexpr float int8_largest = 127.0f / 64.0f;

inline float inverse_of(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }

// floor(log2 x), at least -127: that of subnormal numbers and of zero never counts.
inline int exponent_of(float x) { return static_cast<int>(float_to_bits(x) >> 23 & 255) - 127; }

}  // namespace
}  // namespace fewbits
