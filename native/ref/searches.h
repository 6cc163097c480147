// The searches, one group at a time and one number after another: never optimized, the meaning of native/simd.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "fewbits/half.h"
#include "fewbits/layouts.h"
#include "fewbits/search.h"

namespace fewbits {
namespace {

float inverse(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }

float clamp(float x, float low, float high) { return std::fmin(std::fmax(x, low), high); }

half_bits stored_half(float x) { return float_to_half(clamp(x, -search::half_max, search::half_max)); }

// A long group's sum in sixteen lanes: element e goes to lane e % 16; then the upper half of the lanes is added to the
// lower one until one is left.
struct LaneSum {
    float lanes[16] = {};
    void add(int e, float x) { lanes[e % 16] += x; }
    float total() const {
        float left[16];
        std::memcpy(left, lanes, sizeof left);
        for (int half = 8; half; half /= 2)
            for (int lane = 0; lane < half; ++lane) left[lane] += left[lane + half];
        return left[0];
    }
};

struct Step {
    float scale = 0, gain = 0;  // the gain: the weighted energy that it removes
};

// The best step of a symmetric grid for `n` numbers with their weights; nullptr: evenly weighted.
inline Step best_step(const float* x, const float* weights, int n, int top, const float* levels, int level_count) {
    float least = 0, most = 0;
    Step best;
    for (int e = 0; e < n; ++e) {
        least = std::fmin(least, x[e]);
        most = std::fmax(most, x[e]);
    }
    const float extreme = -least > most ? least : most;
    for (int i = 0; i < level_count; ++i) {
        const float inv = -levels[i] * inverse(extreme);
        float slx = 0, sll = 0;
        for (int e = 0; e < n; ++e) {
            const float l = clamp(std::nearbyint(x[e] * inv), static_cast<float>(-top), static_cast<float>(top - 1));
            const float wl = weights ? weights[e] * l : l;
            slx += wl * x[e];
            sll += wl * l;
        }
        const float candidate = slx * inverse(sll);
        if (candidate * slx > best.gain) best = {candidate, candidate * slx};
    }
    return best;
}

inline float best_scale(const float* x, const float* weights, int n, int top, const float* levels, int level_count) {
    return best_step(x, weights, n, top, levels, level_count).scale;
}

// The best step of -top .. top - 1 for 32 numbers, evenly weighted: a search in whole numbers.
inline float best_even_scale(const float* x, int top, const search::EvenSteps& steps) {
    float least = 0, most = 0, sum = 0, squares = 1;  // the largest sum^2 / squares, compared without dividing
    for (int e = 0; e < 32; ++e) {
        least = std::fmin(least, x[e]);
        most = std::fmax(most, x[e]);
    }
    const float extreme = -least > most ? least : most;
    const float inv = std::fabs(extreme) > search::smallest_extreme ? -steps.whole / extreme : 0;
    for (int step = steps.first; step < steps.first + steps.count; ++step) {
        int sqx = 0, sqq = 0;
        for (int e = 0; e < 32; ++e) {
            const int fraction = static_cast<int>(std::nearbyint(x[e] * inv));
            const int q = std::min((fraction * step + (1 << 14)) >> 15, top - 1);
            sqx += q * fraction;
            sqq += q * q;
        }
        const float own = static_cast<float>(sqx), own_squares = static_cast<float>(sqq);
        if ((own * own) * squares > (sum * sum) * own_squares) {
            sum = own;
            squares = own_squares;
        }
    }
    // Which zero is the extreme depends on the machine; the sum makes it +0.
    return sum / squares * (extreme * (-1.0f / steps.whole)) + 0.0f;
}

// One span w = d * code + m of 32 numbers: the best line, or the plain one where that is nearer.
struct ShiftedSpan {
    static constexpr int n = 32;
    const float *x, *weights;  // no weights: evenly weighted
    float top, low, range, y[n], sw = 0, sy = 0, syy = 0, best = INFINITY, scale = 0, start = 0;
    half_bits d, m;

    ShiftedSpan(const float* numbers, const float* given, int top_, const search::EvenSteps& steps)
        : x(numbers), weights(given), top(static_cast<float>(top_)) {
        low = *std::min_element(x, x + n) + 0.0f;  // which zero is the smallest depends on the machine; this makes it +0
        range = (*std::max_element(x, x + n) - low) + 0.0f;
        if (weights) search_lines();
        else search_in_whole_numbers(steps);
        d = stored_half(scale);
        m = stored_half(low + start);
        const bool narrow = std::fmax(std::fabs(low) * search::narrow_of_low, search::narrow) > range;
        const half_bits plain_d = stored_half(range / top), plain_m = stored_half(low);
        if ((weights || narrow) && !(error(d, m) < error(plain_d, plain_m))) {
            d = plain_d;
            m = plain_m;
        }
    }

    void search_lines() {
        for (int e = 0; e < n; ++e) {
            y[e] = x[e] - low;
            sw += weight(e);
            sy += weight(e) * y[e];
            syy += (weight(e) * y[e]) * y[e];
        }
        for (float more : search::more_steps) try_line((top + more) / std::fmax(range, search::narrowest), 0);
        for (float more : search::more_steps) try_line((top + more) / std::fmax(range - start, search::narrowest), start);
        for (int i = 0; i < search::refits; ++i) try_line(1.0f / std::fmax(scale, search::narrowest), start);
    }

    // Fractions of the range in whole numbers, and the line through the codes that explain most of their variance.
    void search_in_whole_numbers(const search::EvenSteps& steps) {
        const float inv = range > search::smallest_extreme && range < search::largest_range ? steps.whole / range : 0;
        int fraction[n], sum = 0;
        for (int e = 0; e < n; ++e) {
            fraction[e] = inv != 0 ? static_cast<int>(std::nearbyint((x[e] - low) * inv)) : 0;
            sum += fraction[e];
        }
        float above = 0, below = 1, codes = 0;  // the largest above^2 / below, compared without dividing
        for (int step = steps.first; step < steps.first + steps.count; ++step) {
            int sl = 0, sll = 0, slf = 0;
            for (int e = 0; e < n; ++e) {
                const int l = (fraction[e] * step + (1 << 14)) >> 15;
                sl += l;
                sll += l * l;
                slf += l * fraction[e];
            }
            const float covariance = static_cast<float>(n) * static_cast<float>(slf) - static_cast<float>(sum) * static_cast<float>(sl);
            const float variance = static_cast<float>(n * sll - sl * sl);
            if ((covariance * covariance) * below > (above * above) * variance) {
                above = covariance;
                below = variance;
                codes = static_cast<float>(sl);
            }
        }
        const float slope = above / below;
        const float unit = range * (1.0f / steps.whole);
        scale = slope * unit;
        start = ((static_cast<float>(sum) - slope * codes) * (1.0f / n)) * unit;
    }

    float weight(int e) const { return weights ? weights[e] : 1.0f; }

    // The least-squares line through the codes of y from `begin` on, `inv` of them to a unit; kept where it is better.
    void try_line(float inv, float begin) {
        float sl = 0, sll = 0, sly = 0;
        for (int e = 0; e < n; ++e) {
            const float l = clamp(std::nearbyint((y[e] - begin) * inv), 0.0f, top), wl = weight(e) * l;
            sl += wl;
            sll += wl * l;
            sly += wl * y[e];
        }
        const float product = sw * sll, det = product - sl * sl;
        if (!(det > search::singular * product)) return;
        const float a = (sw * sly - sy * sl) / det, b = (sll * sy - sl * sly) / det;
        const float off = (syy + a * ((a * sll - 2.0f * sly) + (2.0f * b) * sl)) + b * (b * sw - 2.0f * sy);
        if (off < best) {
            best = off;
            scale = a;
            start = b;
        }
    }

    float code_of(float number, float d32, float m32) const {
        return clamp(std::nearbyint((number - m32) * inverse(d32)), 0.0f, top);
    }

    float error(half_bits d16, half_bits m16) const {
        const float d32 = half_to_float(d16), m32 = half_to_float(m16);
        float sum = 0;
        for (int e = 0; e < n; ++e) {
            const float r = (d32 * code_of(x[e], d32, m32) + m32) - x[e];
            sum += (weight(e) * r) * r;
        }
        return sum;
    }

    int code(int e) const { return static_cast<int>(code_of(x[e], half_to_float(d), half_to_float(m))); }
};

}  // namespace
}  // namespace fewbits
