// What a reading of a format is, for the stranger's reader: a tile of stored bytes to numbers, and the worst of its errors.
#pragma once
#include <cmath>
#include <cstring>

#include "fewbits/kernels.h"

namespace fewbits {
namespace {

constexpr int tile = 256;  // columns compared together; every span divides it

// Exponent and fraction moved into place, then the difference of the two exponent biases multiplied away.
float binary16(const uint8_t* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0] | p[1] << 8);
    if ((bits & 0x7c00u) == 0x7c00u) return bits & 0x3ffu ? NAN : bits & 0x8000u ? -INFINITY : INFINITY;
    const uint32_t moved = (bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13;
    float small;
    std::memcpy(&small, &moved, 4);
    return small * 0x1p112f;
}

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
void read_tile(const uint8_t* __restrict p, float* __restrict w) {
    for (int s = 0; s < tile / columns; ++s) read(p + bytes * s, w + columns * s);
}

int32_t magnitude_bits(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & 0x7fffffff;
}

// The largest (|want - got| - floor) / max |want| over the tile's spans. Magnitudes are compared as whole numbers, which
// order alike and, unlike floats, may be compared in any order.
template <int columns>
double worst_of(const float* want, const float* got, double floor) {
    double worst = 0.0;
    for (int s = 0; s < tile; s += columns) {
        int32_t far = 0, size = 0;
        for (int j = s; j < s + columns; ++j) {
            const int32_t distance = magnitude_bits(want[j] - got[j]), own = magnitude_bits(want[j]);
            far = distance > far ? distance : far;
            size = own > size ? own : size;
        }
        float farthest, largest;
        std::memcpy(&farthest, &far, 4);
        std::memcpy(&largest, &size, 4);
        const double beyond = farthest - floor;
        if (beyond > worst * largest) worst = largest > 0.0f ? beyond / largest : INFINITY;
    }
    return worst;
}

struct Reading {
    const char* name;
    int tile_bytes;
    void (*read)(const uint8_t*, float*);
    double (*worst)(const float*, const float*, double);
};

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
constexpr Reading reading(const char* name) {
    return {name, tile / columns * bytes, read_tile<columns, bytes, read>, worst_of<columns>};
}

}  // namespace
}  // namespace fewbits
