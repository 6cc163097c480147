// Constants of the searches; the torch formats (src/fewbits/formats) state the same numbers, and tests compare the codes.
#pragma once
#include <cstdint>

namespace fewbits::search {

// Numbers of steps into which a group's range is divided, tried in this order; all are exact in binary.
constexpr float q2_k_levels[] = {2.25f, 2.625f, 3.0f, 3.375f, 3.75f};
constexpr float q3_k_levels[] = {3.0625f, 3.4375f, 3.75f, 4.125f, 4.4375f};
// Into how many units the largest scale of a span of Q3_K is divided, likewise.
constexpr float q3_k_scale_levels[] = {26.0f, 26.5f, 27.0f, 27.5f, 28.0f, 28.5f, 29.0f, 29.5f,
                                       30.0f, 30.5f, 31.0f, 31.5f, 32.0f, 32.5f, 33.0f, 33.5f};
constexpr float q4_k_levels[] = {14.0f, 14.34375f, 14.6875f, 15.0f, 15.3125f, 15.65625f, 16.0f};
constexpr float q5_k_levels[] = {30.3125f, 30.59375f, 30.875f, 31.15625f, 31.4375f, 31.71875f, 32.0f};
constexpr float q6_k_levels[] = {29.0f, 29.59375f, 30.1875f, 30.8125f, 31.40625f, 32.0f, 32.59375f};
// Searches in whole numbers: numbers become fractions of their group's extreme (of its range) in units of 1 / whole, and
// step s, of `count` from `first` on, makes codes (fraction * s) / 2^15: that divides the extreme into whole * s / 2^15 steps.
struct EvenSteps {
    float whole;
    int first, count;
    constexpr float steps_of(int i) const { return whole * static_cast<float>(first + i) / 0x1p15f; }
    constexpr float most() const { return steps_of(count - 1); }
    // Whether candidate i rounds no number to more than `limit`, but for a last unit.
    constexpr bool below(int i, float limit) const { return steps_of(i) < limit - 0x1p-9f; }
};
constexpr EvenSteps q4_0_steps{19728.0f, 12, 3};  // 7.22, 7.83, 8.43
constexpr EvenSteps q5_0_steps{20744.0f, 24, 3};  // 15.19, 15.83, 16.46
constexpr EvenSteps q4_1_steps{15860.0f, 29, 4};  // 14.04, 14.52, 15.00, 15.49
constexpr EvenSteps q5_1_steps{15780.0f, 62, 4};  // 29.86, 30.34, 30.82, 31.30
constexpr float smallest_extreme = 0x1p-60f;  // a scale made of less rounds to 0 in binary16 anyway
constexpr float largest_range = 0x1p120f;  // a range above counts as nothing: no such numbers can be stored
// Where the range is below this, or this share of the smallest number, the rounding of d and m may count for more than
// the search, and the plain line from the smallest to the largest number is taken where it is nearer.
constexpr float narrow = 0x1p-11f, narrow_of_low = 0.125f;
constexpr float iq4_levels[] = {-168.0f, -148.0f, -136.0f, -130.0f, -126.0f, -122.0f, -110.0f,
                                -104.0f, -86.0f,  90.0f,   110.0f,  114.0f,  120.0f,  134.0f};

// Means of magnitudes that weigh as much as they are large (or, cubic, as their squares are), and largest magnitudes:
// shares of them make the thresholds of the ternary formats and, added, the step of Q2_0.
constexpr float ternary_of_mean = 0.5f, ternary_of_largest = 0.34375f;
constexpr float q2_0_of_mean = 0.5f, q2_0_of_cubic_mean = 0.25f;

// Codes of MXFP4's powers of two that are chosen, and the neighbours of a scale that NVFP4 tries.
// Evenly weighted, MXFP4 takes the next power where the largest magnitude is above 14.5 / 8 of its own: this added to the
// bits of the magnitude carries into the exponent then.
constexpr uint32_t mxfp4_round_up = 0x17ffff;
constexpr int mxfp4_lowest = 2, mxfp4_highest = 252;
constexpr int nvfp4_neighbours[] = {0, -2, -1, 1, 2, 3, 4, 5, 6};

// The same where importance is given; ranges of Q4_1 and Q5_1 take `more` steps than the largest code.
constexpr float q2_k_weighted_levels[] = {2.25f, 2.5f, 2.75f, 3.0f, 3.25f, 3.5f, 3.75f, 4.0f, 4.5f};
constexpr float q3_k_weighted_levels[] = {3.0f, 3.125f, 3.25f, 3.375f, 3.5f, 3.625f, 3.75f, 3.875f, 4.0f, 4.125f,
                                          4.25f, 4.375f, 4.5f, 4.625f, 4.75f, 5.0f, 5.5f, 6.25f, 2.75f, 2.5f};
constexpr float q4_k_weighted_levels[] = {13.25f, 13.5f, 13.75f, 14.0f, 14.25f, 14.5f, 14.75f, 15.0f, 15.25f, 15.5f,
                                          15.75f, 16.0f, 16.25f};
constexpr float q5_k_weighted_levels[] = {29.25f, 29.5f, 29.75f, 30.0f, 30.25f, 30.5f, 30.75f, 31.0f, 31.25f, 31.5f,
                                          31.75f, 32.0f, 32.25f};
constexpr float q4_0_weighted_levels[] = {6.0f, 6.25f, 6.5f, 6.75f, 7.0f, 7.25f, 7.5f, 7.75f, 8.0f, 8.25f, 8.5f,
                                          8.75f, 9.0f, 9.5f, 10.25f, 11.5f};
constexpr float q5_0_weighted_levels[] = {12.0f, 12.5f, 13.0f, 13.5f, 14.0f, 14.5f, 15.0f, 15.5f, 16.0f, 16.5f, 17.0f,
                                          17.5f, 18.0f, 19.0f, 20.5f};
constexpr float more_steps[] = {-3.0f, -2.25f, -1.75f, -1.375f, -1.125f, -0.875f, -0.625f, -0.375f, -0.125f, 0.125f,
                                0.375f, 0.625f, 0.875f, 1.25f, 1.75f, 2.5f};
constexpr int refits = 2;  // of the best line of Q4_1 and Q5_1 to its own nearest codes

// IQ1: steps over the largest number of a group, and how many units of d the largest step of a span is taken for.
constexpr float iq1_levels[] = {0.421875f, 0.5f, 0.578125f, 0.65625f, 0.75f, 0.859375f, 1.0f, 1.15625f};
constexpr float iq1_units[] = {15.0f, 14.0f, 16.0f};
constexpr float iq1_shift = 0.125f;

// The largest element, divided into fewer than top + 1/2 steps, never rounds beyond code -top (beyond code top): those
// searches clamp on one side only (not at all).
static_assert(q4_0_steps.most() < 8.5f && q5_0_steps.most() < 16.5f, "no lower clamp is needed");
static_assert(q4_1_steps.most() < 15.5f && q5_1_steps.most() < 31.5f, "no clamp is needed");

// How often the scales and minimums of affine K-quants, then d and dmin, are fitted to each other by importance.
constexpr int affine_weighted_rounds = 3;

constexpr float singular = 1e-6f;    // a determinant below this share of its larger product counts as zero
constexpr float narrowest = 1e-30f;  // a range below this counts as this, so that its inverse stays finite
constexpr float half_max = 65504.0f;  // the largest binary16 number

// Lattices: the largest number of a group is divided by the largest of a point, times 1 and each of these.
constexpr float iq2_xxs_levels[] = {0.6875f, 0.75f, 0.8125f, 0.875f, 0.9375f, 1.09375f, 1.359375f};
constexpr float iq2_levels[] = {0.75f, 0.8125f, 0.875f, 0.9375f, 1.09375f, 1.28125f, 1.5f};
constexpr float iq3_xxs_levels[] = {0.875f, 0.9375f, 1.0625f, 1.1875f, 1.40625f, 1.71875f, 2.0f};
constexpr float iq3_s_levels[] = {0.9375f, 1.0625f, 1.15625f, 1.34375f, 1.5f, 1.71875f, 2.0f};
constexpr float lattice_units[] = {31.0f, 29.0f};            // what a span's largest step is taken for
constexpr float lattice_counts = 2048.0f;     // of a point of average error
constexpr float lattice_share = 1.0f / 1024;  // of the energy: smaller errors do not make counts smaller
constexpr float lattice_nudges[] = {63.0f / 64, 65.0f / 64};  // what d is multiplied with at the end

}  // namespace fewbits::search
