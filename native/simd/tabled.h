// Groups of 32 whose codes index a table of sixteen numbers: of several numbers of the table's size that the largest
// element may become, each scale refitted by least squares, the best. Sixteen groups at once.
#pragma once
#include "batch.h"
#include "table16.h"

namespace fewbits {
namespace {

// Sixteen numbers as floats.
struct Numbers16 {
    float at[16];
    explicit Numbers16(const int8_t* table) {
        for (int k = 0; k < 16; ++k) at[k] = static_cast<float>(table[k]);
    }
};

class TabledGroups {
  public:
    static constexpr int length = 32;

    // The numbers of sixteen groups, and the weights of their errors; nullptr: w^2 + the group's mean square.
    TabledGroups(const float* w, const float* weights) : table_(Numbers16(iq4_table).at) {
        to_columns(w, length, x_);
        if (weights) to_columns(weights, length, w_);
        else
            for (int g = 0; g < batch; g += Vec::lanes) own_weights(g);
    }

    Vec best_scale(int g) const {
        Vec magnitude = Vec::all(0.0f), extreme = magnitude, best = magnitude, scale = magnitude;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g);
            const Mask larger = abs(x) > magnitude;
            magnitude = select(larger, abs(x), magnitude);
            extreme = select(larger, x, extreme);
        }
        const Vec inv_extreme = inverse(extreme);
        for (const float level : search::iq4_levels) {
            Vec slx, sll;
            moments(g, Vec::all(level) * inv_extreme, &slx, &sll);
            const Vec candidate = slx * inverse(sll), gain = candidate * slx;
            const Mask better = gain > best;
            best = select(better, gain, best);
            scale = select(better, candidate, scale);
        }
        return scale;
    }

    // Sums of w * number * x and w * number^2 with each x times `inv` rounded to the table.
    void moments(int g, Vec inv, Vec* slx, Vec* sll) const {
        Vec lx = Vec::all(0.0f), ll = lx;
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), number = table_.nearest(x * inv);
            const Vec weighted = Vec::load(w_ + batch * e + g) * number;
            lx = lx + weighted * x;
            ll = ll + weighted * number;
        }
        *slx = lx;
        *sll = ll;
    }

    Vec error(int g, Vec step) const {
        const Vec inv = inverse(step);
        Vec sum = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), r = step * table_.nearest(x * inv) - x;
            sum = sum + (Vec::load(w_ + batch * e + g) * r) * r;
        }
        return sum;
    }

    // Element e of group g at codes[16 * e + g].
    void store_codes(int g, Vec step, uint8_t* codes) const {
        const Vec inv = inverse(step);
        for (int e = 0; e < length; ++e) table_.code(Vec::load(x_ + batch * e + g) * inv).store_codes(codes + batch * e + g);
    }

  private:
    alignas(64) float x_[length * batch], w_[length * batch];
    Table16 table_;

    void own_weights(int g) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) squares = squares + Vec::load(x_ + batch * e + g) * Vec::load(x_ + batch * e + g);
        const Vec mean = squares * Vec::all(1.0f / length);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g);
            (x * x + mean).store(w_ + batch * e + g);
        }
    }
};

// IQ4_XS, two spans of eight groups: scales of six bits, their neighbours tried, then d refitted.
class TabledSpans {
  public:
    static constexpr int groups = 8, spans = batch / groups, columns = groups * TabledGroups::length;

    TabledSpans(const float* w, const float* weights) : groups_(w, weights) {
        for (int g = 0; g < batch; g += Vec::lanes) groups_.best_scale(g).store(line_ + g);
        for (int s = 0; s < spans; ++s) round_scales(s);
        for (int g = 0; g < batch; g += Vec::lanes) try_neighbours(g);
        for (int s = 0; s < spans; ++s) refit(s);
        for (int g = 0; g < batch; g += Vec::lanes) groups_.error(g, step(g)).store(new_error_ + g);
        for (int s = 0; s < spans; ++s) keep_better(s);
        for (int g = 0; g < batch; g += Vec::lanes) groups_.store_codes(g, step(g), codes_);
    }

    const uint8_t* codes() const { return codes_; }  // element e of group g of span s at [16 * e + 8 * s + g]
    half_bits d(int s) const { return d_bits_[s]; }
    int scale(int s, int g) const { return static_cast<int>(scale_[groups * s + g]) + 32; }

  private:
    TabledGroups groups_;
    alignas(64) float line_[batch], d_[batch], scale_[batch], error_[batch], new_error_[batch], slx_[batch], sll_[batch];
    alignas(64) uint8_t codes_[TabledGroups::length * batch];
    half_bits d_bits_[spans], old_d_bits_[spans];

    Vec step(int g) const { return Vec::load(d_ + g) * Vec::load(scale_ + g); }

    void set_d(int s, half_bits bits) {
        d_bits_[s] = bits;
        for (int g = groups * s; g < groups * (s + 1); ++g) d_[g] = half_to_float(bits);
    }

    void round_scales(int s) {
        float extreme = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g)
            if (__builtin_fabsf(line_[g]) > __builtin_fabsf(extreme)) extreme = line_[g];
        set_d(s, stored_half(extreme / -32.0f));
        const float inv = inverse(d_[groups * s]);
        for (int g = groups * s; g < groups * (s + 1); ++g) scale_[g] = clamp_to(round_scalar(line_[g] * inv), -32.0f, 31.0f);
    }

    void try_neighbours(int g) {
        const Vec d = Vec::load(d_ + g), rounded = Vec::load(scale_ + g);
        Vec scale = rounded, error = groups_.error(g, d * rounded), slx, sll;
        for (int by = -1; by <= 1; by += 2) {
            const Vec near = clamp(rounded + Vec::all(static_cast<float>(by)), Vec::all(-32.0f), Vec::all(31.0f));
            const Vec candidate = groups_.error(g, d * near);
            const Mask better = candidate < error;
            error = select(better, candidate, error);
            scale = select(better, near, scale);
        }
        scale.store(scale_ + g);
        error.store(error_ + g);
        groups_.moments(g, inverse(d * scale), &slx, &sll);
        slx.store(slx_ + g);
        sll.store(sll_ + g);
    }

    void refit(int s) {
        float a = 0.0f, p = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            a += (scale_[g] * scale_[g]) * sll_[g];
            p += scale_[g] * slx_[g];
        }
        old_d_bits_[s] = d_bits_[s];
        if (a > 0.0f) set_d(s, stored_half(p / a));
    }

    void keep_better(int s) {
        float before = 0.0f, after = 0.0f;
        for (int g = groups * s; g < groups * (s + 1); ++g) {
            before += error_[g];
            after += new_error_[g];
        }
        if (!(after < before)) set_d(s, old_d_bits_[s]);
    }
};

}  // namespace
}  // namespace fewbits
