// The errors of everything that half a point can be, for one vector of columns in each lane; and from them the nearest
// points. Errors are summed in a tree: of pairs, of pairs of pairs, of halves. A point costs one addition, and because
// rounding keeps order, the least sum of a half and any of its ends is its sum with the least of them.
#pragma once
#include "batch.h"
#include "fewbits/lattices.h"
#include "words.h"

namespace fewbits {
namespace {

// The errors of two points of a group in one lane, as whole numbers of at most 32767: half the work.
struct Counts {
    Words words;
    static Counts load(const float* p) { return {load_words(p)}; }
    void store(float* p) const { store_words(words, p); }
};
inline Counts operator+(Counts a, Counts b) { return {capped_sum(a.words, b.words)}; }
inline Counts min(Counts a, Counts b) { return {min(a.words, b.words)}; }

// More than any point costs.
template <typename T>
T beyond_all();
template <>
inline Vec beyond_all<Vec>() { return Vec::all(bits_to_float(0x7f800000u)); }
template <>
inline Counts beyond_all<Counts>() { return {all_words(32767)}; }

constexpr int squared(int x) { return x * x; }

template <typename T, int width, int levels>
struct LatticeHalves {
    static constexpr int pairs = squared(levels), count = width == 8 ? squared(pairs) : pairs;
    alignas(64) float errors[width * levels * Vec::lanes];
    alignas(64) float first[count * Vec::lanes], second[count * Vec::lanes];

    T error(int e, int level) const { return T::load(errors + (e * levels + level) * Vec::lanes); }

    // out[i * levels + j] = errors of level i in element e plus level j in element e + 1.
    void sum_pairs(int e, T* out) const {
        for (int i = 0; i < levels; ++i)
            for (int j = 0; j < levels; ++j) out[i * levels + j] = error(e, i) + error(e + 1, j);
    }

    void sum_half(int e, float* half) const {
        T left[pairs], right[pairs];
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
    static T least_end(const Lattice& lattice, int h, const float* ends) {
        const uint8_t *end = lattice.ends + lattice.fours[h], *last = lattice.ends + lattice.fours[h + 1];
        T least[4];
        for (int i = 0; i < 4; ++i) least[i] = T::load(ends + end[i] * Vec::lanes);
        while ((end += 4) < last)
            for (int i = 0; i < 4; ++i) least[i] = min(least[i], T::load(ends + end[i] * Vec::lanes));
        return min(min(least[0], least[1]), min(least[2], least[3]));
    }

    // The error of the nearest point, from `errors` alone.
    T least(const Lattice& lattice) {
        constexpr int second_pairs = width == 8 ? pairs : 1;
        T left[pairs], right[pairs], found = beyond_all<T>();
        sum_half(width / 2, second);
        sum_pairs(0, left);
        if (width == 8) sum_pairs(2, right);
        for (int i = 0; i < pairs; ++i)
            for (int j = 0; j < second_pairs; ++j) {
                const int h = i * second_pairs + j;
                if (lattice.fours[h] == lattice.fours[h + 1]) continue;
                const T begin = width == 8 ? left[i] + right[j] : left[i];
                found = min(found, begin + least_end(lattice, h, second));
            }
        return found;
    }
};

// What each level of each number costs: weight * (step * level - x)^2; element e lies at x[batch * e].
template <int width, int levels>
void measure(const int8_t* level, const float* x, const float* weights, Vec step, LatticeHalves<Vec, width, levels>* halves) {
    Vec candidates[levels];
    for (int l = 0; l < levels; ++l) candidates[l] = step * Vec::all(static_cast<float>(level[l]));
    for (int e = 0; e < width; ++e) {
        const Vec own = Vec::load(x + batch * e), weight = Vec::load(weights + batch * e);
        for (int l = 0; l < levels; ++l) {
            const Vec r = candidates[l] - own;
            ((weight * r) * r).store(halves->errors + (e * levels + l) * Vec::lanes);
        }
    }
}

// The same for two points, one after the other, rounded to whole numbers.
template <int width, int levels>
void measure(const int8_t* level, const float* x, const float* weights, Vec step, LatticeHalves<Counts, width, levels>* halves) {
    const Vec most = Vec::all(32767.0f);
    Vec candidates[levels];
    for (int l = 0; l < levels; ++l) candidates[l] = step * Vec::all(static_cast<float>(level[l]));
    for (int e = 0; e < width; ++e) {
        const float *other = x + batch * width, *other_weights = weights + batch * width;
        const Vec first = Vec::load(x + batch * e), second = Vec::load(other + batch * e);
        const Vec first_weight = Vec::load(weights + batch * e), second_weight = Vec::load(other_weights + batch * e);
        for (int l = 0; l < levels; ++l) {
            const Vec r = candidates[l] - first, s = candidates[l] - second;
            const Words both = round_words(min((first_weight * r) * r, most), min((second_weight * s) * s, most));
            store_words(both, halves->errors + (e * levels + l) * Vec::lanes);
        }
    }
}

// The sums of the same errors where, in each half, one number has its flipped error: the best one for it.
template <int width, int levels>
struct FlippedHalves {
    using Plain = LatticeHalves<Vec, width, levels>;
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
