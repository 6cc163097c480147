// The errors of everything that half a point can be, for one vector of columns in each lane; and from them the nearest
// points. Errors are summed in a tree: of pairs, of pairs of pairs, of halves. A point costs one addition, and because
// rounding keeps order, the least sum of a half and any of its ends is its sum with the least of them.
#pragma once
#include "batch.h"
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

constexpr int squared(int x) { return x * x; }

template <int width, int levels>
struct LatticeHalves {
    static constexpr int pairs = squared(levels), count = width == 8 ? squared(pairs) : pairs;
    alignas(64) float errors[width * levels * Vec::lanes];
    alignas(64) float first[count * Vec::lanes], second[count * Vec::lanes];

    Vec error(int e, int level) const { return Vec::load(errors + (e * levels + level) * Vec::lanes); }

    // What each level of each number costs: weight * (step * level - x)^2; element e lies at x[batch * e].
    void measure(const int8_t* level, const float* x, const float* weights, Vec step) {
        Vec candidates[levels];
        for (int l = 0; l < levels; ++l) candidates[l] = step * Vec::all(static_cast<float>(level[l]));
        for (int e = 0; e < width; ++e) {
            const Vec own = Vec::load(x + batch * e), weight = Vec::load(weights + batch * e);
            for (int l = 0; l < levels; ++l) {
                const Vec r = candidates[l] - own;
                ((weight * r) * r).store(errors + (e * levels + l) * Vec::lanes);
            }
        }
    }

    // out[i * levels + j] = errors of level i in element e plus level j in element e + 1.
    void sum_pairs(int e, Vec* out) const {
        for (int i = 0; i < levels; ++i)
            for (int j = 0; j < levels; ++j) out[i * levels + j] = error(e, i) + error(e + 1, j);
    }

    void sum_half(int e, float* half) const {
        Vec left[pairs], right[pairs];
        sum_pairs(e, left);
        if (width == 4) {
            for (int i = 0; i < pairs; ++i) left[i].store(half + i * Vec::lanes);
            return;
        }
        sum_pairs(e + 2, right);
        for (int i = 0; i < pairs; ++i)
            for (int j = 0; j < pairs; ++j) (left[i] + right[j]).store(half + (i * pairs + j) * Vec::lanes);
    }

    void sum() {
        sum_half(0, first);
        sum_half(width / 2, second);
    }

    // Of the points that begin with half h, the least error of what they end with; there must be one.
    static Vec least_end(const Lattice& lattice, int h, const float* ends) {
        const uint8_t *end = lattice.ends + lattice.fours[h], *last = lattice.ends + lattice.fours[h + 1];
        Vec least[4];
        for (int i = 0; i < 4; ++i) least[i] = Vec::load(ends + end[i] * Vec::lanes);
        while ((end += 4) < last)
            for (int i = 0; i < 4; ++i) least[i] = min(least[i], Vec::load(ends + end[i] * Vec::lanes));
        return min(min(least[0], least[1]), min(least[2], least[3]));
    }

    Vec least(const Lattice& lattice) const {
        Vec found = Vec::all(bits_to_float(0x7f800000u));
        for (int h = 0; h < count; ++h)
            if (lattice.fours[h] < lattice.fours[h + 1])
                found = min(found, Vec::load(first + h * Vec::lanes) + least_end(lattice, h, second));
        return found;
    }
};

// The sums of the same errors where, in each half, one number has its flipped error: the best one for it.
template <int width, int levels>
struct FlippedHalves {
    using Plain = LatticeHalves<width, levels>;
    static constexpr int pairs = Plain::pairs, count = Plain::count;
    Plain flipped;  // its sums are those with one flip, not with all

    void sum_pairs(const Plain& plain, int e, Vec* sums, Vec* flips) const {
        plain.sum_pairs(e, sums);
        for (int i = 0; i < levels; ++i)
            for (int j = 0; j < levels; ++j)
                flips[i * levels + j] =
                    min(flipped.error(e, i) + plain.error(e + 1, j), plain.error(e, i) + flipped.error(e + 1, j));
    }

    void sum_half(const Plain& plain, int e, float* half) const {
        Vec left[pairs], right[pairs], left_flips[pairs], right_flips[pairs];
        sum_pairs(plain, e, left, left_flips);
        if (width == 4) {
            for (int i = 0; i < pairs; ++i) left_flips[i].store(half + i * Vec::lanes);
            return;
        }
        sum_pairs(plain, e + 2, right, right_flips);
        for (int i = 0; i < pairs; ++i)
            for (int j = 0; j < pairs; ++j)
                min(left_flips[i] + right[j], left[i] + right_flips[j]).store(half + (i * pairs + j) * Vec::lanes);
    }

    void sum(const Plain& plain) {
        sum_half(plain, 0, flipped.first);
        sum_half(plain, width / 2, flipped.second);
    }
};

}  // namespace
}  // namespace fewbits
