// Vectors of eight from a lattice of -1, 0 and 1, all shifted by an eighth: the nearest point, by trying all.
#pragma once
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

inline const Lattice& points() { return *lattice("IQ1_S"); }

struct Found {
    int point;
    float error;
};

// Eight numbers under a step and a shift: what each costs at each level.
struct TernaryVector {
    const float *x, *w;
    float step, shift;

    float error(int e, int level) const {
        const float r = step * (static_cast<float>(level - 1) + shift) - x[e];
        return (w[e] * r) * r;
    }

    // Of the four columns from `from` on at the levels that are the digits of `half`, the first one counting most.
    float half_error(int from, int half) const {
        return (error(from, half / 27) + error(from + 1, half / 9 % 3)) + (error(from + 2, half / 3 % 3) + error(from + 3, half % 3));
    }

    // Every column at its nearest level, the lower one of equals.
    int nearest_half(int from) const {
        int half = 0;
        for (int e = from; e < from + 4; ++e) {
            int nearest = 0;
            for (int level = 1; level < 3; ++level)
                if (error(e, level) < error(e, nearest)) nearest = level;
            half = 3 * half + nearest;
        }
        return half;
    }
};

// The point of least error: that of the nearest levels where there is one. Of equally near points the one with the
// smallest first half, then with the nearest second half, then the first.
inline Found nearest_point(const TernaryVector& vector) {
    const Lattice& table = points();
    const int nearest[2] = {vector.nearest_half(0), vector.nearest_half(4)};
    if (const int point = table.of_halves[81 * nearest[0] + nearest[1]]; point >= 0)
        return {point, vector.half_error(0, nearest[0]) + vector.half_error(4, nearest[1])};
    float first[81], second[81];
    for (int half = 0; half < 81; ++half) {
        first[half] = vector.half_error(0, half);
        second[half] = vector.half_error(4, half);
    }
    int best = 0;
    const auto before = [&](int p, int q) {
        const float error[2] = {first[table.first[p]] + second[table.second[p]], first[table.first[q]] + second[table.second[q]]};
        if (error[0] != error[1]) return error[0] < error[1];
        if (table.first[p] != table.first[q]) return table.first[p] < table.first[q];
        return second[table.second[p]] < second[table.second[q]];
    };
    for (int p = 1; p < table.shape.count; ++p)
        if (before(p, best)) best = p;
    return {best, first[table.first[best]] + second[table.second[best]]};
}

}  // namespace
}  // namespace fewbits
