// Q4_1 and Q5_1 in given weights: w = d * q + m, sixteen spans of 32 at once. The best least-squares line through the codes
// of several candidate ranges, each from the smallest number, fitted to its own nearest codes again; or the plain line
// from smallest to largest where that one, as stored, is nearer.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

template <int top>
class ShiftedSpan {
  public:
    static constexpr int length = 32;

    void fit(const float* w, const float* weights, const float* more_steps, int count) {
        to_columns(w, length, x_);
        to_columns(weights, length, w_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec low = Vec::load(x_ + g), high = low;
            for (int e = 1; e < length; ++e) {
                low = min(low, Vec::load(x_ + batch * e + g));
                high = max(high, Vec::load(x_ + batch * e + g));
            }
            low = low + Vec::all(0.0f);  // which zero is the smallest depends on the machine; this makes it +0
            const Vec range = (high - low) + Vec::all(0.0f);
            Best best = sums(g, low);
            try_ranges(g, range, more_steps, count, &best);
            const Line line(stored(best.scale, d_bits_ + g), stored(low + best.start, m_bits_ + g));
            half_bits plain_bits[Vec::lanes];
            const Line plain(stored(range / Vec::all(top), plain_bits), stored(low, plain_bits));
            const Mask better = error(g, line) < error(g, plain);
            const Line kept(select(better, line.d, plain.d), select(better, line.m, plain.m));
            store_half(kept.d, d_bits_ + g);
            store_half(kept.m, m_bits_ + g);
            for (int e = 0; e < length; ++e)
                kept.code(Vec::load(x_ + batch * e + g)).store_codes(codes_ + batch * e + g);
        }
    }

    const uint8_t* codes() const { return codes_; }  // element e of span g at [16 * e + g]
    half_bits d(int g) const { return d_bits_[g]; }
    half_bits m(int g) const { return m_bits_[g]; }

  private:
    alignas(64) float x_[length * batch], y_[length * batch], w_[length * batch];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch], m_bits_[batch];

    struct Line {
        Vec d, m, inv;
        Line(Vec d_, Vec m_) : d(d_), m(m_), inv(inverse(d_)) {}
        Vec code(Vec x) const { return clamp(round_even((x - m) * inv), Vec::all(0.0f), Vec::all(top)); }
    };

    // Sums over y = x - low, and the best line scale * code + start of y so far.
    struct Best {
        Vec sw, sy, syy, error, scale, start;
    };

    // Rounded to binary16 into `bits`, and what the numbers are then.
    static Vec stored(Vec numbers, half_bits* bits) {
        const Vec limit = Vec::all(search::half_max);
        store_half(clamp(numbers, Vec::all(0.0f) - limit, limit), bits);
        return load_half(bits);
    }

    Vec times_weight(int e, int g, Vec x) const { return Vec::load(w_ + batch * e + g) * x; }

    Best sums(int g, Vec low) {
        const Vec zero = Vec::all(0.0f);
        Vec sw = zero, sy = zero, syy = zero;
        for (int e = 0; e < length; ++e) {
            const Vec y = Vec::load(x_ + batch * e + g) - low, wy = times_weight(e, g, y);
            y.store(y_ + batch * e + g);
            sw = sw + Vec::load(w_ + batch * e + g);
            sy = sy + wy;
            syy = syy + wy * y;
        }
        return {sw, sy, syy, Vec::all(bits_to_float(0x7f800000u)), zero, zero};
    }

    void try_ranges(int g, Vec range, const float* more_steps, int count, Best* best) const {
        const Vec one = Vec::all(1.0f), narrowest = Vec::all(search::narrowest);
        for (int i = 0; i < count; ++i)
            try_line(g, Vec::all(top + more_steps[i]) / max(range, narrowest), Vec::all(0.0f), best);
        for (int i = 0; i < count; ++i)  // what is left of the range above the best line's start
            try_line(g, Vec::all(top + more_steps[i]) / max(range - best->start, narrowest), best->start, best);
        for (int i = 0; i < search::refits; ++i) try_line(g, one / max(best->scale, narrowest), best->start, best);
    }

    // The least-squares line through the codes of y from `begin` on, `inv` of them to a unit; kept where it is better.
    void try_line(int g, Vec inv, Vec begin, Best* best) const {
        const Vec zero = Vec::all(0.0f), two = Vec::all(2.0f), highest = Vec::all(top);
        Vec sl = zero, sll = zero, sly = zero;
        for (int e = 0; e < length; ++e) {
            const Vec y = Vec::load(y_ + batch * e + g), l = clamp(round_even((y - begin) * inv), zero, highest);
            const Vec wl = times_weight(e, g, l);
            sl = sl + wl;
            sll = sll + wl * l;
            sly = sly + wl * y;
        }
        const Vec sw = best->sw, sy = best->sy, product = sw * sll, det = product - sl * sl;
        const Vec a = (sw * sly - sy * sl) / det, b = (sll * sy - sl * sly) / det;
        const Vec off = (best->syy + a * ((a * sll - two * sly) + (two * b) * sl)) + b * (b * sw - two * sy);
        const Mask better = (det > Vec::all(search::singular) * product) & (off < best->error);
        best->error = select(better, off, best->error);
        best->scale = select(better, a, best->scale);
        best->start = select(better, b, best->start);
    }

    Vec error(int g, const Line& line) const {
        Vec sum = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), r = (line.d * line.code(x) + line.m) - x;
            sum = sum + times_weight(e, g, r) * r;
        }
        return sum;
    }
};

}  // namespace
}  // namespace fewbits
