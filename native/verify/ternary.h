// Ternary formats.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

// Five digits to base 3, the first the highest, are kept as the fraction number / 243 of 256, rounded up.
int base_three_digit(int byte, int digit) {
    static constexpr int shifts[5] = {1, 3, 9, 27, 81};
    const int behind = byte * shifts[digit] % 256;
    return behind * 3 / 256;
}

void read_tq1_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 52);
    for (int digit = 0; digit < 5; ++digit) {
        for (int j = 0; j < 32; ++j) w[32 * digit + j] = d * (base_three_digit(p[j], digit) - 1);
        for (int j = 0; j < 16; ++j) w[160 + 16 * digit + j] = d * (base_three_digit(p[32 + j], digit) - 1);
    }
    for (int j = 0; j < 16; ++j) w[240 + j] = d * (base_three_digit(p[48 + j % 4], j / 4) - 1);
}
void read_tq2_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 64);
    for (int row = 0; row < 8; ++row)
        for (int j = 0; j < 32; ++j) w[32 * row + j] = d * ((p[32 * (row / 4) + j] >> row % 4 * 2) % 4 - 1);
}

constexpr Reading ternary_readings[] = {
    reading<256, 54, read_tq1_0>("TQ1_0"),
    reading<256, 66, read_tq2_0>("TQ2_0"),
};

}  // namespace
}  // namespace fewbits
