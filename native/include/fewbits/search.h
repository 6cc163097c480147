// Constants of the searches; the torch formats (src/fewbits/formats) state the same numbers, and tests compare the codes.
#pragma once

namespace fewbits::search {

// Numbers of steps into which a group's range is divided, tried in this order; all are exact in binary.
constexpr float q4_k_levels[] = {14.0f, 14.34375f, 14.6875f, 15.0f, 15.3125f, 15.65625f, 16.0f};
constexpr float q5_k_levels[] = {30.3125f, 30.59375f, 30.875f, 31.15625f, 31.4375f, 31.71875f, 32.0f};
constexpr float q6_k_levels[] = {30.5f, 30.90625f, 31.3125f, 31.6875f, 32.09375f, 32.5f, 32.90625f};
constexpr float q4_0_levels[] = {6.0f, 6.625f, 7.25f, 7.875f, 8.5f};
constexpr float q5_0_levels[] = {14.0f, 14.625f, 15.25f, 15.875f, 16.5f};
constexpr float q5_1_levels[] = {30.0f, 30.375f, 30.75f, 31.125f, 31.5f};

constexpr float singular = 1e-6f;    // a determinant below this share of its larger product counts as zero
constexpr float narrowest = 1e-30f;  // a range below this counts as this, so that its inverse stays finite
constexpr float half_max = 65504.0f;  // the largest binary16 number

}  // namespace fewbits::search
