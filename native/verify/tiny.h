// GGUF's smallest formats.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

void read_q1_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 128; ++j) w[j] = d * (p[2 + j / 8] & 1 << j % 8 ? 1 : -1);
}
void read_q2_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 64; ++j) w[j] = d * ((p[2 + j / 4] >> j % 4 * 2) % 4 - 1);
}

constexpr Reading tiny_readings[] = {
    reading<128, 18, read_q1_0>("Q1_0"),
    reading<64, 18, read_q2_0>("Q2_0"),
};

}  // namespace
}  // namespace fewbits
