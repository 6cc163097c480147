// The scalar table: FEWBITS_ISA=scalar, the fallback of every machine and the reference of every kernel test.
#include <cmath>

#include "fewbits/families.h"
#include "numbers.h"

namespace fewbits {
namespace {

void extent(Number kind, const void* numbers, int64_t count, float* absmax, int64_t* not_finite) {
    const int64_t width = kind == Number::f32 ? 4 : 2;
    *absmax = 0;
    *not_finite = 0;
    for (int64_t i = 0; i < count; ++i) {
        float w;
        widen(kind, static_cast<const uint8_t*>(numbers) + i * width, 1, &w);
        if (!std::isfinite(w)) ++*not_finite;
        else *absmax = std::fmax(*absmax, std::fabs(w));
    }
}

Deviation deviation(const float* w, const float* stored, int64_t count) {
    double error[16] = {}, square[16] = {};
    for (int64_t i = 0; i < count; ++i) {
        const double x = w[i], r = x - static_cast<double>(stored[i]);
        error[i % 16] += r * r;
        square[i % 16] += x * x;
    }
    Deviation sum{0.0, 0.0};
    for (int lane = 0; lane < 16; ++lane) {
        sum.squared_error += error[lane];
        sum.squared += square[lane];
    }
    return sum;
}

}  // namespace

FEWBITS_TABLE(widen, extent, deviation)

}  // namespace fewbits
