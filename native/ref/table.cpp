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

float plus_square(float sum, float x) { return std::fma(x, x, sum); }
double plus_square(double sum, double x) { return sum + x * x; }

// Adds the squares of a tile to each lane's total, in the precision of Real.
template <typename Real>
void add_tile(const float* w, const float* stored, int64_t count, double* error, double* square) {
    Real errors[16] = {}, squares[16] = {};
    for (int64_t i = 0; i < count; ++i) {
        const Real x = w[i], r = x - static_cast<Real>(stored[i]);
        errors[i % 16] = plus_square(errors[i % 16], r);
        squares[i % 16] = plus_square(squares[i % 16], x);
    }
    for (int lane = 0; lane < 16; ++lane) {
        error[lane] += static_cast<double>(errors[lane]);
        square[lane] += static_cast<double>(squares[lane]);
    }
}

Deviation deviation(Number kind, const void* numbers, const float* stored, int64_t count) {
    double error[16] = {}, square[16] = {};
    Deviation sum{0.0, 0.0, 0.0f};
    for (int64_t first = 0; first < count; first += deviation_tile) {
        const int64_t present = count - first < deviation_tile ? count - first : deviation_tile;
        const int64_t width = kind == Number::f32 ? 4 : 2;
        float w[deviation_tile], largest = 0;
        widen(kind, static_cast<const uint8_t*>(numbers) + first * width, present, w);
        for (int64_t i = 0; i < present; ++i) largest = std::fmax(largest, std::fabs(w[i]));
        sum.largest = std::fmax(sum.largest, largest);
        const bool narrow = largest > squares_from && largest <= squares_to;
        (narrow ? add_tile<float> : add_tile<double>)(w, stored + first, present, error, square);
    }
    for (int lane = 0; lane < 16; ++lane) {
        sum.squared_error += error[lane];
        sum.squared += square[lane];
    }
    return sum;
}

}  // namespace

FEWBITS_TABLE(widen, extent, deviation)

}  // namespace fewbits
