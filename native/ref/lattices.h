// Lattices, one vector and one point after another: every point is tried, and for every point every sign that may be
// given up. Never optimized, the meaning of native/simd/lattice_*.h.
#pragma once
#include <limits>
#include <tuple>

#include "fewbits/lattices.h"
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

struct LatticeKind {
    const char* name;
    int width, parts, length;  // columns of a point, points of a vector, columns of a group
    bool even;                 // whether a vector has an even number of negative columns
    float unit;
    const float (&steps)[7];
    float spread;  // of the mean square, in the weights of an importance
    bool rooted;   // the own weights
    int vector() const { return width * parts; }
    int groups() const { return 256 / length; }
};

using Row = std::vector<float>;

// A sum in a tree: of the left half plus that of the right one.
inline float tree_sum(const float* x, int n) { return n == 1 ? x[0] : tree_sum(x, n / 2) + tree_sum(x + n / 2, n / 2); }

// The least such sum with one of the numbers replaced by its flipped one, and which: the left one of equals.
inline float flipped_sum(const float* x, const float* flipped, int n, int* place) {
    *place = 0;
    if (n == 1) return flipped[0];
    const int half = n / 2;
    int left_place, right_place;
    const float left = flipped_sum(x, flipped, half, &left_place) + tree_sum(x + half, half);
    const float right = tree_sum(x, half) + flipped_sum(x + half, flipped + half, half, &right_place);
    *place = left <= right ? left_place : half + right_place;
    return left <= right ? left : right;
}

// What each column of each point costs a given vector under a given step.
class PointErrors {
  public:
    PointErrors(const Lattice& lattice, const float* x, const float* weight, float step) : lattice_(lattice) {
        for (int e = 0; e < width(); ++e)
            for (int l = 0; l < lattice.shape.levels; ++l) {
                const float r = step * static_cast<float>(lattice.shape.level[l]) - x[e], error = (weight[e] * r) * r;
                table_[e][lattice.shape.level[l]] = error;
                counts_[e][lattice.shape.level[l]] = static_cast<int>(std::nearbyint(std::fmin(error, 32767.0f)));
            }
    }
    int width() const { return lattice_.shape.width; }
    void of(int p, float* errors) const {
        for (int e = 0; e < width(); ++e) errors[e] = table_[e][lattice_.points[width() * p + e]];
    }
    float total(int p) const {
        float errors[8];
        of(p, errors);
        return tree_sum(errors, width());
    }
    // Whole numbers, each at most 32767.
    int count(int p) const {
        int sum = 0;
        for (int e = 0; e < width(); ++e) sum += counts_[e][lattice_.points[width() * p + e]];
        return sum;
    }

  private:
    const Lattice& lattice_;
    float table_[8][64];  // of each column, by number
    int counts_[8][64];
};

inline float least_error(const Lattice& lattice, const float* x, const float* weight, float step) {
    const PointErrors errors(lattice, x, weight, step);
    float least = std::numeric_limits<float>::infinity();
    for (int p = 0; p < lattice.shape.count; ++p) least = std::fmin(least, errors.total(p));
    return least;
}

inline int least_count(const Lattice& lattice, const float* x, const float* weight, float step) {
    const PointErrors errors(lattice, x, weight, step);
    int least = 32767;
    for (int p = 0; p < lattice.shape.count; ++p) least = std::min(least, errors.count(p));
    return least;
}

struct Chosen {
    float error = 0;
    int point = 0, place = 0;  // `place`: the column that takes the other sign
};

// The nearest point: of equals the one whose first half is least, then whose end costs least, then the first.
inline Chosen nearest_point(const Lattice& lattice, const float* x, const float* weight, float step) {
    const PointErrors errors(lattice, x, weight, step);
    using Rank = std::tuple<float, int, float, int>;
    Rank best(std::numeric_limits<float>::infinity(), 0, 0.0f, 0);
    for (int p = 0; p < lattice.shape.count; ++p) {
        float own[8];
        errors.of(p, own);
        const int half = errors.width() / 2;
        best = std::min(best, Rank(tree_sum(own, 2 * half), lattice.first[p], tree_sum(own + half, half), p));
    }
    return {std::get<0>(best), std::get<3>(best), 0};
}

// The same where one column takes the other sign; of equals one where that is in the first half.
inline Chosen nearest_flipped(const Lattice& lattice, const float* x, const float* weight, float step) {
    float opposite[8];
    for (int e = 0; e < lattice.shape.width; ++e) opposite[e] = -x[e];
    const PointErrors errors(lattice, x, weight, step), flipped(lattice, opposite, weight, step);
    const int half = errors.width() / 2;
    using Rank = std::tuple<float, int, int, float, int>;
    Rank best(std::numeric_limits<float>::infinity(), 0, 0, 0.0f, 0);
    Chosen chosen;
    for (int p = 0; p < lattice.shape.count; ++p) {
        float own[8], other[8];
        int place;
        errors.of(p, own);
        flipped.of(p, other);
        const float first = tree_sum(own, half), end = tree_sum(own + half, half);
        const float first_flip = flipped_sum(own, other, half, &place);
        const float end_flip = flipped_sum(own + half, other + half, half, &place);
        for (const Rank& rank : {Rank(first_flip + end, lattice.first[p], 0, end, p),
                                 Rank(first + end_flip, lattice.first[p], 1, end_flip, p)}) {
            if (!(rank < best)) continue;
            best = rank;
            chosen.point = p;
            flipped_sum(own, other, 2 * half, &chosen.place);
        }
    }
    chosen.error = std::get<0>(best);
    return chosen;
}

struct LatticeSpan {
    const LatticeKind& kind;
    const Lattice& points_of;
    const float *x, *weight;
    Row magnitude, towards, steps;  // `towards`: with the signs that are given up while fitting
    Row counted, worth;             // weights that make errors counts; what a count of each group is worth
    half_bits d = 0;
    std::vector<int> scale, point, sign;  // signs of eight columns each
    float least = std::numeric_limits<float>::infinity();

    LatticeSpan(const LatticeKind& kind_, const float* w, const float* weight_)
        : kind(kind_), points_of(*lattice(kind_.name)), x(w), weight(weight_), scale(kind_.groups()) {
        for (int c = 0; c < 256; ++c) magnitude.push_back(std::fabs(x[c]));
        take_signs();
        for (int g = 0; g < kind.groups(); ++g) steps.push_back(best_step(g));
        for (const float units : search::lattice_units) try_units(units * kind.unit);
        const half_bits start = d;
        for (const float nudge : search::lattice_nudges) try_nudge(stored_half(half_to_float(start) * nudge));
        for (int c = 0; c < 256; c += kind.vector()) choose(c);
    }

    void take_signs() {
        towards = magnitude;
        for (int c = 0; c < 256; c += 8) {
            int bits = 0, negative = 0, cheapest = c;
            for (int e = 0; e < 8; ++e) {
                bits |= static_cast<int>(std::signbit(x[c + e])) << e;
                negative += std::signbit(x[c + e]);
                if (cost(c + e) < cost(cheapest)) cheapest = c + e;
            }
            sign.push_back(bits);
            if (kind.even && negative % 2) towards[static_cast<size_t>(cheapest)] *= -1.0f;
        }
    }
    float cost(int c) const { return weight[c] * magnitude[static_cast<size_t>(c)]; }

    float exact_error(int g, float step) const {
        float sum = 0;
        for (int c = kind.length * g; c < kind.length * (g + 1); c += kind.width)
            sum += least_error(points_of, &towards[static_cast<size_t>(c)], weight + c, step);
        return sum;
    }

    float error(int g, float step) const {
        int sum = 0;
        for (int c = kind.length * g; c < kind.length * (g + 1); c += kind.width)
            sum += least_count(points_of, &towards[static_cast<size_t>(c)], &counted[static_cast<size_t>(c)], step);
        return static_cast<float>(sum) * worth[static_cast<size_t>(g)];
    }

    // A point of average error at the first step has search::lattice_counts counts.
    void set_counts(int g, float exact) {
        const float all = search::lattice_counts * static_cast<float>(kind.length / kind.width);
        float energy = 0;
        for (int c = kind.length * g; c < kind.length * (g + 1); ++c) energy += (weight[c] * magnitude[c]) * magnitude[c];
        const float reference = std::fmax(exact, energy * search::lattice_share);
        const float counts = reference > search::narrowest ? all / reference : 0.0f;
        for (int c = kind.length * g; c < kind.length * (g + 1); ++c) counted.push_back(weight[c] * counts);
        worth.push_back(reference * (1.0f / all));
    }

    float best_step(int g) {
        const auto begin = magnitude.begin() + kind.length * g;
        const float largest = *std::max_element(begin, begin + kind.length);
        const float whole = largest / static_cast<float>(points_of.shape.level[points_of.shape.levels - 1]);
        float best = whole, lowest = exact_error(g, whole);
        set_counts(g, lowest);
        for (const float level : kind.steps)
            if (const float found = error(g, whole * level); found < lowest) {
                lowest = found;
                best = whole * level;
            }
        return best;
    }

    static float step(float unit, int scale) { return unit * static_cast<float>(2 * scale + 1); }

    void try_units(float units) {
        const half_bits candidate = stored_half(*std::max_element(steps.begin(), steps.end()) / units);
        const float unit = kind.unit * half_to_float(candidate);
        std::vector<int> near;
        float total = 0;
        for (size_t g = 0; g < steps.size(); ++g) {
            const float rounded = std::nearbyint((steps[g] * inverse(unit) - 1.0f) * 0.5f);
            float lowest = std::numeric_limits<float>::infinity();
            near.push_back(0);
            for (const float off : {-1.0f, 0.0f, 1.0f}) {
                const int trial = static_cast<int>(clamp(rounded + off, 0.0f, 15.0f));
                const float found = error(static_cast<int>(g), step(unit, trial));
                if (found < lowest) near[g] = trial;
                lowest = std::fmin(lowest, found);
            }
            total += lowest;
        }
        if (!(total < least)) return;
        least = total;
        d = candidate;
        scale = near;
    }

    void try_nudge(half_bits candidate) {
        float total = 0;
        for (size_t g = 0; g < scale.size(); ++g)
            total += error(static_cast<int>(g), step(kind.unit * half_to_float(candidate), scale[g]));
        if (total < least) {
            least = total;
            d = candidate;
        }
    }

    // The points of the vector from column c on.
    void choose(int c) {
        const float own = step(kind.unit * half_to_float(d), scale[static_cast<size_t>(c / kind.length)]);
        std::vector<Chosen> kept, flipped;
        for (int part = 0; part < kind.parts; ++part) {
            const int at = c + kind.width * part;
            kept.push_back(nearest_point(points_of, &magnitude[static_cast<size_t>(at)], weight + at, own));
            flipped.push_back(nearest_flipped(points_of, &magnitude[static_cast<size_t>(at)], weight + at, own));
        }
        int& signs = sign[static_cast<size_t>(c / 8)];
        int flip = -1;  // the part that gives up a sign
        if (kind.even && __builtin_parity(static_cast<unsigned>(signs)))
            flip = kind.parts == 1 || flipped[0].error + kept[1].error <= kept[0].error + flipped[1].error ? 0 : 1;
        for (int part = 0; part < kind.parts; ++part) {
            const Chosen& chosen = part == flip ? flipped[static_cast<size_t>(part)] : kept[static_cast<size_t>(part)];
            point.push_back(chosen.point);
            if (part == flip) signs ^= 1 << (kind.width * part + chosen.place);
        }
    }
};

}  // namespace
}  // namespace fewbits
