// The search for steps of short groups, sixteen at a time; what it finds is what Search in grouped.cpp finds one by one.
#pragma once
#include "fewbits/grouped.h"
#include "sixteen.h"

namespace fewbits {
namespace {

template <bool weighted>
class ShortSearch {
  public:
    explicit ShortSearch(int64_t group) : group_(group) {}

    // Groups in units of their largest magnitudes.
    void begin(const float* w, const float* weights, int present) {
        weights_ = weights;
        present_ = present;
        largest_along(w, group_, present, low, [](Vec x) { return max(Vec::all(0.0f) - x, Vec::all(0.0f)); });
        largest_along(w, group_, present, high, [](Vec x) { return max(x, Vec::all(0.0f)); });
        for (int g = 0; g < batch; ++g) {
            size[g] = low[g] > high[g] ? low[g] : high[g];
            size[g] = size[g] < 0x1p-126f ? 0.0f : size[g];
            inverse_[g] = inverse(size[g]);
            low[g] *= inverse_[g];
            high[g] *= inverse_[g];
            best_[g] = step[g] = zero[g] = tried_zero[g] = 0.0f;
        }
        for (int g = 0; g < present; ++g)
            for (int64_t e = group_ * g; e < group_ * (g + 1); e += Vec::lanes)
                (Vec::load(w + e) * Vec::all(inverse_[g])).store(y_ + e);
    }

    // One candidate of each group: nearest(group, numbers) -> what has codes, in steps.
    template <typename Nearest>
    void attempt(const Nearest& nearest) {
        alignas(64) float x[batch], l[batch];
        add_along<weighted>(y_, weights_, group_, present_, {&slx_, &sll_}, [&](int g, Vec y, Vec weight, Vec* sums) {
            const Vec number = nearest(g, y), counted = weighted ? weight * number : number;
            sums[0] = sums[0] + counted * y;
            sums[1] = sums[1] + counted * number;
        });
        slx_.totals(x);
        sll_.totals(l);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec sx = Vec::load(x + g), fitted = sx * inverse(Vec::load(l + g)), gain = fitted * sx;
            const Mask better = gain > Vec::load(best_ + g);
            select(better, gain, Vec::load(best_ + g)).store(best_ + g);
            select(better, fitted, Vec::load(step + g)).store(step + g);
            select(better, Vec::load(tried_zero + g), Vec::load(zero + g)).store(zero + g);
        }
    }

    // How far numbers reach below zero and above, what steps are measured by, and what was found.
    alignas(64) float low[batch], high[batch], size[batch], step[batch], zero[batch], tried_zero[batch];

  private:
    int64_t group_;
    int present_ = 0;
    const float* weights_ = nullptr;
    LaneSums slx_, sll_;
    alignas(64) float inverse_[batch], best_[batch], y_[longest_short * batch];
};

}  // namespace
}  // namespace fewbits
