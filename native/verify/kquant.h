// K-quants.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

// Six-bit number `index` (0-7 scales, 8-15 minimums) of the twelve bytes of a K-quant span.
int six_bits(const uint8_t* p, int index) {
    const int j = index & 7, is_min = index >> 3;
    if (j < 4) return p[j + 4 * is_min] & 63;
    const int low = is_min ? p[j + 4] >> 4 : p[j + 4] & 15;
    return low + 16 * (p[j - 4 + 4 * is_min] >> 6);
}

// The pair of bits of column c: 32 bytes for each half of the span, each byte for four columns that are 32 apart.
int pair_of(const uint8_t* p, int c) { return p[c / 128 * 32 + c % 32] / (1 << c % 128 / 32 * 2) % 4; }

void read_q2_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 80), dmin = binary16(p + 82);
    for (int group = 0; group < 16; ++group) {
        const float step = d * (p[group] % 16), least = dmin * (p[group] / 16);
        for (int c = 16 * group; c < 16 * group + 16; ++c) w[c] = step * pair_of(p + 16, c) - least;
    }
}

// Scale `index` of sixteen, -32 .. 31: four bits in one of eight bytes, two more in one of the four after them.
int signed_six_bits(const uint8_t* p, int index) {
    const int low = index < 8 ? p[index] % 16 : p[index - 8] / 16;
    return low + 16 * (p[8 + index % 4] / (1 << index / 4 * 2) % 4) - 32;
}

void read_q3_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 108);
    for (int group = 0; group < 16; ++group) {
        const float step = d * signed_six_bits(p + 96, group);
        for (int c = 16 * group; c < 16 * group + 16; ++c)
            w[c] = step * (pair_of(p + 32, c) - (p[c % 32] & 1 << c / 32 ? 0 : 4));
    }
}

void read_q4_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), dmin = binary16(p + 2);
    for (int pair = 0; pair < 4; ++pair) {
        const float s0 = d * six_bits(p + 4, 2 * pair), s1 = d * six_bits(p + 4, 2 * pair + 1);
        const float m0 = dmin * six_bits(p + 4, 8 + 2 * pair), m1 = dmin * six_bits(p + 4, 9 + 2 * pair);
        for (int j = 0; j < 32; ++j) {
            const int byte = p[16 + 32 * pair + j];
            w[64 * pair + j] = s0 * (byte % 16) - m0;
            w[64 * pair + 32 + j] = s1 * (byte / 16) - m1;
        }
    }
}
void read_q5_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), dmin = binary16(p + 2);
    for (int pair = 0; pair < 4; ++pair) {
        const float s0 = d * six_bits(p + 4, 2 * pair), s1 = d * six_bits(p + 4, 2 * pair + 1);
        const float m0 = dmin * six_bits(p + 4, 8 + 2 * pair), m1 = dmin * six_bits(p + 4, 9 + 2 * pair);
        for (int j = 0; j < 32; ++j) {
            const int byte = p[48 + 32 * pair + j], fifth = p[16 + j] >> (2 * pair);
            w[64 * pair + j] = s0 * (byte % 16 + 16 * (fifth & 1)) - m0;
            w[64 * pair + 32 + j] = s1 * (byte / 16 + 16 * (fifth >> 1 & 1)) - m1;
        }
    }
}
void read_q6_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 208);
    // Each half has four rows of 32 columns: rows 0 and 1 in low nibbles, 2 and 3 in high ones; a scale serves 16.
    for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 2; ++part) {
            float step[4];
            for (int r = 0; r < 4; ++r) step[r] = d * static_cast<int8_t>(p[192 + 8 * half + 2 * r + part]);
            const uint8_t *first = p + 64 * half + 16 * part, *second = first + 32;
            const uint8_t* upper = p + 128 + 32 * half + 16 * part;
            float* out = w + 128 * half + 16 * part;
            for (int j = 0; j < 16; ++j) {
                out[j] = step[0] * (first[j] % 16 + 16 * (upper[j] % 4) - 32);
                out[32 + j] = step[1] * (second[j] % 16 + 16 * (upper[j] / 4 % 4) - 32);
                out[64 + j] = step[2] * (first[j] / 16 + 16 * (upper[j] / 16 % 4) - 32);
                out[96 + j] = step[3] * (second[j] / 16 + 16 * (upper[j] / 64) - 32);
            }
        }
}


constexpr Reading kquant_readings[] = {
    reading<256, 84, read_q2_k>("Q2_K"),
    reading<256, 110, read_q3_k>("Q3_K"),
    reading<256, 144, read_q4_k>("Q4_K"),
    reading<256, 176, read_q5_k>("Q5_K"),
    reading<256, 210, read_q6_k>("Q6_K"),
};

}  // namespace
}  // namespace fewbits
