// IQ4: half-bytes that stand on a staircase of uneven steps.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

struct Staircase {
    float height[16] = {};
    constexpr Staircase() {
        const int steps[16] = {-127, 23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
        int at = 0;
        for (int j = 0; j < 16; ++j) height[j] = static_cast<float>(at += steps[j]);
    }
};
constexpr Staircase staircase;
static_assert(staircase.height[15] == 113.0f, "the top of the stairs");

void read_stairs(const uint8_t* __restrict p, float step, float* __restrict w) {
    for (int j = 0; j < 16; ++j) {
        w[j] = step * staircase.height[p[j] % 16];
        w[16 + j] = step * staircase.height[p[j] / 16];
    }
}
void read_iq4_nl(const uint8_t* __restrict p, float* __restrict w) { read_stairs(p + 2, binary16(p), w); }
void read_iq4_xs(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    const int upper = p[2] + 256 * p[3];
    for (int g = 0; g < 8; ++g) {
        const int lower = g & 1 ? p[4 + g / 2] / 16 : p[4 + g / 2] % 16;
        read_stairs(p + 8 + 16 * g, d * (16 * (upper >> 2 * g & 3) + lower - 32), w + 32 * g);
    }
}

constexpr Reading iq4_readings[] = {
    reading<32, 18, read_iq4_nl>("IQ4_NL"),
    reading<256, 136, read_iq4_xs>("IQ4_XS"),
};

}  // namespace
}  // namespace fewbits
