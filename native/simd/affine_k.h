// Q2_K, Q4_K and Q5_K: w = d * scale[g] * q - dmin * min[g]. Fitted in three steps, each weighted by even * av + |w| per
// element (av: the group's root mean square) unless weights are given:
//   1. per group, codes of several candidate ranges and the least-squares line through them; the best line stays, and
//      the next candidate starts from its minimum;
//   2. whole scales and minimums: neighbours of the rounded scale, each with the minimum that fits it best;
//   3. d and dmin again by least squares over the whole span, kept where the error falls;
// the last two steps three times where weights are given.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// A Shape says how a span of 256 is divided, and how far codes, scales and minimums go.
template <typename Shape>
class AffineK {
  public:
    static constexpr int top = Shape::top, groups = Shape::groups, columns = 256, length = columns / groups;

    // Fits batch / groups spans at once; a missing last span is given as zeros.
    void fit(const float* w, const float* weights, const float* levels, int level_count) {
        to_columns(w, length, x_);
        if (weights) to_columns(weights, length, w_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            if (!weights) weigh(g);
            fit_lines(g, levels, level_count);
        }
        for (int s = 0; s < batch / groups; ++s) round_scales(s);
        for (int round = 0; round < (weights ? search::affine_weighted_rounds : 1); ++round) {
            for (int g = 0; g < batch; g += Vec::lanes) try_neighbours(g);
            for (int s = 0; s < batch / groups; ++s) refit(s);
            for (int g = 0; g < batch; g += Vec::lanes) new_error(g);
            for (int s = 0; s < batch / groups; ++s) keep_better(s);
        }
        for (int g = 0; g < batch; g += Vec::lanes) store_codes(g);
    }

    // Codes of span s: element e of group g at codes()[16 * e + groups * s + g].
    const uint8_t* codes() const { return codes_; }

    // Of span s and its group g.
    half_bits d(int s) const { return d_bits_[s]; }
    half_bits dmin(int s) const { return dmin_bits_[s]; }
    int scale(int s, int g) const { return static_cast<int>(scale_[groups * s + g]); }
    int low(int s, int g) const { return static_cast<int>(min_[groups * s + g]); }

  private:
    static constexpr float ceiling = Shape::ceiling;

    alignas(64) float x_[length * batch], y_[length * batch], w_[length * batch];
    alignas(64) float line_scale_[batch], line_min_[batch], sum_w_[batch], sum_wx_[batch];
    alignas(64) float scale_[batch], min_[batch], error_[batch], new_error_[batch];
    alignas(64) float d_[batch], dmin_[batch], old_d_[batch], old_dmin_[batch], inv_dmin_[batch];
    alignas(64) float sum_wl_[batch], sum_wll_[batch], sum_wlx_[batch];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch / groups], dmin_bits_[batch / groups], old_d_bits_[batch / groups],
        old_dmin_bits_[batch / groups];

    // The format's own weights.
    void weigh(int g) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) squares = squares + Vec::load(x_ + batch * e + g) * Vec::load(x_ + batch * e + g);
        const Vec average = Vec::all(Shape::even) * sqrt(squares * Vec::all(1.0f / length));
        for (int e = 0; e < length; ++e) (average + abs(Vec::load(x_ + batch * e + g))).store(w_ + batch * e + g);
    }

    void fit_lines(int g, const float* levels, int level_count) {
        const Vec zero = Vec::all(0.0f), two = Vec::all(2.0f), highest = Vec::all(static_cast<float>(top));
        Vec low = zero, high = Vec::load(x_ + g);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g);
            low = min(low, x);
            high = max(high, x);
        }
        Vec sw = zero, sx = zero, sy = zero, syy = zero;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), w = Vec::load(w_ + batch * e + g), y = x - low, wy = w * y;
            y.store(y_ + batch * e + g);
            sw = sw + w;
            sx = sx + w * x;
            sy = sy + wy;
            syy = syy + wy * y;
        }
        const Vec range = high - low, at_zero = zero - low;  // y of x = 0; the line may not start above it
        Vec best = Vec::all(bits_to_float(0x7f800000u)), best_scale = zero, start = zero;
        for (int i = 0; i < level_count; ++i) {
            const Vec inv = Vec::all(levels[i]) * inverse(max(range - start, zero));
            Vec sl = zero, sll = zero, sly = zero;
            for (int e = 0; e < length; ++e) {
                const Vec y = Vec::load(y_ + batch * e + g);
                const Vec l = clamp(round_even((y - start) * inv), zero, highest);
                const Vec wl = Vec::load(w_ + batch * e + g) * l;
                sl = sl + wl;
                sll = sll + wl * l;
                sly = sly + wl * y;
            }
            const Vec product = sw * sll, det = product - sl * sl;
            const Mask regular = det > Vec::all(search::singular) * product;
            const Vec free_start = (sll * sy - sl * sly) / det;
            const Mask free = regular & (at_zero > free_start);
            const Vec scale = select(free, (sw * sly - sy * sl) / det, (sly - at_zero * sl) / sll);
            const Vec b = select(free, free_start, at_zero);
            const Vec error = (syy + scale * ((scale * sll - two * sly) + (two * b) * sl)) + b * (b * sw - two * sy);
            const Mask better = (sll > zero) & (error < best);
            best = select(better, error, best);
            best_scale = select(better, scale, best_scale);
            start = select(better, b, start);
        }
        max(best_scale, zero).store(line_scale_ + g);
        max(at_zero - start, zero).store(line_min_ + g);
        sw.store(sum_w_ + g);
        sx.store(sum_wx_ + g);
    }

    void set_d(int s, half_bits d, half_bits dmin) {
        d_bits_[s] = d;
        dmin_bits_[s] = dmin;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            d_[g] = half_to_float(d);
            dmin_[g] = half_to_float(dmin);
            inv_dmin_[g] = inverse(dmin_[g]);
        }
    }

    void round_scales(int s) {
        float largest_scale = 0.0f, largest_min = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            if (line_scale_[g] > largest_scale) largest_scale = line_scale_[g];
            if (line_min_[g] > largest_min) largest_min = line_min_[g];
        }
        set_d(s, stored_half(largest_scale / ceiling), stored_half(largest_min / ceiling));
        const float inv_d = inverse(d_[groups * s]), inv_dmin = inv_dmin_[groups * s];
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            scale_[g] = clamp_to(round_scalar(line_scale_[g] * inv_d), 0.0f, ceiling);
            min_[g] = clamp_to(round_scalar(line_min_[g] * inv_dmin), 0.0f, ceiling);
        }
    }

    struct Line {
        Vec scale, min, inv;
        Line(Vec d, Vec whole_scale, Vec dmin, Vec whole_min)
            : scale(d * whole_scale), min(dmin * whole_min), inv(inverse(scale)) {}
        Vec code(Vec x) const {
            return clamp(round_even((x + min) * inv), Vec::all(0.0f), Vec::all(static_cast<float>(top)));
        }
    };

    Vec line_error(int g, const Line& line) const {
        Vec error = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), w = Vec::load(w_ + batch * e + g);
            const Vec r = (line.scale * line.code(x) - line.min) - x;
            error = error + (w * r) * r;
        }
        return error;
    }

    void try_neighbours(int g) {
        const Vec zero = Vec::all(0.0f), highest = Vec::all(ceiling);
        const Vec d = Vec::load(d_ + g), dmin = Vec::load(dmin_ + g), inv_dmin = Vec::load(inv_dmin_ + g);
        const Vec sw = Vec::load(sum_w_ + g), sx = Vec::load(sum_wx_ + g);
        const Vec rounded_scale = Vec::load(scale_ + g), rounded_min = Vec::load(min_ + g);
        Vec scale = rounded_scale, low = rounded_min, error = zero, sl = zero;
        const Line rounded(d, scale, dmin, low);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), w = Vec::load(w_ + batch * e + g), l = rounded.code(x);
            const Vec r = (rounded.scale * l - rounded.min) - x;
            error = error + (w * r) * r;
            sl = sl + w * l;
        }
        const Vec inv_sw = inverse(sw);
        for (int step = -1; step <= 1; ++step) {
            const Vec new_scale = clamp(rounded_scale + Vec::all(static_cast<float>(step)), zero, highest);
            const Vec best_min = ((d * new_scale) * sl - sx) * inv_sw;
            const Vec new_min = clamp(round_even(best_min * inv_dmin), zero, highest);
            const Vec candidate = line_error(g, Line(d, new_scale, dmin, new_min));
            const Mask better = candidate < error;
            error = select(better, candidate, error);
            scale = select(better, new_scale, scale);
            low = select(better, new_min, low);
        }
        scale.store(scale_ + g);
        low.store(min_ + g);
        error.store(error_ + g);
        store_moments(g, Line(d, scale, dmin, low));
    }

    void store_moments(int g, const Line& line) {
        Vec sl = Vec::all(0.0f), sll = sl, slx = sl;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), l = line.code(x), wl = Vec::load(w_ + batch * e + g) * l;
            sl = sl + wl;
            sll = sll + wl * l;
            slx = slx + wl * x;
        }
        sl.store(sum_wl_ + g);
        sll.store(sum_wll_ + g);
        slx.store(sum_wlx_ + g);
    }

    void refit(int s) {
        float a = 0.0f, b = 0.0f, c = 0.0f, p = 0.0f, q = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            old_d_[g] = d_[g];
            old_dmin_[g] = dmin_[g];
            a += (scale_[g] * scale_[g]) * sum_wll_[g];
            b += (scale_[g] * min_[g]) * sum_wl_[g];
            c += (min_[g] * min_[g]) * sum_w_[g];
            p += scale_[g] * sum_wlx_[g];
            q += min_[g] * sum_wx_[g];
        }
        old_d_bits_[s] = d_bits_[s];
        old_dmin_bits_[s] = dmin_bits_[s];
        const float det = a * c - b * b;
        float d = d_[groups * s], dmin = dmin_[groups * s];
        if (det > search::singular * (a * c)) {
            d = (p * c - q * b) / det;
            dmin = (p * b - q * a) / det;
        } else if (c == 0.0f && a > 0.0f) {
            d = p / a;
        }
        set_d(s, stored_half(d > 0.0f ? d : 0.0f), stored_half(dmin > 0.0f ? dmin : 0.0f));
    }

    Line current(int g) const {
        return Line(Vec::load(d_ + g), Vec::load(scale_ + g), Vec::load(dmin_ + g), Vec::load(min_ + g));
    }

    void new_error(int g) { line_error(g, current(g)).store(new_error_ + g); }

    void keep_better(int s) {
        float before = 0.0f, after = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            before += error_[g];
            after += new_error_[g];
        }
        if (!(after < before)) set_d(s, old_d_bits_[s], old_dmin_bits_[s]);
    }

    void store_codes(int g) {
        const Line line = current(g);
        for (int e = 0; e < length; ++e) line.code(Vec::load(x_ + batch * e + g)).store_codes(codes_ + batch * e + g);
    }
};

}  // namespace
}  // namespace fewbits
