// The nearest point for one vector of columns in each lane, and the sign that it gives up where their number has to be
// even: found for all lanes by half, then lane by lane. Of equally near points the first is taken, in this order: by the
// half that a point begins with, by the error of what it ends with, by its index.
#pragma once
#include "lattice_halves.h"

namespace fewbits {
namespace {

template <int width, int levels>
class LatticeChoice {
  public:
    using Halves = LatticeHalves<Vec, width, levels>;
    alignas(64) float least[Vec::lanes], least_flipped[Vec::lanes];  // errors with all signs kept, with one given up

    void measure(const Lattice& lattice, const float* magnitudes, const float* weights, Vec step) {
        fewbits::measure(lattice.shape.level, magnitudes, weights, step, &plain_);
        plain_.sum();
        Vec best = beyond_all<Vec>(), half = Vec::all(0.0f);
        for (int h = 0; h < Halves::count; ++h) {
            if (lattice.fours[h] == lattice.fours[h + 1]) continue;
            const Vec error = at(plain_.first, h) + Halves::least_end(lattice, h, plain_.second);
            take_lower(error, h, &best, &half);
        }
        best.store(least);
        half.store(half_);
    }

    // After `measure`: the same where one sign is given up; `opposite` are the magnitudes below zero.
    void measure_flipped(const Lattice& lattice, const float* opposite, const float* weights, Vec step) {
        fewbits::measure(lattice.shape.level, opposite, weights, step, &flip_.flipped);
        flip_.sum(plain_);
        Vec best = beyond_all<Vec>(), half = Vec::all(0.0f);
        for (int h = 0; h < Halves::count; ++h) {
            if (lattice.fours[h] == lattice.fours[h + 1]) continue;
            const Vec in_first = at(flip_.flipped.first, h) + Halves::least_end(lattice, h, plain_.second);
            const Vec in_second = at(plain_.first, h) + Halves::least_end(lattice, h, flip_.flipped.second);
            take_lower(min(in_first, in_second), h, &best, &half);
        }
        best.store(least_flipped);
        half.store(flipped_half_);
    }

    int point(const Lattice& lattice, int lane) const {
        float error;
        return first_least(lattice, static_cast<int>(half_[lane]), plain_.second, lane, &error);
    }

    // The point, and in `place` the number that takes the other sign.
    int flipped_point(const Lattice& lattice, int lane, int* place) const {
        const int h = static_cast<int>(flipped_half_[lane]);
        float plain_end, flipped_end;
        const int in_first = first_least(lattice, h, plain_.second, lane, &plain_end);
        const int in_second = first_least(lattice, h, flip_.flipped.second, lane, &flipped_end);
        const float first = flip_.flipped.first[h * Vec::lanes + lane] + plain_end;
        const float second = plain_.first[h * Vec::lanes + lane] + flipped_end;
        const int found = first <= second ? in_first : in_second;
        *place = place_of(lattice, lattice.points + width * found, lane);
        return found;
    }

  private:
    Halves plain_;
    FlippedHalves<width, levels> flip_;
    alignas(64) float half_[Vec::lanes], flipped_half_[Vec::lanes];

    static Vec at(const float* halves, int h) { return Vec::load(halves + h * Vec::lanes); }

    static void take_lower(Vec error, int h, Vec* best, Vec* half) {
        const Mask lower = error < *best;
        *best = select(lower, error, *best);
        *half = select(lower, Vec::all(static_cast<float>(h)), *half);
    }

    static int first_least(const Lattice& lattice, int h, const float* ends, int lane, float* error) {
        const uint8_t *first = lattice.ends + lattice.fours[h], *last = lattice.ends + lattice.fours[h + 1];
        const uint8_t* found = first;
        *error = ends[*found * Vec::lanes + lane];
        for (const uint8_t* end = first; end < last; ++end) {
            const float other = ends[*end * Vec::lanes + lane];
            if (other < *error) {
                *error = other;
                found = end;
            }
        }
        return lattice.sorted[lattice.begin[h] + (found - first)];
    }

    // Down the tree of sums to the number that is best flipped, to the left where both sides are as good.
    int place_of(const Lattice& lattice, const int8_t* point, int lane) const {
        float sums[width], flips[width];
        for (int e = 0; e < width; ++e) {
            int level = 0;
            while (lattice.shape.level[level] != point[e]) ++level;
            sums[e] = plain_.errors[(e * levels + level) * Vec::lanes + lane];
            flips[e] = flip_.flipped.errors[(e * levels + level) * Vec::lanes + lane];
        }
        int places[width];
        for (int e = 0; e < width; ++e) places[e] = e;
        for (int n = width / 2; n > 0; n /= 2)
            for (int i = 0; i < n; ++i) {
                const float left = flips[2 * i] + sums[2 * i + 1], right = sums[2 * i] + flips[2 * i + 1];
                places[i] = left <= right ? places[2 * i] : places[2 * i + 1];
                flips[i] = left <= right ? left : right;
                sums[i] = sums[2 * i] + sums[2 * i + 1];
            }
        return places[0];
    }
};

}  // namespace
}  // namespace fewbits
