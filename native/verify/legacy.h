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
// 16 in lane j where bit j of the two bytes at p is set.
WholeLanes fifth_bits(const uint8_t* p) {
    const WholeLanes bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    const WholeLanes bits = p[0] + 256 * p[1] - WholeLanes{};
    return ((bits & bit) != 0) & 16;
}
void read_q5_0(const uint8_t* __restrict p, float* __restrict w) {
    const Lanes d = all(binary16(p));
    const ByteLanes both = load<ByteLanes>(p + 6);
    store(d * __builtin_convertvector(whole(both & 15) + fifth_bits(p + 2) - 16, Lanes), w);
    store(d * __builtin_convertvector(whole(both >> 4) + fifth_bits(p + 4) - 16, Lanes), w + 16);
}
void read_q5_1(const uint8_t* __restrict p, float* __restrict w) {
    const Lanes d = all(binary16(p)), m = all(binary16(p + 2));
    const ByteLanes both = load<ByteLanes>(p + 8);
    store(m + d * __builtin_convertvector(whole(both & 15) + fifth_bits(p + 4), Lanes), w);
    store(m + d * __builtin_convertvector(whole(both >> 4) + fifth_bits(p + 6), Lanes), w + 16);
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
