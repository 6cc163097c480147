// A vector of one number, for kernels that are written for vectors of any length.
#pragma once
#include <algorithm>
#include <cmath>

#include "fewbits/half.h"

namespace fewbits {
namespace {

struct One {
    static constexpr int lanes = 1;
    float v;
    static One load(const float* p) { return {*p}; }
    static One all(float x) { return {x}; }
    void store(float* p) const { *p = v; }
};
inline One operator+(One a, One b) { return {a.v + b.v}; }
inline One operator-(One a, One b) { return {a.v - b.v}; }
inline One operator*(One a, One b) { return {a.v * b.v}; }
inline One operator/(One a, One b) { return {a.v / b.v}; }
inline One plus_product(One sum, One a, One b) { return {std::fma(a.v, b.v, sum.v)}; }
inline One less_product(One sum, One a, One b) { return {std::fma(-a.v, b.v, sum.v)}; }
inline One abs(One a) { return {std::fabs(a.v)}; }
inline One min(One a, One b) { return {a.v < b.v ? a.v : b.v}; }  // of a NaN the second, as vectors have it
inline One max(One a, One b) { return {a.v > b.v ? a.v : b.v}; }
inline One round_even(One a) { return {std::nearbyint(a.v)}; }
inline bool operator>(One a, One b) { return a.v > b.v; }
inline One select(bool m, One yes, One no) { return m ? yes : no; }
inline One load_half(const uint16_t* p) { return {half_to_float(*p)}; }
inline One load_bfloat(const uint16_t* p) { return {bits_to_float(static_cast<uint32_t>(*p) << 16)}; }
template <bool odd, typename V>
One load_bfloat_places(const uint16_t* p) { return load_bfloat(p + odd); }
inline void store_bfloat(One a, uint16_t* p) { *p = float_to_bfloat(a.v); }
inline float across(One a) { return a.v; }
inline void across_four(One a, One b, One c, One d, float* out) {
    out[0] = a.v;
    out[1] = b.v;
    out[2] = c.v;
    out[3] = d.v;
}
inline One power_of_two(One whole) { return {std::ldexp(1.0f, static_cast<int>(whole.v))}; }

}  // namespace
}  // namespace fewbits
