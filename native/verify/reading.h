// What a reading of a format is, for the stranger's reader: a tile of stored bytes to numbers, and the worst of its errors.
#pragma once
#include <cmath>
#include <cstring>

#include "fewbits/kernels.h"
#include "lanes.h"

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

// Largest errors and largest numbers of eight spans from `span` on, of `columns` each; zeros where there are fewer.
template <int columns>
void largest_of_spans(const float* want, const float* got, int span, float* errors, float* numbers) {
    WholeLanes most[16];
    for (int s = 0; s < 8; ++s) {
        WholeLanes far = {}, size = {};
        const int start = columns * (span + s);
        for (int j = start; j < start + columns && start < tile; j += 16) {
            const Lanes x = load<Lanes>(want + j);
            far = larger(far, magnitudes(x - load<Lanes>(got + j)));
            size = larger(size, magnitudes(x));
        }
        most[s] = far;
        most[8 + s] = size;
    }
    const WholeLanes found = largest_of_each(most);
    std::memcpy(errors, &found, 32);
    std::memcpy(numbers, reinterpret_cast<const float*>(&found) + 8, 32);
}

// The largest magnitude of a tile; lane s of `worst` becomes the largest (|want - got| - floor) / max |want| so far of
// spans s, s + 8, ... Nothing over nothing is no number, and not larger than anything.
template <int columns>
float extent_of(const float* want, const float* got, double floor, DoubleLanes* worst) {
    float errors[8], numbers[8], largest = 0.0f;
    for (int span = 0; span < tile / columns; span += 8) {
        largest_of_spans<columns>(want, got, span, errors, numbers);
        const DoubleLanes ratio = (widened(errors) - floor) / widened(numbers);
        *worst = ratio > *worst ? ratio : *worst;
        for (float number : numbers) largest = number > largest ? number : largest;
    }
    return largest;
}

struct Reading {
    const char* name;
    int tile_bytes;
    void (*read)(const uint8_t*, float*);
    float (*extent)(const float*, const float*, double, DoubleLanes*);
};

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
constexpr Reading reading(const char* name) {
    return {name, tile / columns * bytes, read_tile<columns, bytes, read>, extent_of<columns>};
}

}  // namespace
}  // namespace fewbits
