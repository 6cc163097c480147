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

// Groups of an affine span: what is known of each while the span is fitted.
struct AffineGroup {
    std::vector<float> x, w;
    float line_scale = 0, line_min = 0, sum_w = 0, sum_wx = 0;
    float scale = 0, min = 0;  // whole numbers 0 .. 63
    float error = 0, sum_wl = 0, sum_wll = 0, sum_wlx = 0;
};

struct AffineLine {
    float scale, min, inv;
    int top;
    AffineLine(float d, float dmin, float scale_, float min_, int top_)
        : scale(d * scale_), min(dmin * min_), inv(inverse(scale)), top(top_) {}
    float code(float x) const { return clamp(std::nearbyint((x + min) * inv), 0.0f, static_cast<float>(top)); }
    float error(const AffineGroup& g) const {
        float sum = 0;
        for (size_t e = 0; e < g.x.size(); ++e) {
            const float r = (scale * code(g.x[e]) - min) - g.x[e];
            sum += (g.w[e] * r) * r;
        }
        return sum;
    }
};

// Step 1: the best line through the codes of each candidate range, the next starting from its minimum.
inline void fit_line(AffineGroup& g, const float* levels, int level_count, int top) {
    const size_t n = g.x.size();
    float squares = 0, low = 0, high = g.x[0];
    for (float x : g.x) {
        squares += x * x;
        low = std::fmin(low, x);
        high = std::fmax(high, x);
    }
    const float average = std::sqrt(squares * (1.0f / static_cast<float>(n)));
    std::vector<float> y(n);
    float sw = 0, sx = 0, sy = 0, syy = 0;
    g.w.resize(n);
    for (size_t e = 0; e < n; ++e) {
        g.w[e] = average + std::fabs(g.x[e]);
        y[e] = g.x[e] - low;
        sw += g.w[e];
        sx += g.w[e] * g.x[e];
        sy += g.w[e] * y[e];
        syy += (g.w[e] * y[e]) * y[e];
    }
    const float range = high - low, at_zero = 0.0f - low;
    float best = INFINITY, start = 0;
    for (int i = 0; i < level_count; ++i) {
        const float inv = levels[i] * inverse(std::fmax(range - start, 0.0f));
        float sl = 0, sll = 0, sly = 0;
        for (size_t e = 0; e < n; ++e) {
            const float l = clamp(std::nearbyint((y[e] - start) * inv), 0.0f, static_cast<float>(top));
            const float wl = g.w[e] * l;
            sl += wl;
            sll += wl * l;
            sly += wl * y[e];
        }
        if (!(sll > 0)) continue;
        const float product = sw * sll, det = product - sl * sl;
        float scale = (sly - at_zero * sl) / sll, b = at_zero;  // the line through zero
        if (det > search::singular * product) {
            const float free_start = (sll * sy - sl * sly) / det;
            if (free_start < at_zero) {
                b = free_start;
                scale = (sw * sly - sy * sl) / det;
            }
        }
        const float error = (syy + scale * ((scale * sll - 2.0f * sly) + (2.0f * b) * sl)) + b * (b * sw - 2.0f * sy);
        if (error < best) {
            best = error;
            g.line_scale = scale;
            start = b;
        }
    }
    g.line_scale = std::fmax(g.line_scale, 0.0f);
    g.line_min = std::fmax(at_zero - start, 0.0f);
    g.sum_w = sw;
    g.sum_wx = sx;
}

// Step 2: the neighbours of the rounded scale, each with the minimum that fits it best.
inline void try_neighbours(AffineGroup& g, float d, float dmin, int top) {
    const float rounded = g.scale;
    const AffineLine line(d, dmin, g.scale, g.min, top);
    g.error = line.error(g);
    float sl = 0;
    for (size_t e = 0; e < g.x.size(); ++e) sl += g.w[e] * line.code(g.x[e]);
    for (int step = -1; step <= 1; ++step) {
        const float scale = clamp(rounded + static_cast<float>(step), 0.0f, 63.0f);
        const float fitting = ((d * scale) * sl - g.sum_wx) * inverse(g.sum_w);
        const float min = clamp(std::nearbyint(fitting * inverse(dmin)), 0.0f, 63.0f);
        const float error = AffineLine(d, dmin, scale, min, top).error(g);
        if (error < g.error) {
            g.error = error;
            g.scale = scale;
            g.min = min;
        }
    }
    const AffineLine best(d, dmin, g.scale, g.min, top);
    for (size_t e = 0; e < g.x.size(); ++e) {
        const float l = best.code(g.x[e]), wl = g.w[e] * l;
        g.sum_wl += wl;
        g.sum_wll += wl * l;
        g.sum_wlx += wl * g.x[e];
    }
}

struct AffineSpan {
    std::vector<AffineGroup> groups;
    half_bits d, dmin;
    int top;

    AffineSpan(const float* w, const float* levels, int level_count, int top_) : groups(8), top(top_) {
        float largest_scale = 0, largest_min = 0;
        for (size_t g = 0; g < 8; ++g) {
            groups[g].x.assign(w + 32 * g, w + 32 * (g + 1));
            fit_line(groups[g], levels, level_count, top);
            largest_scale = std::fmax(largest_scale, groups[g].line_scale);
            largest_min = std::fmax(largest_min, groups[g].line_min);
        }
        d = stored_half(largest_scale / 63.0f);
        dmin = stored_half(largest_min / 63.0f);
        for (AffineGroup& g : groups) {
            g.scale = clamp(std::nearbyint(g.line_scale * inverse(half_to_float(d))), 0.0f, 63.0f);
            g.min = clamp(std::nearbyint(g.line_min * inverse(half_to_float(dmin))), 0.0f, 63.0f);
            try_neighbours(g, half_to_float(d), half_to_float(dmin), top);
        }
        refit();
    }

    // Step 3: d and dmin by least squares over the span, kept where the error falls.
    void refit() {
        float a = 0, b = 0, c = 0, p = 0, q = 0, before = 0, after = 0;
        for (const AffineGroup& g : groups) {
            a += (g.scale * g.scale) * g.sum_wll;
            b += (g.scale * g.min) * g.sum_wl;
            c += (g.min * g.min) * g.sum_w;
            p += g.scale * g.sum_wlx;
            q += g.min * g.sum_wx;
        }
        float new_d = half_to_float(d), new_dmin = half_to_float(dmin);
        const float det = a * c - b * b;
        if (det > search::singular * (a * c)) {
            new_d = (p * c - q * b) / det;
            new_dmin = (p * b - q * a) / det;
        } else if (c == 0 && a > 0) {
            new_d = p / a;
        }
        const half_bits d16 = stored_half(std::fmax(new_d, 0.0f)), dmin16 = stored_half(std::fmax(new_dmin, 0.0f));
        for (const AffineGroup& g : groups) {
            before += g.error;
            after += AffineLine(half_to_float(d16), half_to_float(dmin16), g.scale, g.min, top).error(g);
        }
        if (after < before) {
            d = d16;
            dmin = dmin16;
        }
    }

    int code(int column) const {
        const AffineGroup& g = groups[static_cast<size_t>(column / 32)];
        const AffineLine line(half_to_float(d), half_to_float(dmin), g.scale, g.min, top);
        return static_cast<int>(line.code(g.x[static_cast<size_t>(column % 32)]));
    }

    void pack_scales(uint8_t* packed) const {
        for (size_t g = 0; g < 4; ++g) {
            const int s = static_cast<int>(groups[g].scale), m = static_cast<int>(groups[g].min);
            const int s4 = static_cast<int>(groups[g + 4].scale), m4 = static_cast<int>(groups[g + 4].min);
            packed[g] = static_cast<uint8_t>(s + 64 * (s4 / 16));
            packed[g + 4] = static_cast<uint8_t>(m + 64 * (m4 / 16));
            packed[g + 8] = static_cast<uint8_t>(s4 % 16 + 16 * (m4 % 16));
        }
    }
};

// The best step of a symmetric grid for `n` numbers, each weighted by `weight(number)`.
template <typename Weight>
float best_scale(const float* x, int n, Weight weight, int top, const float* levels, int level_count) {
    float least = 0, most = 0, best = 0, scale = 0;
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
            const float wl = weight(x[e]) * l;
            slx += wl * x[e];
            sll += wl * l;
        }
        const float candidate = slx * inverse(sll);
        if (candidate * slx > best) {
            best = candidate * slx;
            scale = candidate;
        }
    }
    return scale;
}

// The best step of Q4_0 for 32 numbers, evenly weighted: a search in whole numbers.
inline float best_even_scale(const float* x) {
    float least = 0, most = 0, best = 0, scale = 0;
    for (int e = 0; e < 32; ++e) {
        least = std::fmin(least, x[e]);
        most = std::fmax(most, x[e]);
    }
    const float extreme = -least > most ? least : most;
    const float inv = std::fabs(extreme) > search::smallest_extreme ? -search::q4_0_whole / extreme : 0;
    for (int step : search::q4_0_steps) {
        int sqx = 0, sqq = 0;
        for (int e = 0; e < 32; ++e) {
            const int fraction = static_cast<int>(std::nearbyint(x[e] * inv));
            const int q = std::min((fraction * step + (1 << 14)) >> 15, 7);
            sqx += q * fraction;
            sqq += q * q;
        }
        const float sum = static_cast<float>(sqx), candidate = sum * inverse(static_cast<float>(sqq));
        if (candidate * sum > best) {
            best = candidate * sum;
            scale = candidate;
        }
    }
    // Which zero is the extreme depends on the machine; the sum makes it +0.
    return scale * (extreme * (-1.0f / search::q4_0_whole)) + 0.0f;
}

// One span w = d * code + m of 32 numbers, evenly weighted: the best line, or the plain one where that is nearer.
struct ShiftedSpan {
    static constexpr int n = 32, top = 31;
    const float* x;
    half_bits d, m;

    explicit ShiftedSpan(const float* w) : x(w) {
        float low = x[0], high = x[0];
        for (int e = 1; e < n; ++e) {
            low = std::fmin(low, x[e]);
            high = std::fmax(high, x[e]);
        }
        low += 0.0f;  // which zero is the smallest depends on the machine; this makes it +0
        const float range = (high - low) + 0.0f;
        fit_line(low, range);
        const half_bits plain_d = stored_half(range / 31.0f), plain_m = stored_half(low);
        if (!(error(d, m) < error(plain_d, plain_m))) {
            d = plain_d;
            m = plain_m;
        }
    }

    void fit_line(float low, float range) {
        float y[n], sy = 0, syy = 0, best = INFINITY, scale = 0, start = 0;
        for (int e = 0; e < n; ++e) {
            y[e] = x[e] - low;
            sy += y[e];
            syy += y[e] * y[e];
        }
        for (float level : search::q5_1_levels) {
            const float inv = level / std::fmax(range - start, search::narrowest);
            float sl = 0, sll = 0, sly = 0;
            for (int e = 0; e < n; ++e) {
                const float l = clamp(std::nearbyint((y[e] - start) * inv), 0.0f, static_cast<float>(top));
                sl += l;
                sll += l * l;
                sly += l * y[e];
            }
            const float product = n * sll, det = product - sl * sl;
            if (!(det > search::singular * product)) continue;
            const float a = (n * sly - sy * sl) / det, b = (sll * sy - sl * sly) / det;
            const float off = (syy + a * ((a * sll - 2.0f * sly) + (2.0f * b) * sl)) + b * (b * n - 2.0f * sy);
            if (off < best) {
                best = off;
                scale = a;
                start = b;
            }
        }
        d = stored_half(scale);
        m = stored_half(low + start);
    }

    static float code_of(float number, float d32, float m32) {
        return clamp(std::nearbyint((number - m32) * inverse(d32)), 0.0f, static_cast<float>(top));
    }

    float error(half_bits d16, half_bits m16) const {
        const float d32 = half_to_float(d16), m32 = half_to_float(m16);
        float sum = 0;
        for (int e = 0; e < n; ++e) {
            const float r = (d32 * code_of(x[e], d32, m32) + m32) - x[e];
            sum += r * r;
        }
        return sum;
    }

    int code(int e) const { return static_cast<int>(code_of(x[e], half_to_float(d), half_to_float(m))); }
};

struct SymmetricSpan6 {
    const float* x;
    half_bits d;
    float scale[16], mean_square[16];

    explicit SymmetricSpan6(const float* w) : x(w) {
        float line[16], extreme = 0;
        for (int g = 0; g < 16; ++g) {
            float squares = 0;
            for (int e = 16 * g; e < 16 * (g + 1); ++e) squares += x[e] * x[e];
            mean_square[g] = squares * (1.0f / 16);
            line[g] = best_scale(x + 16 * g, 16, [&](float w) { return weight(g, w); }, 32, search::q6_k_levels, 7);
            if (std::fabs(line[g]) > std::fabs(extreme)) extreme = line[g];
        }
        d = stored_half(extreme / -128.0f);
        float before = 0, after = 0, a = 0, p = 0;
        for (int g = 0; g < 16; ++g) {
            const float rounded = clamp(std::nearbyint(line[g] * inverse(half_to_float(d))), -128.0f, 127.0f);
            float error = group_error(g, d, rounded);
            scale[g] = rounded;
            for (float near : {clamp(rounded - 1, -128.0f, 127.0f), clamp(rounded + 1, -128.0f, 127.0f)})
                if (group_error(g, d, near) < error) {
                    error = group_error(g, d, near);
                    scale[g] = near;
                }
            before += error;
            float sll = 0, slx = 0;
            for (int e = 16 * g; e < 16 * (g + 1); ++e) {
                const float l = code(e), wl = weight(g, x[e]) * l;
                sll += wl * l;
                slx += wl * x[e];
            }
            a += (scale[g] * scale[g]) * sll;
            p += scale[g] * slx;
        }
        const half_bits refitted = a > 0 ? stored_half(p / a) : d;
        for (int g = 0; g < 16; ++g) after += group_error(g, refitted, scale[g]);
        if (after < before) d = refitted;
    }

    float weight(int g, float w) const { return w * w + mean_square[g]; }

    static float code_of(float number, float step) { return clamp(std::nearbyint(number * inverse(step)), -32.0f, 31.0f); }

    float group_error(int g, half_bits d16, float whole_scale) const {
        const float step = half_to_float(d16) * whole_scale;
        float sum = 0;
        for (int e = 16 * g; e < 16 * (g + 1); ++e) {
            const float r = step * code_of(x[e], step) - x[e];
            sum += (weight(g, x[e]) * r) * r;
        }
        return sum;
    }

    float code(int column) const { return code_of(x[column], half_to_float(d) * scale[column / 16]); }
};

}  // namespace
}  // namespace fewbits
