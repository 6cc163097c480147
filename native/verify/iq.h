// Lattices of two and three bits: points from the reader's own tables, signs and scales cut out of the bytes.
#pragma once
#include "lattices.h"
#include "reading.h"

namespace fewbits {
namespace {

// Eight numbers from `p` on in a table of points, negative where `signs` has a one.
void eight_columns(const PackedPoints& points, int first, int second, int signs, float step, float* w) {
    for (int j = 0; j < 8; ++j) {
        const float number = static_cast<float>(points.at(j < 4 ? first + j : second + j - 4));
        w[j] = step * (signs & 1 << j ? -number : number);
    }
}

// Seven stored signs; the eighth is negative where they are odd in number.
int signs_of(int seven) {
    int odd = 0;
    for (int j = 0; j < 7; ++j) odd ^= seven >> j & 1;
    return seven + 128 * odd;
}

int number_at(const uint8_t* p) { return p[0] + 256 * p[1]; }

// 28 bits of signs and four of a scale.
int seven_signs(const uint8_t* p, int vector) {
    const uint32_t whole = static_cast<uint32_t>(number_at(p)) + 65536u * static_cast<uint32_t>(number_at(p + 2));
    return static_cast<int>(whole >> 7 * vector & 127u);
}

void read_iq2_xxs(const uint8_t* __restrict p, float* __restrict w) {
    for (int v = 0; v < 32; ++v) {
        const uint8_t* group = p + 2 + 8 * (v / 4);
        const float step = binary16(p) * static_cast<float>(2 * (group[7] / 16) + 1) / 8.0f;
        const int at = 8 * group[v % 4];
        eight_columns(iq2_xxs_points, at, at + 4, signs_of(seven_signs(group + 4, v % 4)), step, w + 8 * v);
    }
}

void read_iq2_xs(const uint8_t* __restrict p, float* __restrict w) {
    for (int v = 0; v < 32; ++v) {
        const int stored = number_at(p + 2 + 2 * v), both = p[66 + v / 4], at = 8 * (stored % 512);
        const float step = binary16(p) * static_cast<float>(2 * (v % 4 < 2 ? both % 16 : both / 16) + 1) / 8.0f;
        eight_columns(iq2_xs_points, at, at + 4, signs_of(stored / 512), step, w + 8 * v);
    }
}

void read_iq2_s(const uint8_t* __restrict p, float* __restrict w) {
    for (int v = 0; v < 32; ++v) {
        const int at = 8 * (p[2 + v] + 256 * (p[66 + v / 4] >> v % 4 * 2 & 3)), both = p[74 + v / 4];
        const float step = binary16(p) * static_cast<float>(2 * (v % 4 < 2 ? both % 16 : both / 16) + 1) / 8.0f;
        eight_columns(iq2_s_points, at, at + 4, p[34 + v], step, w + 8 * v);
    }
}

void read_iq3_xxs(const uint8_t* __restrict p, float* __restrict w) {
    for (int v = 0; v < 32; ++v) {
        const uint8_t *points = p + 2 + 2 * v, *group = p + 66 + 4 * (v / 4);
        const float step = binary16(p) * static_cast<float>(2 * (group[3] / 16) + 1) / 4.0f;
        eight_columns(iq3_xxs_points, 4 * points[0], 4 * points[1], signs_of(seven_signs(group, v % 4)), step, w + 8 * v);
    }
}

void read_iq3_s(const uint8_t* __restrict p, float* __restrict w) {
    for (int v = 0; v < 32; ++v) {
        const int high = p[66 + v / 4] >> v % 4 * 2 & 3, both = p[106 + v / 8];
        const int first = p[2 + 2 * v] + 256 * (high % 2), second = p[3 + 2 * v] + 256 * (high / 2);
        const float step = binary16(p) * static_cast<float>(2 * (v % 8 < 4 ? both % 16 : both / 16) + 1);
        eight_columns(iq3_s_points, 4 * first, 4 * second, p[74 + v], step, w + 8 * v);
    }
}

constexpr Reading iq_readings[] = {
    reading<256, 66, read_iq2_xxs>("IQ2_XXS"), reading<256, 74, read_iq2_xs>("IQ2_XS"),
    reading<256, 82, read_iq2_s>("IQ2_S"),     reading<256, 98, read_iq3_xxs>("IQ3_XXS"),
    reading<256, 110, read_iq3_s>("IQ3_S"),
};

}  // namespace
}  // namespace fewbits
