// Error feedback over vectors of columns the obvious way: one row after another, one vector after another.
#pragma once
#include <cmath>

#include "fewbits/feedback.h"
#include "lattices.h"
#include "ternary_vectors.h"

namespace fewbits {
namespace {

struct FoundVector {
    int code;
    float value[8];
};

inline FoundVector nearest_ternary(const PointLadder& ladder, const float* x, const float* weight, float step, float shift) {
    FoundVector found;
    const Found up = nearest_point(TernaryVector{x, weight, step, ladder.both ? search::iq1_shift : shift});
    const Found down = ladder.both ? nearest_point(TernaryVector{x, weight, step, -search::iq1_shift}) : up;
    const bool lower = !(up.error <= down.error);
    const int point = lower ? down.point : up.point;
    found.code = lower ? point + points().shape.count : point;
    if (ladder.both) shift = lower ? -search::iq1_shift : search::iq1_shift;
    for (int e = 0; e < 8; ++e) found.value[e] = step * (static_cast<float>(points().points[8 * point + e]) + shift);
    return found;
}

inline FoundVector nearest_signed(const PointLadder& ladder, const float* x, const float* weight, float step) {
    const Lattice& table = *lattice(ladder.lattice);
    FoundVector found;
    float magnitude[8];
    int signs = 0, flip = -1, all = 1;
    for (int e = 0; e < ladder.columns(); ++e) {
        magnitude[e] = std::fabs(x[e]);
        signs |= static_cast<int>(std::signbit(x[e])) << e;
    }
    Chosen kept[2], flipped[2];
    for (int part = 0; part < ladder.parts; ++part) {
        const int at = ladder.width * part;
        kept[part] = nearest_point(table, magnitude + at, weight + at, step);
        if (ladder.even) flipped[part] = nearest_flipped(table, magnitude + at, weight + at, step);
    }
    if (ladder.even && __builtin_parity(static_cast<unsigned>(signs)))
        flip = ladder.parts == 1 || flipped[0].error + kept[1].error <= kept[0].error + flipped[1].error ? 0 : 1;
    found.code = 0;
    for (int part = 0; part < ladder.parts; ++part) {
        const Chosen& chosen = part == flip ? flipped[part] : kept[part];
        if (part == flip) signs ^= 1 << (ladder.width * part + chosen.place);
        for (int e = 0; e < ladder.width; ++e)
            found.value[ladder.width * part + e] = table.points[ladder.width * chosen.point + e];
        found.code += chosen.point * all;
        all *= table.shape.count;
    }
    found.code += signs * all;
    for (int e = 0; e < ladder.columns(); ++e) found.value[e] = step * (signs >> e & 1 ? -found.value[e] : found.value[e]);
    return found;
}

inline void round_vectors(const PointLadder& ladder, const Vectors& c) {
    const int width = ladder.columns();
    for (int64_t row = 0; row < c.rows; ++row)
        for (int64_t v = 0; v < c.vectors; ++v) {
            float x[8];
            for (int e = 0; e < width; ++e) {
                double& target = c.target(row, v * width + e);
                for (int64_t i = 0; i < v * width; ++i) target += c.errors(row, i) * c.upper(i, v * width + e);
                x[e] = static_cast<float>(target);
            }
            const float* weight = c.weight + v * width;
            const float step = c.step(row, v);
            const FoundVector found = ladder.ternary ? nearest_ternary(ladder, x, weight, step, c.shift(row, v))
                                                     : nearest_signed(ladder, x, weight, step);
            c.codes(row, v) = found.code;
            for (int e = 0; e < width; ++e) {
                c.errors(row, v * width + e) = static_cast<double>(c.w(row, v * width + e)) - static_cast<double>(found.value[e]);
                c.target(row, v * width + e) -= static_cast<double>(found.value[e]);
            }
        }
}

}  // namespace
}  // namespace fewbits
