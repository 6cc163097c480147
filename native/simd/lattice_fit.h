// Lattice formats: w = d * (2 * scale[g] + 1) * unit * sign * point. A fit knows one thing, the error of a group under a
// step when every vector takes its nearest point (with given-up signs where they cost least), and tries
//   1. per group, its largest number over the largest of a point, and a few steps around that;
//   2. for each of two d, the scales around that step;
//   3. d a little smaller and larger.
// The first of these errors says how large errors are; the others are counted in small parts of it, in whole numbers, two
// points to a lane. `Shape` names the lattice (name, width, levels), the points of a vector (parts), whether its negative columns are even,
// the columns of a group (length), the unit and the steps to try.
#pragma once
#include "lattice_choice.h"

namespace fewbits {
namespace {

template <typename Shape>
class LatticeFit {
  public:
    static constexpr int length = Shape::length, width = Shape::width, vector = width * Shape::parts;
    static constexpr int groups = 256 / length, spans = batch / groups;

    explicit LatticeFit(const Lattice& lattice) : lattice_(lattice), top_(lattice.shape.level[Shape::levels - 1]) {}

    // Fits `spans` spans at once; missing ones are given as zeros.
    void fit(const float* w, const float* weights) {
        to_columns(w, length, magnitude_);
        to_columns(weights, length, weight_);
        take_signs();
        for (int g = 0; g < batch; g += Vec::lanes) {
            if (Shape::even) give_up_signs(g);
            set_counts(g);
            try_steps(g);
        }
        for (int s = 0; s < spans; ++s) least_[s] = bits_to_float(0x7f800000u);
        for (const float units : search::lattice_units) try_units(units * Shape::unit);
        half_bits start[spans];
        std::memcpy(start, d_, sizeof start);
        for (const float nudge : search::lattice_nudges) try_nudge(start, nudge);
        for (int s = 0; s < spans; ++s) set_unit(s, d_[s]);
        for (int g = 0; g < batch; g += Vec::lanes) choose(g);
    }

    half_bits d(int s) const { return d_[s]; }
    int scale(int s, int g) const { return static_cast<int>(scale_[groups * s + g]); }
    int point(int s, int p) const { return points_[256 / width * s + p]; }        // the p-th of the span
    uint8_t signs(int s, int eight) const { return signs_[32 * s + eight]; }      // of eight columns

  private:
    const Lattice& lattice_;
    const float top_;
    alignas(64) float magnitude_[length * batch], opposite_[length * batch], towards_[length * batch];
    alignas(64) float weight_[length * batch], counted_[length * batch], odd_[length / 8 * batch];
    alignas(64) float whole_[batch], exact_[batch], count_[batch];  // the first step, its error, what a count is worth
    alignas(64) float step_[batch], unit_[batch], near_[batch], scale_[batch], error_[batch];
    float least_[spans];
    half_bits d_[spans];
    uint16_t points_[length * batch / width];
    uint8_t signs_[length * batch / 8];

    // Magnitudes stay, signs go to signs_.
    void take_signs() {
        for (int eight = 0; eight < length / 8; ++eight)
            for (int g = 0; g < batch; ++g) {
                uint32_t bits = 0;
                for (int e = 0; e < 8; ++e) bits |= float_to_bits(magnitude_[batch * (8 * eight + e) + g]) >> 31 << e;
                signs_[length / 8 * g + eight] = static_cast<uint8_t>(bits);
                odd_[batch * eight + g] = static_cast<float>(__builtin_parity(bits));
            }
        for (float& x : magnitude_) x = __builtin_fabsf(x);
        std::memcpy(towards_, magnitude_, sizeof towards_);
    }

    // Where signs are odd in number, the number of least weight * |x| is fitted on the other side of zero.
    void give_up_signs(int g) {
        for (int eight = 0; eight < length / 8; ++eight) {
            Vec least = Vec::all(bits_to_float(0x7f800000u)), place = Vec::all(0.0f);
            for (int e = 0; e < 8; ++e) {
                const int i = batch * (8 * eight + e) + g;
                const Vec cost = Vec::load(weight_ + i) * Vec::load(magnitude_ + i);
                const Mask lower = cost < least;
                least = select(lower, cost, least);
                place = select(lower, Vec::all(static_cast<float>(e)), place);
            }
            const Mask odd = Vec::load(odd_ + batch * eight + g) > Vec::all(0.0f);
            for (int e = 0; e < 8; ++e) {
                const int i = batch * (8 * eight + e) + g;
                const Vec x = Vec::load(magnitude_ + i), other = Vec::all(0.0f) - x;
                const Mask here = Vec::all(0.5f) > abs(place - Vec::all(static_cast<float>(e)));
                other.store(opposite_ + i);
                select(odd & here, other, x).store(towards_ + i);
            }
        }
    }

    Vec exact_error(int g, Vec step) const {
        LatticeHalves<Vec, width, Shape::levels> halves;
        Vec total = Vec::all(0.0f);
        for (int e = 0; e < length; e += width) {
            measure(lattice_.shape.level, towards_ + batch * e + g, weight_ + batch * e + g, step, &halves);
            total = total + halves.least(lattice_);
        }
        return total;
    }

    // The first step, its error, and counts by which a point of average error has search::lattice_counts. A point of
    // more than 32767 makes a candidate worse than the first step already, so nothing is lost by counting no further.
    void set_counts(int g) {
        constexpr float all = search::lattice_counts * (length / width);
        Vec largest = Vec::all(0.0f), energy = largest;
        for (int i = g; i < length * batch; i += batch) {
            const Vec x = Vec::load(magnitude_ + i);
            largest = max(largest, x);
            energy = energy + (Vec::load(weight_ + i) * x) * x;
        }
        const Vec whole = largest / Vec::all(top_), exact = exact_error(g, whole);
        const Vec reference = max(exact, energy * Vec::all(search::lattice_share));
        const Vec counts = select(reference > Vec::all(search::narrowest), Vec::all(all) / reference, Vec::all(0.0f));
        for (int i = g; i < length * batch; i += batch) (Vec::load(weight_ + i) * counts).store(counted_ + i);
        whole.store(whole_ + g);
        exact.store(exact_ + g);
        (reference * Vec::all(1.0f / all)).store(count_ + g);
    }

    Vec error(int g, Vec step) const {
        LatticeHalves<Counts, width, Shape::levels> halves;
        Sums total = no_sums();
        for (int e = 0; e < length; e += 2 * width) {
            measure(lattice_.shape.level, towards_ + batch * e + g, counted_ + batch * e + g, step, &halves);
            total = add_products(total, halves.least(lattice_).words, all_words(1));
        }
        return to_floats(total) * Vec::load(count_ + g);
    }

    void try_steps(int g) {
        const Vec whole = Vec::load(whole_ + g);
        Vec best = whole, least = Vec::load(exact_ + g);
        for (const float level : Shape::steps) {
            const Vec step = whole * Vec::all(level), candidate = error(g, step);
            const Mask lower = candidate < least;
            best = select(lower, step, best);
            least = select(lower, candidate, least);
        }
        best.store(step_ + g);
    }

    void set_unit(int s, half_bits d) {
        for (int g = groups * s; g < groups * (s + 1); ++g) unit_[g] = half_to_float(d) * Shape::unit;
    }

    float total(int s) const {
        float sum = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) sum += error_[g];
        return sum;
    }

    void try_units(float units) {
        half_bits candidate[spans];
        for (int s = 0; s < spans; ++s) {
            float largest = 0.0f;
            for (int g = groups * s; g < groups * (s + 1); ++g) largest = step_[g] > largest ? step_[g] : largest;
            candidate[s] = stored_half(largest / units);
            set_unit(s, candidate[s]);
        }
        for (int g = 0; g < batch; g += Vec::lanes) round_scales(g);
        for (int s = 0; s < spans; ++s) {
            if (!(total(s) < least_[s])) continue;
            least_[s] = total(s);
            d_[s] = candidate[s];
            std::memcpy(scale_ + groups * s, near_ + groups * s, groups * sizeof(float));
        }
    }

    void round_scales(int g) {
        const Vec one = Vec::all(1.0f), unit = Vec::load(unit_ + g);
        const Vec rounded = round_even((Vec::load(step_ + g) * inverse(unit) - one) * Vec::all(0.5f));
        Vec scale = Vec::all(0.0f), least = Vec::all(bits_to_float(0x7f800000u));
        for (int off = -1; off <= 1; ++off) {
            const Vec near = clamp(rounded + Vec::all(static_cast<float>(off)), Vec::all(0.0f), Vec::all(15.0f));
            const Vec candidate = error(g, unit * (near + near + one));
            const Mask lower = candidate < least;
            scale = select(lower, near, scale);
            least = select(lower, candidate, least);
        }
        scale.store(near_ + g);
        least.store(error_ + g);
    }

    Vec stored_step(int g) const {
        const Vec scale = Vec::load(scale_ + g);
        return Vec::load(unit_ + g) * (scale + scale + Vec::all(1.0f));
    }

    void try_nudge(const half_bits* start, float nudge) {
        half_bits candidate[spans];
        for (int s = 0; s < spans; ++s) {
            candidate[s] = stored_half(half_to_float(start[s]) * nudge);
            set_unit(s, candidate[s]);
        }
        for (int g = 0; g < batch; g += Vec::lanes) error(g, stored_step(g)).store(error_ + g);
        for (int s = 0; s < spans; ++s)
            if (total(s) < least_[s]) {
                least_[s] = total(s);
                d_[s] = candidate[s];
            }
    }

    void choose(int g) {
        const Vec step = stored_step(g);
        LatticeChoice<width, Shape::levels> choices[Shape::parts];
        for (int e = 0; e < length; e += vector) {
            for (int part = 0; part < Shape::parts; ++part) {
                const int i = batch * (e + width * part) + g;
                choices[part].measure(lattice_, magnitude_ + i, weight_ + i, step);
                if (Shape::even) choices[part].measure_flipped(lattice_, opposite_ + i, weight_ + i, step);
            }
            for (int lane = 0; lane < Vec::lanes; ++lane) choose_one(choices, e, g + lane, lane);
        }
    }

    void choose_one(const LatticeChoice<width, Shape::levels>* choices, int e, int g, int lane) {
        uint16_t* points = points_ + (length * g + e) / width;
        uint8_t& signs = signs_[(length * g + e) / 8];
        int flipped = -1;  // the part that gives up a sign
        if (Shape::even && odd_[batch * (e / 8) + g] > 0.0f) {
            const auto &first = choices[0], &last = choices[Shape::parts - 1];
            flipped = Shape::parts == 1 || first.least_flipped[lane] + last.least[lane] <=
                                               first.least[lane] + last.least_flipped[lane] ? 0 : 1;
        }
        for (int part = 0; part < Shape::parts; ++part) {
            int place = 0;
            points[part] = static_cast<uint16_t>(part == flipped ? choices[part].flipped_point(lattice_, lane, &place)
                                                                 : choices[part].point(lattice_, lane));
            if (part == flipped) signs = static_cast<uint8_t>(signs ^ 1 << (width * part + place));
        }
    }
};

}  // namespace
}  // namespace fewbits
