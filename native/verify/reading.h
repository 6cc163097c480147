// What a reading of a format is, for the stranger's reader: a tile of stored bytes to numbers, and the worst of its errors.
#pragma once
#include <cmath>
#include <cstring>

#include "fewbits/kernels.h"
#include "lanes.h"

namespace fewbits {
namespace {

constexpr int tile = 256;  // columns compared together; every span divides it

// Exponent and fraction moved into place, then the difference of the two exponent biases multiplied away; or what the
// processor has for it.
float binary16(const uint8_t* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0] | p[1] << 8);
#if defined(__F16C__)
    return _cvtsh_ss(static_cast<uint16_t>(bits));
#else
    if ((bits & 0x7c00u) == 0x7c00u) return bits & 0x3ffu ? NAN : bits & 0x8000u ? -INFINITY : INFINITY;
    const uint32_t moved = (bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13;
    float small;
    std::memcpy(&small, &moved, 4);
    return small * 0x1p112f;
#endif
}

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
void read_tile(const uint8_t* __restrict p, float* __restrict w) {
    for (int s = 0; s < tile / columns; ++s) read(p + bytes * s, w + columns * s);
}

// Largest errors and largest numbers of eight spans.
struct EightSpans {
    LargestOfPairs most;
    void set(int span, WholeLanes far, WholeLanes size) { most.set(span, far, size); }
    // The largest number of all; lane s of `worst` becomes the largest (|want - got| - floor) / max |want| so far of span s.
    // Nothing over nothing is no number, and not larger than anything.
    float close(double floor, DoubleLanes* worst) {
        const WholeLanes found = most.lanes();
        float numbers[8], largest = 0.0f;
        std::memcpy(numbers, reinterpret_cast<const float*>(&found) + 8, sizeof numbers);
        const DoubleLanes ratio = (widened(reinterpret_cast<const float*>(&found)) - floor) / widened(numbers);
        *worst = ratio > *worst ? ratio : *worst;
        for (float number : numbers) largest = number > largest ? number : largest;
        return largest;
    }
};

// The largest magnitude of a tile, and the worst of its spans.
template <int columns>
float extent_of(const float* want, const float* got, double floor, DoubleLanes* worst) {
    float largest = 0.0f;
    for (int span = 0; span < tile / columns; span += 8) {
        EightSpans spans;
        for (int s = 0; s < 8; ++s) {
            const int start = columns * (span + s);
            WholeLanes far = {}, size = {};
            for (int j = start; j < start + columns && start < tile; j += 16) {
                const Lanes x = load<Lanes>(want + j);
                far = larger(far, magnitudes(x - load<Lanes>(got + j)));
                size = larger(size, magnitudes(x));
            }
            spans.set(s, far, size);
        }
        const float number = spans.close(floor, worst);
        largest = number > largest ? number : largest;
    }
    return largest;
}

inline Lanes numbers_at(const float* p, int j) { return load<Lanes>(p + j); }
inline Lanes numbers_at(const uint16_t* p, int j) {
    const WholeLanes bits = whole(load<WordLanes>(p + j)) << 16;
    return load<Lanes>(&bits);
}

// Sums of a tile as kernels.h defines them, in single precision.
struct TileSums {
    Lanes errors = {}, squares = {};
};

// The same in one go with the sums, for spans of 32 against numbers as they lie, f32 or bf16.
template <int bytes, void (*read)(const uint8_t*, float*), typename Number>
float measure_tile(const uint8_t* p, const uint8_t* numbers, double floor, TileSums* sums, DoubleLanes* worst) {
    constexpr int columns = 32;
    EightSpans spans;
    TileSums found;
    for (int s = 0; s < tile / columns; ++s) {
        float got[columns];
        read(p + bytes * s, got);
        const auto* want = reinterpret_cast<const Number*>(numbers) + columns * s;
        WholeLanes far = {}, size = {};
        for (int j = 0; j < columns; j += 16) {
            const Lanes x = numbers_at(want, j), r = x - load<Lanes>(got + j);
            found.errors = plus_square(found.errors, r);
            found.squares = plus_square(found.squares, x);
            far = larger(far, magnitudes(r));
            size = larger(size, magnitudes(x));
        }
        spans.set(s, far, size);
        __builtin_prefetch(reinterpret_cast<const char*>(want) + 4096);  // processors do not read on into the next page
    }
    *sums = found;
    return spans.close(floor, worst);
}

struct Reading {
    const char* name;
    int tile_bytes;
    void (*read)(const uint8_t*, float*);
    float (*extent)(const float*, const float*, double, DoubleLanes*);
    using Measure = float (*)(const uint8_t*, const uint8_t*, double, TileSums*, DoubleLanes*);
    Measure of_f32 = nullptr, of_bf16 = nullptr;  // all at once, where there is such a reading
};

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
constexpr Reading reading(const char* name) {
#if defined(__AVX512F__)
    if constexpr (columns == 32)
        return {name, tile / columns * bytes, read_tile<columns, bytes, read>, extent_of<columns>,
                measure_tile<bytes, read, float>, measure_tile<bytes, read, uint16_t>};
#endif
            return {name, tile / columns * bytes, read_tile<columns, bytes, read>, extent_of<columns>};
}

}  // namespace
}  // namespace fewbits
