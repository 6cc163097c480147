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

// Scales of `Vec::lanes` groups of `length` elements at x with their weights (element e at [16 * e]).
template <int length>
Vec best_scale(const float* x, const float* w, float top, const float* levels, int level_count) {
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
    return best.scale;
}

// One span of sixteen groups of sixteen: whole scales -scale_top .. scale_top - 1, their neighbours tried, then d refitted.
template <int top, int scale_top>
class SymmetricK {
  public:
    static constexpr int groups = 16, length = 16, columns = groups * length;

    void fit(const float* w, const float* weights, const float* levels, int level_count) {
        to_columns(w, length, x_);
        if (weights) to_columns(weights, length, w_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            if (!weights) weigh(g);
            best_scale<length>(x_ + g, w_ + g, top, levels, level_count).store(line_ + g);
        }
        round_scales();
        for (int g = 0; g < batch; g += Vec::lanes) try_neighbours(g);
        refit();
        for (int g = 0; g < batch; g += Vec::lanes) new_error(g);
        keep_better();
        for (int g = 0; g < batch; g += Vec::lanes) store_codes(g);
    }

    const uint8_t* codes() const { return codes_; }  // element e of group g at [16 * e + g]
    int scale(int g) const { return static_cast<int>(scale_[g]); }
    half_bits d() const { return d_bits_; }

  private:
    alignas(64) float x_[length * batch], w_[length * batch];
    alignas(64) float line_[batch], scale_[batch], error_[batch], new_error_[batch], sum_wll_[batch], sum_wlx_[batch];
    alignas(64) uint8_t codes_[length * batch];
    float d_;
    half_bits d_bits_, old_d_bits_;

    // The format's own weights: w^2 + the mean square of the group.
    void weigh(int g) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec square = Vec::load(x_ + batch * e + g) * Vec::load(x_ + batch * e + g);
            square.store(w_ + batch * e + g);
            squares = squares + square;
        }
        const Vec mean = squares * Vec::all(1.0f / length);
        for (int e = 0; e < length; ++e) (Vec::load(w_ + batch * e + g) + mean).store(w_ + batch * e + g);
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
        set_d(stored_half(extreme / static_cast<float>(-scale_top)));
        const float inv = inverse(d_);
        for (int g = 0; g < groups; ++g) scale_[g] = clamp_to(round_scalar(line_[g] * inv), -scale_top, scale_top - 1);
    }

    static Vec code(Vec x, Vec inv) { return clamp(round_even(x * inv), Vec::all(-top), Vec::all(top - 1)); }

    // The errors under `count` whole scales.
    template <int count>
    void step_errors(int g, const Vec* whole_scales, Vec* errors) const {
        Vec scale[count], inv[count];
        for (int i = 0; i < count; ++i) {
            scale[i] = Vec::all(d_) * whole_scales[i];
            inv[i] = inverse(scale[i]);
            errors[i] = Vec::all(0.0f);
        }
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), w = Vec::load(w_ + batch * e + g);
            for (int i = 0; i < count; ++i) {
                const Vec r = scale[i] * code(x, inv[i]) - x;
                errors[i] = errors[i] + (w * r) * r;
            }
        }
    }

    void new_error(int g) {
        Vec error;
        const Vec scale = Vec::load(scale_ + g);
        step_errors<1>(g, &scale, &error);
        error.store(new_error_ + g);
    }

    void try_neighbours(int g) {
        const Vec rounded = Vec::load(scale_ + g), lowest = Vec::all(-scale_top), highest = Vec::all(scale_top - 1);
        const Vec one = Vec::all(1.0f);
        const Vec near[] = {rounded, clamp(rounded - one, lowest, highest), clamp(rounded + one, lowest, highest)};
        Vec errors[3];
        step_errors<3>(g, near, errors);
        Vec scale = rounded, error = errors[0];
        for (int i = 1; i < 3; ++i) {
            const Mask better = errors[i] < error;
            error = select(better, errors[i], error);
            scale = select(better, near[i], scale);
        }
        scale.store(scale_ + g);
        error.store(error_ + g);
        const Vec inv = inverse(Vec::all(d_) * scale);
        Vec sll = Vec::all(0.0f), slx = sll;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), l = code(x, inv), wl = Vec::load(w_ + batch * e + g) * l;
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
            (code(Vec::load(x_ + batch * e + g), inv) + Vec::all(top)).store_codes(codes_ + batch * e + g);
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
            const Vec scale = best_scale<length>(x_ + g, w_ + g, top, levels, level_count);
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
