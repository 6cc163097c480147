// Symmetric grids w = d * (q - zero): the scale is the best of several candidate steps, each refitted by least squares.
// The step that the largest magnitude is divided into decides the sign, so that the longer, negative side of the codes
// (-top .. top - 1) takes the largest element.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// Scales of `Vec::lanes` groups of `length` elements at x (element e at x + 16 * e), evenly weighted.
template <int length>
Vec best_scale(const float* x, float top, const float* levels, int level_count) {
    const Vec zero = Vec::all(0.0f), highest = Vec::all(top - 1.0f);
    Vec least = zero, most = zero;
    for (int e = 0; e < length; ++e) {
        const Vec v = Vec::load(x + batch * e);
        least = min(least, v);
        most = max(most, v);
    }
    const Vec inv_extreme = inverse(select((zero - least) > most, least, most));
    Vec best = zero, scale = zero;
    for (int i = 0; i < level_count; ++i) {
        const Vec inv = Vec::all(-levels[i]) * inv_extreme;
        Vec slx = zero, sll = zero;
        for (int e = 0; e < length; ++e) {
            // So few steps are tried that a lower clamp would never act (search.h).
            const Vec v = Vec::load(x + batch * e), l = min(round_even(v * inv), highest);
            slx = slx + l * v;
            sll = sll + l * l;
        }
        const Vec candidate = slx * inverse(sll), gain = candidate * slx;
        const Mask better = gain > best;
        best = select(better, gain, best);
        scale = select(better, candidate, scale);
    }
    return scale;
}

// Q5_0: sixteen spans of 32 at once, evenly weighted.
template <int top>
class SymmetricSpan {
  public:
    static constexpr int length = 32;

    void fit(const float* w, const float*, const float* levels, int level_count) {
        to_columns(w, length, x_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_scale<length>(x_ + g, top, levels, level_count), Vec::all(0.0f) - limit, limit),
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
