// E2M1 numbers under small scales.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

// Sign, two bits of exponent, one of fraction: 0, 0.5, then 1 and 1.5 times a power of two. There is one zero only.
float e2m1_number(int code) {
    const int exponent = code >> 1 & 3, fraction = code & 1;
    const float size = exponent ? static_cast<float>((2 + fraction) << (exponent - 1)) / 2 : static_cast<float>(fraction) / 2;
    return code & 8 ? 0.0f - size : size;
}

// The power of two is applied in two steps, because the largest one is no binary32 number.
void read_mxfp4(const uint8_t* __restrict p, float* __restrict w) {
    const float half = std::ldexp(1.0f, p[0] - 128);
    for (int j = 0; j < 16; ++j) {
        w[j] = half * (2 * e2m1_number(p[1 + j] % 16));
        w[16 + j] = half * (2 * e2m1_number(p[1 + j] / 16));
    }
}

// The byte's sign does not count; 127 is no NaN but 0, and 255 is the number after the largest.
float unsigned_e4m3(int byte) {
    if (byte == 127) return 0;
    const int exponent = byte >> 3 & 15, fraction = byte & 7;
    return exponent ? std::ldexp(static_cast<float>(8 + fraction), exponent - 10) : std::ldexp(static_cast<float>(fraction), -9);
}

void read_nvfp4(const uint8_t* __restrict p, float* __restrict w) {
    for (int j = 0; j < 64; ++j) {
        const int byte = p[4 + j / 16 * 8 + j % 8];
        w[j] = unsigned_e4m3(p[j / 16]) * e2m1_number(j % 16 < 8 ? byte % 16 : byte / 16);
    }
}

constexpr Reading micro_readings[] = {
    reading<32, 17, read_mxfp4>("MXFP4"),
    reading<64, 36, read_nvfp4>("NVFP4"),
};

}  // namespace
}  // namespace fewbits
