// The way from one sum back to a code, and the sum of two codes.
#pragma once
#include <algorithm>
#include <cmath>

#include "fewbits/whole.h"

namespace fewbits {
namespace {

inline uint8_t coded(double real, const Bounds& bounds) {
    const double whole = std::min(std::max(std::floor(real), static_cast<double>(bounds.low)), static_cast<double>(bounds.high));
    return static_cast<uint8_t>(static_cast<int32_t>(whole) + bounds.zero);
}

inline uint8_t requantized(int32_t sum, int64_t row, const Requantization& how) {
    return coded(static_cast<double>(sum + how.offset[row]) * how.factor[row] + how.half[row], how.bounds);
}

inline uint8_t added(uint8_t one, uint8_t other, const Addition& how) {
    double sum = 0;
    for (int side : {0, 1}) {
        const uint8_t code = side ? other : one;
        sum += ((how.is_signed[side] ? static_cast<int8_t>(code) : code) - how.zero[side]) * how.m[side];
    }
    return coded(sum * how.factor + how.half, how.bounds);
}

}  // namespace
}  // namespace fewbits
