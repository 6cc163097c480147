// Scales of MXFP4 and NVFP4 as GGUF stores them: stated for twice the E2M1 number.
#pragma once
#include "fewbits/minifloat.h"

namespace fewbits {
namespace {

// Twice the E2M1 numbers, in the order of their codes; code 8 is the same zero as code 0.
constexpr int8_t twice_e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 255 is no NaN here.
inline float mxfp4_step(uint8_t scale) { return power_of_two(static_cast<int>(scale) - 128); }

// Half of E4M3 without its sign; 127 means 0, and 255 the number that would follow the largest.
inline float nvfp4_step(uint8_t scale) {
    const uint32_t number = scale & 127u;
    const float half = bits_to_float(number << 20) * bits_to_float(power_bits(119));
    return scale == 127 ? 0.0f : half;
}

}  // namespace
}  // namespace fewbits
