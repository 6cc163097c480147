// IQ1: points of three numbers, an eighth off.
#pragma once
#include "lattices.h"
#include "reading.h"

namespace fewbits {
namespace {

void read_point(int index, float step, bool down, float* __restrict w) {
    for (int j = 0; j < 8; ++j) w[j] = step * (iq1_s_points.at(8 * index + j) - (down ? 0.125f : -0.125f));
}

void read_iq1_s(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int v = 0; v < 32; ++v) {
        const uint8_t* of_group = p + 34 + v / 4 * 2;
        const int word = of_group[0] + 256 * of_group[1], upper = word / (1 << v % 4 * 3) % 8;
        read_point(p[2 + v] + 256 * upper, d * (word / 4096 % 8 * 2 + 1), word / 32768, w + 8 * v);
    }
}

void read_iq1_m(const uint8_t* __restrict p, float* __restrict w) {
    const uint8_t* scales = p + 48;
    const uint8_t half[2] = {static_cast<uint8_t>(scales[1] / 16 + scales[3] / 16 * 16),
                             static_cast<uint8_t>(scales[5] / 16 + scales[7] / 16 * 16)};
    const float d = binary16(half);
    for (int v = 0; v < 32; ++v) {
        const int word = scales[v / 8 * 2] + 256 * scales[v / 8 * 2 + 1], scale = word / (1 << v / 2 % 4 * 3) % 8;
        const int nibble = v & 1 ? p[32 + v / 2] / 16 : p[32 + v / 2] % 16;
        read_point(p[v] + 256 * (nibble % 8), d * (2 * scale + 1), nibble / 8, w + 8 * v);
    }
}

constexpr Reading iq1_readings[] = {
    reading<256, 50, read_iq1_s>("IQ1_S"),
    reading<256, 56, read_iq1_m>("IQ1_M"),
};

}  // namespace
}  // namespace fewbits
