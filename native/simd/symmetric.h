// Symmetric grids w = d * (q - zero): the scale is the best of several candidate steps, each refitted by least squares.
// The step that the largest magnitude is divided into decides the sign, so that the longer, negative side of the codes
// (-top .. top - 1) takes the largest element.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// Scales of `Vec::lanes` groups of `length` elements at x (element e at x + 16 * e); weighted: by w^2 + base, else
// evenly.
template <int length, bool weighted>
Vec best_scale(const float* x, Vec base, float top, const float* levels, int level_count) {
    const Vec zero = Vec::all(0.0f), lowest = Vec::all(-top), highest = Vec::all(top - 1.0f);
    Vec least = zero, most = zero;
    for (int e = 0; e < length; ++e) {
        const Vec v = Vec::load(x + batch * e);
        least = min(least, v);
        most = max(most, v);
    }
    const Vec inv_extreme = inverse(select((zero - least) > most, least, most));
    Vec best = zero, scale = zero;
    // Evenly weighted searches never try so many steps that a lower clamp would act (search.h).
    const auto code = [&](Vec l) { return weighted ? clamp(l, lowest, highest) : min(l, highest); };
    for (int i = 0; i < level_count; ++i) {
        const Vec inv = Vec::all(-levels[i]) * inv_extreme;
        Vec slx = zero, sll = zero;
        for (int e = 0; e < length; ++e) {
            const Vec v = Vec::load(x + batch * e), l = code(round_even(v * inv));
            const Vec wl = weighted ? (v * v + base) * l : l;
            slx = slx + wl * v;
            sll = sll + wl * l;
        }
        const Vec candidate = slx * inverse(sll), gain = candidate * slx;
        const Mask better = gain > best;
        best = select(better, gain, best);
        scale = select(better, candidate, scale);
    }
    return scale;
}

// Q6_K: w = d * scale[g] * (q - 32), weighted by w^2 + the group's mean square; scales of eight bits, their neighbours
// tried, then d refitted.
class SymmetricK {
  public:
    static constexpr int groups = 16, length = 16, columns = groups * length;

    void fit(const float* w) {
        to_columns(w, length, x_);
        constexpr int level_count = sizeof(search::q6_k_levels) / sizeof(float);
        for (int g = 0; g < batch; g += Vec::lanes)
            best_scale<length, true>(x_ + g, mean_square(g), 32.0f, search::q6_k_levels, level_count).store(line_ + g);
        round_scales();
        for (int g = 0; g < batch; g += Vec::lanes) try_neighbours(g);
        refit();
        for (int g = 0; g < batch; g += Vec::lanes) step_error(g, Vec::load(scale_ + g)).store(new_error_ + g);
        keep_better();
        for (int g = 0; g < batch; g += Vec::lanes) store_codes(g);
    }

    const uint8_t* codes() const { return codes_; }  // element e of group g at [16 * e + g]
    int scale(int g) const { return static_cast<int>(scale_[g]); }
    half_bits d() const { return d_bits_; }

  private:
    alignas(64) float x_[length * batch], mean_[batch], line_[batch], scale_[batch], error_[batch], new_error_[batch];
    alignas(64) float sum_wll_[batch], sum_wlx_[batch];
    alignas(64) uint8_t codes_[length * batch];
    float d_;
    half_bits d_bits_, old_d_bits_;

    // The mean square of each group; kept for the steps after the first.
    Vec mean_square(int g) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g);
            squares = squares + x * x;
        }
        const Vec mean = squares * Vec::all(1.0f / length);
        mean.store(mean_ + g);
        return mean;
    }

    void set_d(half_bits bits) {
        d_bits_ = bits;
        d_ = half_to_float(bits);
    }

    void round_scales() {
        float magnitude = 0.0f, extreme = 0.0f;
        for (int g = 0; g < groups; ++g)
            if (__builtin_fabsf(line_[g]) > magnitude) {
                magnitude = __builtin_fabsf(line_[g]);
                extreme = line_[g];
            }
        set_d(stored_half(extreme / -128.0f));
        const float inv = inverse(d_);
        for (int g = 0; g < groups; ++g) scale_[g] = clamp_to(round_scalar(line_[g] * inv), -128.0f, 127.0f);
    }

    static Vec code(Vec x, Vec inv) { return clamp(round_even(x * inv), Vec::all(-32.0f), Vec::all(31.0f)); }

    Vec step_error(int g, Vec whole_scale) const {
        const Vec scale = Vec::all(d_) * whole_scale, inv = inverse(scale), base = Vec::load(mean_ + g);
        Vec error = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), r = scale * code(x, inv) - x;
            error = error + ((x * x + base) * r) * r;
        }
        return error;
    }

    void try_neighbours(int g) {
        const Vec rounded = Vec::load(scale_ + g);
        Vec scale = rounded, error = step_error(g, rounded);
        for (int step = -1; step <= 1; step += 2) {
            const Vec near = clamp(rounded + Vec::all(static_cast<float>(step)), Vec::all(-128.0f), Vec::all(127.0f));
            const Vec candidate = step_error(g, near);
            const Mask better = candidate < error;
            error = select(better, candidate, error);
            scale = select(better, near, scale);
        }
        scale.store(scale_ + g);
        error.store(error_ + g);
        const Vec inv = inverse(Vec::all(d_) * scale), base = Vec::load(mean_ + g);
        Vec sll = Vec::all(0.0f), slx = sll;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), l = code(x, inv), wl = (x * x + base) * l;
            sll = sll + wl * l;
            slx = slx + wl * x;
        }
        sll.store(sum_wll_ + g);
        slx.store(sum_wlx_ + g);
    }

    void refit() {
        float a = 0.0f, p = 0.0f;
        for (int g = 0; g < groups; ++g) {
            a += (scale_[g] * scale_[g]) * sum_wll_[g];
            p += scale_[g] * sum_wlx_[g];
        }
        old_d_bits_ = d_bits_;
        if (a > 0.0f) set_d(stored_half(p / a));
    }

    void keep_better() {
        float before = 0.0f, after = 0.0f;
        for (int g = 0; g < groups; ++g) {
            before += error_[g];
            after += new_error_[g];
        }
        if (!(after < before)) set_d(old_d_bits_);
    }

    void store_codes(int g) {
        const Vec inv = inverse(Vec::all(d_) * Vec::load(scale_ + g));
        for (int e = 0; e < length; ++e)
            (code(Vec::load(x_ + batch * e + g), inv) + Vec::all(32.0f)).store_codes(codes_ + batch * e + g);
    }
};

// Q4_0 and Q5_0: sixteen spans of 32 at once, evenly weighted.
template <int top>
class SymmetricSpan {
  public:
    static constexpr int length = 32;

    void fit(const float* w, const float* levels, int level_count) {
        to_columns(w, length, x_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_scale<length, false>(x_ + g, Vec::all(0.0f), top, levels, level_count), Vec::all(0.0f) - limit, limit),
                       d_bits_ + g);
            const Vec inv = inverse(load_half(d_bits_ + g)), zero = Vec::all(top);
            const Vec lowest = Vec::all(-top), highest = Vec::all(top - 1.0f);
            for (int e = 0; e < length; ++e)
                (clamp(round_even(Vec::load(x_ + batch * e + g) * inv), lowest, highest) + zero)
                    .store_codes(codes_ + batch * e + g);
        }
    }

    const uint8_t* codes() const { return codes_; }  // element e of span g at [16 * e + g]
    half_bits d(int g) const { return d_bits_[g]; }

  private:
    alignas(64) float x_[length * batch];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch];
};

}  // namespace
}  // namespace fewbits
