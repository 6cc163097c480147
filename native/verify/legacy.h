// GGUF's first formats.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

void read_q4_0(const uint8_t* __restrict p, float* __restrict w) {
    const Lanes d = all(binary16(p));
    const ByteLanes both = load<ByteLanes>(p + 2);
    store(d * (to_floats(both & 15) - 8.0f), w);
    store(d * (to_floats(both >> 4) - 8.0f), w + 16);
}
void read_q4_1(const uint8_t* __restrict p, float* __restrict w) {
    const Lanes d = all(binary16(p)), m = all(binary16(p + 2));
    const ByteLanes both = load<ByteLanes>(p + 4);
    store(m + d * to_floats(both & 15), w);
    store(m + d * to_floats(both >> 4), w + 16);
}
void read_q5_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 16; ++j) {
        w[j] = d * (p[6 + j] % 16 + 16 * (p[2 + j / 8] >> j % 8 & 1) - 16);
        w[16 + j] = d * (p[6 + j] / 16 + 16 * (p[4 + j / 8] >> j % 8 & 1) - 16);
    }
}
void read_q5_1(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), m = binary16(p + 2);
    for (int j = 0; j < 32; ++j) {
        const int nibble = j < 16 ? p[8 + j] % 16 : p[8 + j - 16] / 16;
        w[j] = m + d * (nibble + (p[4 + j / 8] & 1 << j % 8 ? 16 : 0));
    }
}
void read_q8_0(const uint8_t* __restrict p, float* __restrict w) {
    const Lanes d = all(binary16(p));
    for (int j = 0; j < 32; j += 16) store(d * to_floats(load<SignedByteLanes>(p + 2 + j)), w + j);
}

constexpr Reading legacy_readings[] = {
    reading<32, 18, read_q4_0>("Q4_0"),
    reading<32, 20, read_q4_1>("Q4_1"),
    reading<32, 22, read_q5_0>("Q5_0"),
    reading<32, 24, read_q5_1>("Q5_1"),
    reading<32, 34, read_q8_0>("Q8_0"),
};

}  // namespace
}  // namespace fewbits
