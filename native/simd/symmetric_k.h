// Symmetric grids in given weights: Q3_K and Q6_K, w = d * scale[g] * (q - top), and Q4_0 and Q5_0 by importance.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// The best step so far, and the weighted energy that it removes.
struct BestStep {
    Vec gain, scale;
};

// Tries `count` numbers of steps at once: their sums do not wait for each other.
template <int length, int count>
void try_levels(const float* x, const float* w, float top, const float* levels, Vec inv_extreme, BestStep* best) {
    const Vec lowest = Vec::all(-top), highest = Vec::all(top - 1.0f);
    Vec inv[count], slx[count], sll[count];
    for (int i = 0; i < count; ++i) {
        inv[i] = Vec::all(-levels[i]) * inv_extreme;
        slx[i] = sll[i] = Vec::all(0.0f);
    }
    for (int e = 0; e < length; ++e) {
        const Vec v = Vec::load(x + batch * e), weight = Vec::load(w + batch * e);
        for (int i = 0; i < count; ++i) {
            const Vec l = clamp(round_even(v * inv[i]), lowest, highest), wl = weight * l;
            slx[i] = slx[i] + wl * v;
            sll[i] = sll[i] + wl * l;
        }
    }
    for (int i = 0; i < count; ++i) {
        const Vec candidate = slx[i] * inverse(sll[i]), gain = candidate * slx[i];
        const Mask better = gain > best->gain;
        best->gain = select(better, gain, best->gain);
        best->scale = select(better, candidate, best->scale);
    }
}

// Steps of `Vec::lanes` groups of `length` elements at x with their weights (element e at [16 * e]).
template <int length>
BestStep best_step(const float* x, const float* w, float top, const float* levels, int level_count) {
    const Vec zero = Vec::all(0.0f);
    Vec least = zero, most = zero;
    for (int e = 0; e < length; ++e) {
        const Vec v = Vec::load(x + batch * e);
        least = min(least, v);
        most = max(most, v);
    }
    const Vec inv_extreme = inverse(select((zero - least) > most, least, most));
    BestStep best{zero, zero};
    constexpr int together = Vec::lanes == 8 ? 2 : 5;  // AVX2 has half the registers
    int i = 0;
    for (; i + together <= level_count; i += together) try_levels<length, together>(x, w, top, levels + i, inv_extreme, &best);
    for (; i < level_count; ++i) try_levels<length, 1>(x, w, top, levels + i, inv_extreme, &best);
    return best;
}

// Up to sixteen spans of sixteen groups of sixteen. Elements are searched with a group to a lane, what a span's groups
// share with a span to a lane. Whole scales run from -scale_top to scale_top - 1: of the best of several units where
// `units_tried`, else of the largest step's. Neighbours of the rounded scales are tried too, but for evenly fitted spans
// whose unit was searched for; then d is refitted.
template <int top, int scale_top, bool units_tried>
class SymmetricK {
  public:
    static constexpr int groups = 16, length = 16, columns = groups * length;

    void fit(const float* w, const float* weights, int spans, const float* levels, int level_count) {
        for (int s = 0; s < spans; ++s) {
            to_columns(w + columns * s, length, x_ + columns * s);
            if (weights) to_columns(weights + columns * s, length, w_ + columns * s);
            each_group([&](int g) { find_step(s, g, weights != nullptr, levels, level_count); }, s);
        }
        find_unit();
        for (int s = 0; s < spans; ++s)
            each_group([&](int g) { choose_scale(s, g, weights || !units_tried); }, s);
        refit();
        for (int s = 0; s < spans; ++s) each_group([&](int g) { new_error(s, g); }, s);
        keep_better();
        for (int s = 0; s < spans; ++s) each_group([&](int g) { store_codes(s, g); }, s);
    }

    const uint8_t* codes(int s) const { return codes_ + columns * s; }  // element e of group g at [16 * e + g]
    int scale(int s, int g) const { return static_cast<int>(scale_[groups * s + g]); }
    half_bits d(int s) const { return d_bits_[s]; }

  private:
    static constexpr int all_groups = groups * batch;
    alignas(64) float x_[columns * batch], w_[columns * batch];  // element e of group g of span s at [256 * s + 16 * e + g]
    // Group g of span s at [16 * s + g].
    alignas(64) float line_[all_groups] = {}, curvature_[all_groups] = {}, scale_[all_groups] = {};
    alignas(64) float error_[all_groups] = {}, new_error_[all_groups] = {}, sll_[all_groups] = {}, slx_[all_groups] = {};
    alignas(64) uint8_t codes_[columns * batch];
    alignas(64) float d_[batch], old_d_[batch];
    half_bits d_bits_[batch];

    // The same with span s of group g at [16 * g + s].
    struct BySpan {
        alignas(64) float at[all_groups];
        explicit BySpan(const float* by_group) { to_columns(by_group, groups, at); }
        Vec load(int g, int s) const { return Vec::load(at + batch * g + s); }
    };

    template <typename Work>
    static void each_group(Work work, int s) {
        for (int g = groups * s; g < groups * (s + 1); g += Vec::lanes) work(g);
    }
    const float* x(int s, int g) const { return x_ + columns * s + (g - groups * s); }
    const float* w(int s, int g) const { return w_ + columns * s + (g - groups * s); }

    // The best step of a group by itself, and what the error grows by, over the square of a change of it.
    void find_step(int s, int g, bool weighted, const float* levels, int level_count) {
        if (!weighted) weigh(x(s, g), w_ + columns * s + (g - groups * s));
        const BestStep best = best_step<length>(x(s, g), w(s, g), top, levels, level_count);
        const Vec inv = inverse(best.scale);
        best.scale.store(line_ + g);
        ((best.gain * inv) * inv).store(curvature_ + g);
    }

    // The format's own weights: w^2 + the mean square of the group.
    static void weigh(const float* x, float* weights) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec square = Vec::load(x + batch * e) * Vec::load(x + batch * e);
            square.store(weights + batch * e);
            squares = squares + square;
        }
        const Vec mean = squares * Vec::all(1.0f / length);
        for (int e = 0; e < length; ++e) (Vec::load(weights + batch * e) + mean).store(weights + batch * e);
    }

    void set_d(int s, Vec d) {
        const Vec limit = Vec::all(search::half_max), lowest = Vec::all(0.0f) - limit;
        store_half(select(d > limit, limit, select(lowest > d, lowest, d)), d_bits_ + s);  // NaN stays
        load_half(d_bits_ + s).store(d_ + s);
    }

    void find_unit() {
        const BySpan line(line_), curvature(curvature_);
        alignas(64) float scale[all_groups];
        for (int s = 0; s < batch; s += Vec::lanes) {
            set_d(s, units_tried ? best_step<groups>(line.at + s, curvature.at + s, scale_top, search::q3_k_scale_levels,
                                                     sizeof search::q3_k_scale_levels / sizeof(float)).scale
                                 : largest(line, s) / Vec::all(-scale_top));
            const Vec inv = inverse(Vec::load(d_ + s)), lowest = Vec::all(-scale_top), highest = Vec::all(scale_top - 1);
            for (int g = 0; g < groups; ++g) clamp(round_even(line.load(g, s) * inv), lowest, highest).store(scale + batch * g + s);
        }
        to_columns(scale, batch, scale_);
    }

    static Vec largest(const BySpan& line, int s) {
        Vec magnitude = Vec::all(0.0f), found = magnitude;
        for (int g = 0; g < groups; ++g) {
            const Vec step = line.load(g, s);
            const Mask larger = abs(step) > magnitude;
            magnitude = select(larger, abs(step), magnitude);
            found = select(larger, step, found);
        }
        return found;
    }

    static Vec code(Vec x, Vec inv) { return clamp(round_even(x * inv), Vec::all(-top), Vec::all(top - 1)); }

    // The errors under `count` scales.
    template <int count>
    void step_errors(int s, int g, const Vec* scale, Vec* errors) const {
        Vec inv[count];
        for (int i = 0; i < count; ++i) {
            inv[i] = inverse(scale[i]);
            errors[i] = Vec::all(0.0f);
        }
        for (int e = 0; e < length; ++e) {
            const Vec number = Vec::load(x(s, g) + batch * e), weight = Vec::load(w(s, g) + batch * e);
            for (int i = 0; i < count; ++i) {
                const Vec r = scale[i] * code(number, inv[i]) - number;
                errors[i] = errors[i] + (weight * r) * r;
            }
        }
    }

    void new_error(int s, int g) {
        Vec error;
        const Vec scale = Vec::all(d_[s]) * Vec::load(scale_ + g);
        step_errors<1>(s, g, &scale, &error);
        error.store(new_error_ + g);
    }

    void choose_scale(int s, int g, bool neighbours) {
        if (neighbours) try_neighbours(s, g);
        const Vec scale = Vec::all(d_[s]) * Vec::load(scale_ + g), inv = inverse(scale);
        Vec error = Vec::all(0.0f), sll = error, slx = error;
        for (int e = 0; e < length; ++e) {
            const Vec number = Vec::load(x(s, g) + batch * e), weight = Vec::load(w(s, g) + batch * e);
            const Vec l = code(number, inv), r = scale * l - number, wl = weight * l;
            error = error + (weight * r) * r;
            sll = sll + wl * l;
            slx = slx + wl * number;
        }
        error.store(error_ + g);
        sll.store(sll_ + g);
        slx.store(slx_ + g);
    }

    void try_neighbours(int s, int g) {
        const Vec rounded = Vec::load(scale_ + g), lowest = Vec::all(-scale_top), highest = Vec::all(scale_top - 1);
        const Vec d = Vec::all(d_[s]), one = Vec::all(1.0f);
        const Vec near[] = {rounded, clamp(rounded - one, lowest, highest), clamp(rounded + one, lowest, highest)};
        const Vec scales[] = {d * near[0], d * near[1], d * near[2]};
        Vec errors[3];
        step_errors<3>(s, g, scales, errors);
        Vec scale = rounded, error = errors[0];
        for (int i = 1; i < 3; ++i) {
            const Mask better = errors[i] < error;
            error = select(better, errors[i], error);
            scale = select(better, near[i], scale);
        }
        scale.store(scale_ + g);
    }

    void refit() {
        const BySpan scale(scale_), sll(sll_), slx(slx_);
        for (int s = 0; s < batch; s += Vec::lanes) {
            Vec a = Vec::all(0.0f), p = a;
            for (int g = 0; g < groups; ++g) {
                a = a + (scale.load(g, s) * scale.load(g, s)) * sll.load(g, s);
                p = p + scale.load(g, s) * slx.load(g, s);
            }
            const Vec d = Vec::load(d_ + s);
            d.store(old_d_ + s);
            set_d(s, select(a > Vec::all(0.0f), p / a, d));
        }
    }

    void keep_better() {
        const BySpan old_errors(error_), new_errors(new_error_);
        for (int s = 0; s < batch; s += Vec::lanes) {
            Vec before = Vec::all(0.0f), after = before;
            for (int g = 0; g < groups; ++g) {
                before = before + old_errors.load(g, s);
                after = after + new_errors.load(g, s);
            }
            set_d(s, select(after < before, Vec::load(d_ + s), Vec::load(old_d_ + s)));
        }
    }

    void store_codes(int s, int g) {
        const Vec inv = inverse(Vec::all(d_[s]) * Vec::load(scale_ + g));
        uint8_t* codes = codes_ + columns * s + (g - groups * s);
        for (int e = 0; e < length; ++e)
            (code(Vec::load(x(s, g) + batch * e), inv) + Vec::all(top)).store_codes(codes + batch * e);
    }
};

// Sixteen spans of 32 at once, in given weights.
template <int top>
class WeightedSpan {
  public:
    static constexpr int length = 32;

    void fit(const float* w, const float* weights, const float* levels, int level_count) {
        to_columns(w, length, x_);
        to_columns(weights, length, w_);
        const Vec limit = Vec::all(search::half_max), lowest = Vec::all(-top), highest = Vec::all(top - 1);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec scale = best_step<length>(x_ + g, w_ + g, top, levels, level_count).scale;
            store_half(clamp(scale, Vec::all(0.0f) - limit, limit), d_bits_ + g);
            const Vec inv = inverse(load_half(d_bits_ + g));
            for (int e = 0; e < length; ++e)
                (clamp(round_even(Vec::load(x_ + batch * e + g) * inv), lowest, highest) + Vec::all(top))
                    .store_codes(codes_ + batch * e + g);
        }
    }

    const uint8_t* codes() const { return codes_; }  // element e of span g at [16 * e + g]
    half_bits d(int g) const { return d_bits_[g]; }

  private:
    alignas(64) float x_[length * batch], w_[length * batch];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch];
};

}  // namespace
}  // namespace fewbits
