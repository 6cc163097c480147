// IQ1: vectors of eight from a lattice of -1, 0 and 1, all shifted by an eighth up or down, under a step per group.
// Sixteen groups lie side by side; steps and scales are chosen with every number at its nearest level. Where those levels
// are no point, and cannot lose to the other shift anyway, all points are tried: such vectors are collected first, so
// that every lane has one to try.
#pragma once
#include "batch.h"
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

// Eight columns of Vec::lanes vectors, column e at x + stride * e; what a number costs at each level.
struct TernaryVectors {
    const float *x, *w;
    int stride;
    Vec step, shift;

    Vec error(int e, int level) const {
        const Vec r = step * (Vec::all(static_cast<float>(level - 1)) + shift) - Vec::load(x + stride * e);
        return (Vec::load(w + stride * e) * r) * r;
    }

    // Every number at its nearest level, the lower one of equals: the error, and the levels read as a number.
    Vec nearest_levels(Vec* digits) const {
        const Vec one = Vec::all(1.0f), two = Vec::all(2.0f), three = Vec::all(3.0f);
        Vec least[8], number = Vec::all(0.0f);
        for (int e = 0; e < 8; ++e) {
            const Vec low = error(e, 0), middle = error(e, 1), high = error(e, 2);
            const Mask above = middle < low, top = high < min(low, middle);
            least[e] = min(min(low, middle), high);
            number = number * three + select(top, two, select(above, one, Vec::all(0.0f)));
        }
        *digits = number;
        return ((least[0] + least[1]) + (least[2] + least[3])) + ((least[4] + least[5]) + (least[6] + least[7]));
    }
};

// The nearest of all points. A point is a pair of halves, and a half has 81 forms: their errors are made first, and of
// the points that begin alike the least second half is enough to know.
class TernarySearch {
  public:
    explicit TernarySearch(const Lattice& table) : table_(table) {}

    // Returns the errors; the points' numbers go to `points`, one per lane.
    Vec nearest(const TernaryVectors& vectors, int* points) {
        half_errors(vectors, 0, first_);
        half_errors(vectors, 4, second_);
        const Vec infinite = Vec::all(bits_to_float(0x7f800000u));
        Vec least = infinite, least_end = infinite, half = Vec::all(0.0f);
        for (int h = 0; h < forms; ++h) {
            Vec end = infinite;
            for (int i = table_.fours[h]; i < table_.fours[h + 1]; i += 4)
                end = min(end, min(min(second(i), second(i + 1)), min(second(i + 2), second(i + 3))));
            const Vec total = Vec::load(first_ + Vec::lanes * h) + end;
            const Mask nearer = total < least;
            least = select(nearer, total, least);
            least_end = select(nearer, end, least_end);
            half = select(nearer, Vec::all(static_cast<float>(h)), half);
        }
        find_points(half, least_end, points);
        return least;
    }

  private:
    static constexpr int forms = 81;
    const Lattice& table_;
    alignas(64) float first_[forms * Vec::lanes], second_[forms * Vec::lanes];

    Vec second(int i) const { return Vec::load(second_ + Vec::lanes * table_.ends[i]); }

    // Errors of everything that four columns can be, summed by pairs; the first column counts most.
    static void half_errors(const TernaryVectors& vectors, int from, float* errors) {
        Vec pair[2][9];
        for (int p = 0; p < 2; ++p)
            for (int i = 0; i < 9; ++i)
                pair[p][i] = vectors.error(from + 2 * p, i / 3) + vectors.error(from + 2 * p + 1, i % 3);
        for (int i = 0; i < 9; ++i)
            for (int j = 0; j < 9; ++j) (pair[0][i] + pair[1][j]).store(errors + Vec::lanes * (9 * i + j));
    }

    // The first point that begins with `half` and whose second half has the error `end`, lane by lane.
    void find_points(Vec half, Vec end, int* points) const {
        float halves[Vec::lanes], ends[Vec::lanes];
        half.store(halves);
        end.store(ends);
        for (int lane = 0; lane < Vec::lanes; ++lane) {
            const int first = static_cast<int>(halves[lane]);
            int i = table_.fours[first];
            while (i < table_.fours[first + 1] - 1 && second_[Vec::lanes * table_.ends[i] + lane] != ends[lane]) ++i;
            points[lane] = table_.of_halves[forms * first + table_.ends[i]];
        }
    }
};

// Groups of `length` columns with a scale each, `shared` columns with a shift in common; sixteen groups at once.
template <int length, int shared>
class TernarySpans {
  public:
    static constexpr int groups = 256 / length, spans = batch / groups, vectors = length / 8;

    TernarySpans(const float* w, const float* weights, const Lattice& table) : table_(table), search_(table) {
        to_columns(w, length, x_);
        to_columns(weights, length, w_);
        for (int g = 0; g < batch; g += Vec::lanes) best_steps(g);
        for (float& error : least_) error = bits_to_float(0x7f800000u);
        for (const float units : search::iq1_units) {
            for (int s = 0; s < spans; ++s) set_unit(s, units);
            for (int g = 0; g < batch; g += Vec::lanes) round_scales(g);
            for (int s = 0; s < spans; ++s) keep_better(s);
        }
        for (int g = 0; g < batch; g += Vec::lanes) try_nearest_levels(g);
        search_sides([this](int g, int v) { return bound(1, g, v) < bound(0, g, v); });
        search_others();
        for (int g = 0; g < batch; ++g)
            for (int v = 0; v < vectors; v += together) choose_side(g, v);
    }

    half_bits d(int s) const { return d_bits_[s]; }
    int scale(int s, int g) const { return static_cast<int>(scale_[groups * s + g]); }
    int point(int s, int vector) const { return point_[groups * s + vector / vectors][vector % vectors]; }
    bool down(int s, int vector) const { return down_[groups * s + vector / vectors][vector % vectors]; }

  private:
    static constexpr int together = shared / 8;  // vectors with a shift in common
    struct Wanted { int side, vector, group; };

    const Lattice& table_;
    TernarySearch search_;
    alignas(64) float x_[length * batch], w_[length * batch];
    alignas(64) float step_[batch], unit_[batch], near_[batch], error_[batch], d_[batch], scale_[batch];
    float least_[spans];
    half_bits unit_bits_[spans], d_bits_[spans] = {};
    int point_[batch][vectors];
    bool down_[batch][vectors];
    alignas(64) float vector_error_[2][vectors][batch];  // by shift, up and down
    int found_[2][vectors][batch];                       // points, or -1
    uint8_t searched_[vectors][batch];
    alignas(64) float wanted_x_[8 * Vec::lanes] = {}, wanted_w_[8 * Vec::lanes] = {};
    alignas(64) float wanted_step_[Vec::lanes] = {}, wanted_shift_[Vec::lanes] = {};
    Wanted wanted_[Vec::lanes];
    int collected_ = 0;

    static float shift_of(int side) { return side ? -search::iq1_shift : search::iq1_shift; }

    // Up to the energy of the numbers.
    static Vec error(Vec step, Vec slx, Vec sll) { return step * (step * sll - Vec::all(2.0f) * slx); }

    // Sums of w * number * x and w * number^2, each number at its nearest level and every shift at its best.
    void moments(int g, Vec step, Vec* slx, Vec* sll) const {
        const Vec inv = inverse(step), one = Vec::all(1.0f), minus_one = Vec::all(-1.0f);
        const Vec up = Vec::all(search::iq1_shift), down = Vec::all(-search::iq1_shift);
        Vec sum_x = Vec::all(0.0f), sum_l = sum_x;
        for (int at = 0; at < length; at += shared) {
            Vec up_x = Vec::all(0.0f), up_l = up_x, down_x = up_x, down_l = up_x;
            for (int e = at; e < at + shared; ++e) {
                const Vec x = Vec::load(x_ + batch * e + g), w = Vec::load(w_ + batch * e + g), scaled = x * inv;
                const Vec above = clamp(round_even(scaled - up), minus_one, one) + up, w_above = w * above;
                const Vec below = clamp(round_even(scaled - down), minus_one, one) + down, w_below = w * below;
                up_x = up_x + w_above * x;
                up_l = up_l + w_above * above;
                down_x = down_x + w_below * x;
                down_l = down_l + w_below * below;
            }
            const Mask lower = error(step, down_x, down_l) < error(step, up_x, up_l);
            sum_x = sum_x + select(lower, down_x, up_x);
            sum_l = sum_l + select(lower, down_l, up_l);
        }
        *slx = sum_x;
        *sll = sum_l;
    }

    void best_steps(int g) {
        const Vec zero = Vec::all(0.0f);
        Vec largest = zero, best = zero, step = zero;
        for (int e = 0; e < length; ++e) largest = max(largest, abs(Vec::load(x_ + batch * e + g)));
        largest = select(largest > Vec::all(search::narrowest), largest, zero);
        for (const float level : search::iq1_levels) {
            Vec slx, sll;
            moments(g, largest * Vec::all(level), &slx, &sll);
            const Vec candidate = slx * inverse(sll), gain = candidate * slx;
            const Mask better = gain > best;
            best = select(better, gain, best);
            step = select(better, candidate, step);
        }
        max(step, zero).store(step_ + g);
    }

    void set_unit(int s, float units) {
        float largest = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) largest = step_[g] > largest ? step_[g] : largest;
        unit_bits_[s] = stored_half(largest / units);
        for (int g = groups * s; g < groups * (s + 1); ++g) unit_[g] = half_to_float(unit_bits_[s]);
    }

    // The best of three scales around each step.
    void round_scales(int g) {
        const Vec unit = Vec::load(unit_ + g), one = Vec::all(1.0f), two = Vec::all(2.0f);
        const Vec rounded = round_even((Vec::load(step_ + g) * inverse(unit) - one) * Vec::all(0.5f));
        Vec scale = Vec::all(0.0f), least = Vec::all(bits_to_float(0x7f800000u));
        for (int off = -1; off <= 1; ++off) {
            const Vec near = clamp(rounded + Vec::all(static_cast<float>(off)), Vec::all(0.0f), Vec::all(7.0f));
            const Vec step = unit * (two * near + one);
            Vec slx, sll;
            moments(g, step, &slx, &sll);
            const Vec candidate = error(step, slx, sll);
            const Mask better = candidate < least;
            least = select(better, candidate, least);
            scale = select(better, near, scale);
        }
        scale.store(near_ + g);
        least.store(error_ + g);
    }

    void keep_better(int s) {
        float total = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) total += error_[g];
        if (!(total < least_[s])) return;
        least_[s] = total;
        d_bits_[s] = unit_bits_[s];
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            d_[g] = unit_[g];
            scale_[g] = near_[g];
        }
    }

    // For both shifts, the error with every number at its nearest level, and the point where that is one.
    void try_nearest_levels(int g) {
        const Vec step = Vec::load(d_ + g) * (Vec::all(2.0f) * Vec::load(scale_ + g) + Vec::all(1.0f));
        step.store(step_ + g);
        for (int side = 0; side < 2; ++side)
            for (int v = 0; v < vectors; ++v) {
                const int e = batch * 8 * v + g;
                float digits[Vec::lanes];
                Vec number;
                const TernaryVectors some{x_ + e, w_ + e, batch, step, Vec::all(shift_of(side))};
                some.nearest_levels(&number).store(vector_error_[side][v] + g);
                number.store(digits);
                for (int lane = 0; lane < Vec::lanes; ++lane)
                    found_[side][v][g + lane] = table_.of_halves[static_cast<int>(digits[lane])];
            }
    }

    // The error of the vectors that share a shift with v, from v on; at least that, where no point was found yet.
    float bound(int side, int g, int v) const {
        float sum = 0.0f;
        for (int i = v; i < v + together; ++i) sum += vector_error_[side][i][g];
        return sum;
    }

    // Finds the points of the side that `pick` says, where there are none yet.
    template <typename Pick>
    void search_sides(Pick pick) {
        for (int g = 0; g < batch; ++g)
            for (int v = 0; v < vectors; v += together) {
                const int side = pick(g, v);
                searched_[v][g] = static_cast<uint8_t>(side);
                collect(side, g, v);
            }
        if (collected_) try_collected();
    }

    // The other side's points, where its bound leaves it a chance; up wins where both are equal.
    void search_others() {
        for (int g = 0; g < batch; ++g)
            for (int v = 0; v < vectors; v += together) {
                const int side = searched_[v][g];
                const float known = bound(side, g, v), least = bound(1 - side, g, v);
                if (side ? least <= known : least < known) collect(1 - side, g, v);
            }
        if (collected_) try_collected();
    }

    void collect(int side, int g, int v) {
        for (int i = v; i < v + together; ++i) {
            if (found_[side][i][g] >= 0) continue;
            for (int e = 0; e < 8; ++e) {
                wanted_x_[Vec::lanes * e + collected_] = x_[batch * (8 * i + e) + g];
                wanted_w_[Vec::lanes * e + collected_] = w_[batch * (8 * i + e) + g];
            }
            wanted_step_[collected_] = step_[g];
            wanted_shift_[collected_] = shift_of(side);
            wanted_[collected_++] = {side, i, g};
            if (collected_ == Vec::lanes) try_collected();
        }
    }

    // Lanes that nothing was collected for keep what they had: nobody reads their points.
    void try_collected() {
        int points[Vec::lanes];
        float errors[Vec::lanes];
        const TernaryVectors some{wanted_x_, wanted_w_, Vec::lanes, Vec::load(wanted_step_), Vec::load(wanted_shift_)};
        search_.nearest(some, points).store(errors);
        for (int lane = 0; lane < collected_; ++lane) {
            const Wanted& from = wanted_[lane];
            vector_error_[from.side][from.vector][from.group] = errors[lane];
            found_[from.side][from.vector][from.group] = points[lane];
        }
        collected_ = 0;
    }

    void choose_side(int g, int v) {
        const bool down = !(bound(0, g, v) <= bound(1, g, v));
        for (int i = v; i < v + together; ++i) {
            point_[g][i] = found_[down][i][g];
            down_[g][i] = down;
        }
    }
};

}  // namespace
}  // namespace fewbits
