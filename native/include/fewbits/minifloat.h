// Floating-point numbers of eight bits and fewer, rounded to nearest even and saturated; powers of two as scales.
// The torch twin is src/fewbits/formats/minifloat.py. No branches, so that compilers vectorize loops over it.
#pragma once
#include <cmath>

#include "fewbits/half.h"

namespace fewbits {
namespace {

constexpr uint32_t power_bits(int exponent) { return static_cast<uint32_t>(exponent + 127) << 23; }

// A sign, exponent bits and fraction bits; `top` is the last finite code without its sign. Codes above it are NaN, but
// for the first one where the type has an infinity.
struct MiniFloat {
    int exponent_bits, fraction_bits, bias;
    uint32_t top;
    bool infinity;
    constexpr int sign_bit() const { return exponent_bits + fraction_bits; }
    constexpr uint32_t last() const { return (1u << sign_bit()) - 1; }
    constexpr uint32_t largest_bits() const {  // of the largest number as binary32
        return (top << (23 - fraction_bits)) + static_cast<uint32_t>(127 - bias) * (1u << 23);
    }
};

constexpr MiniFloat e2m1{2, 1, 1, 0x07, false};
constexpr MiniFloat e2m3{2, 3, 1, 0x1f, false};
constexpr MiniFloat e3m2{3, 2, 3, 0x1f, false};
constexpr MiniFloat e4m3{4, 3, 7, 0x7e, false};
constexpr MiniFloat e5m2{5, 2, 15, 0x7b, true};

// The code nearest to x. Beyond the largest number, infinity too, its code; of NaN the type's NaN, else the largest's.
inline uint8_t to_mini(MiniFloat type, float x) {
    const uint32_t bits = float_to_bits(x), size = bits & 0x7fffffffu, limit = type.largest_bits();
    const uint32_t magnitude = size < limit ? size : limit;
    const int lowest = 128 - type.bias, own = static_cast<int>(magnitude >> 23), exponent = own > lowest ? own : lowest;
    const float per_step = bits_to_float(static_cast<uint32_t>(254 + type.fraction_bits - exponent) << 23);
    const int steps = static_cast<int>(__builtin_rintf(bits_to_float(magnitude) * per_step));
    // Rounded up to a power of two, the steps carry into the exponent.
    const uint32_t finite = static_cast<uint32_t>(((exponent - lowest) << type.fraction_bits) + steps);
    const uint32_t code = size > 0x7f800000u && type.last() > type.top ? type.last() : finite;
    return static_cast<uint8_t>(code | (bits >> 31) << type.sign_bit());
}

inline float from_mini(MiniFloat type, uint8_t code) {
    const uint32_t magnitude = code & type.last(), sign = static_cast<uint32_t>(code >> type.sign_bit() & 1) << 31;
    // Moved into place a code is a binary32 number, too small by the difference of the biases.
    const float number = bits_to_float(magnitude << (23 - type.fraction_bits)) * bits_to_float(power_bits(127 - type.bias));
    const uint32_t special = type.infinity && magnitude == type.top + 1 ? 0x7f800000u : 0x7fc00000u;
    return bits_to_float((magnitude > type.top ? special : float_to_bits(number)) | sign);
}

// 2^exponent exactly, for exponents of -149 to 127.
inline float power_of_two(int exponent) {
    return bits_to_float(exponent >= -126 ? power_bits(exponent) : 1u << (exponent + 149));
}

}  // namespace
}  // namespace fewbits
