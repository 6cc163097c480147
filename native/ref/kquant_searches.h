// The searches of K-quants: two levels of scales, fitted from the groups to the span.
#pragma once
#include "searches.h"

namespace fewbits {
namespace {

// Groups of an affine span: what is known of each while the span is fitted.
struct AffineGroup {
    std::vector<float> x, w;
    float line_scale = 0, line_min = 0, sum_w = 0, sum_wx = 0;
    float scale = 0, min = 0;  // whole numbers
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
inline void fit_line(AffineGroup& g, const float* weights, float even, const float* levels, int level_count, int top) {
    const size_t n = g.x.size();
    float squares = 0, low = 0, high = g.x[0];
    for (float x : g.x) {
        squares += x * x;
        low = std::fmin(low, x);
        high = std::fmax(high, x);
    }
    const float average = even * std::sqrt(squares * (1.0f / static_cast<float>(n)));
    std::vector<float> y(n);
    float sw = 0, sx = 0, sy = 0, syy = 0;
    g.w.resize(n);
    for (size_t e = 0; e < n; ++e) {
        g.w[e] = weights ? weights[e] : average + std::fabs(g.x[e]);
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
inline void try_neighbours(AffineGroup& g, float d, float dmin, int top, float ceiling) {
    const float rounded = g.scale;
    const AffineLine line(d, dmin, g.scale, g.min, top);
    g.error = line.error(g);
    float sl = 0;
    for (size_t e = 0; e < g.x.size(); ++e) sl += g.w[e] * line.code(g.x[e]);
    for (int step = -1; step <= 1; ++step) {
        const float scale = clamp(rounded + static_cast<float>(step), 0.0f, ceiling);
        const float fitting = ((d * scale) * sl - g.sum_wx) * inverse(g.sum_w);
        const float min = clamp(std::nearbyint(fitting * inverse(dmin)), 0.0f, ceiling);
        const float error = AffineLine(d, dmin, scale, min, top).error(g);
        if (error < g.error) {
            g.error = error;
            g.scale = scale;
            g.min = min;
        }
    }
    const AffineLine best(d, dmin, g.scale, g.min, top);
    g.sum_wl = g.sum_wll = g.sum_wlx = 0;
    for (size_t e = 0; e < g.x.size(); ++e) {
        const float l = best.code(g.x[e]), wl = g.w[e] * l;
        g.sum_wl += wl;
        g.sum_wll += wl * l;
        g.sum_wlx += wl * g.x[e];
    }
}

// How a span of 256 is divided, and how far codes and scales go; even: the share of the groups' root mean square in the
// weights.
struct AffineShape {
    int top;
    size_t groups;
    float ceiling, even;
};

struct AffineSpan {
    std::vector<AffineGroup> groups;
    half_bits d, dmin;
    int top;

    AffineSpan(const float* w, const float* weights, const AffineShape& shape, const float* levels, int level_count)
        : groups(shape.groups), top(shape.top) {
        const size_t length = 256 / shape.groups;
        float largest_scale = 0, largest_min = 0;
        for (size_t g = 0; g < shape.groups; ++g) {
            groups[g].x.assign(w + length * g, w + length * (g + 1));
            fit_line(groups[g], weights ? weights + length * g : nullptr, shape.even, levels, level_count, top);
            largest_scale = std::fmax(largest_scale, groups[g].line_scale);
            largest_min = std::fmax(largest_min, groups[g].line_min);
        }
        d = stored_half(largest_scale / shape.ceiling);
        dmin = stored_half(largest_min / shape.ceiling);
        for (AffineGroup& g : groups) {
            g.scale = clamp(std::nearbyint(g.line_scale * inverse(half_to_float(d))), 0.0f, shape.ceiling);
            g.min = clamp(std::nearbyint(g.line_min * inverse(half_to_float(dmin))), 0.0f, shape.ceiling);
        }
        for (int round = 0; round < (weights ? search::affine_weighted_rounds : 1); ++round) {
            for (AffineGroup& g : groups) try_neighbours(g, half_to_float(d), half_to_float(dmin), top, shape.ceiling);
            refit();
        }
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
        const size_t length = 256 / groups.size(), c = static_cast<size_t>(column);
        const AffineGroup& g = groups[c / length];
        const AffineLine line(half_to_float(d), half_to_float(dmin), g.scale, g.min, top);
        return static_cast<int>(line.code(g.x[c % length]));
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

// How far codes and scales of a symmetric span go, and into how many units its largest scale is divided; none: into
// scale_top, and neighbours of the rounded scales are always tried.
struct SymmetricShape {
    int top, scale_top;
    std::vector<float> scale_levels;
};

// One span w = d * scale[g] * code of 16 groups of 16.
struct SymmetricKSpan {
    const float* x;
    const float top, scale_top;
    half_bits d;
    float scale[16], weight[256];

    SymmetricKSpan(const float* w, const float* weights, const SymmetricShape& shape, const float* levels, int level_count)
        : x(w), top(static_cast<float>(shape.top)), scale_top(static_cast<float>(shape.scale_top)) {
        Step steps[16];
        for (int g = 0; g < 16; ++g) {
            set_weights(g, weights);
            steps[g] = best_step(x + 16 * g, weight + 16 * g, 16, shape.top, levels, level_count);
        }
        d = first_d(steps, shape);
        const bool neighbours = weights || shape.scale_levels.empty();
        float before = 0, after = 0, a = 0, p = 0;
        for (int g = 0; g < 16; ++g) {
            before += round_scale(g, steps[g].scale, neighbours);
            float sll = 0, slx = 0;
            for (int e = 16 * g; e < 16 * (g + 1); ++e) {
                const float l = code(e), wl = weight[e] * l;
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

    // That which rounds the scales best: curvature * (what is stored - line)^2 is what a group loses.
    static half_bits first_d(const Step* steps, const SymmetricShape& shape) {
        float line[16], curvature[16], extreme = 0;
        for (int g = 0; g < 16; ++g) {
            line[g] = steps[g].scale;
            curvature[g] = (steps[g].gain * inverse(line[g])) * inverse(line[g]);
            if (std::fabs(line[g]) > std::fabs(extreme)) extreme = line[g];
        }
        const std::vector<float>& levels = shape.scale_levels;
        if (levels.empty()) return stored_half(extreme / static_cast<float>(-shape.scale_top));
        return stored_half(best_scale(line, curvature, 16, shape.scale_top, levels.data(), static_cast<int>(levels.size())));
    }

    // Those given, or w^2 + the mean square of the group.
    void set_weights(int g, const float* weights) {
        float squares = 0;
        for (int e = 16 * g; e < 16 * (g + 1); ++e) squares += x[e] * x[e];
        for (int e = 16 * g; e < 16 * (g + 1); ++e)
            weight[e] = weights ? weights[e] : x[e] * x[e] + squares * (1.0f / 16);
    }

    // The rounded scale, or the best of it and its neighbours; returns the error that it leaves.
    float round_scale(int g, float line, bool neighbours) {
        const float rounded = clamp(std::nearbyint(line * inverse(half_to_float(d))), -scale_top, scale_top - 1);
        float error = group_error(g, d, rounded);
        scale[g] = rounded;
        if (!neighbours) return error;
        for (float near : {clamp(rounded - 1, -scale_top, scale_top - 1), clamp(rounded + 1, -scale_top, scale_top - 1)})
            if (group_error(g, d, near) < error) {
                error = group_error(g, d, near);
                scale[g] = near;
            }
        return error;
    }

    float code_of(float number, float step) const {
        return clamp(std::nearbyint(number * inverse(step)), -top, top - 1);
    }

    float group_error(int g, half_bits d16, float whole_scale) const {
        const float step = half_to_float(d16) * whole_scale;
        float sum = 0;
        for (int e = 16 * g; e < 16 * (g + 1); ++e) {
            const float r = step * code_of(x[e], step) - x[e];
            sum += (weight[e] * r) * r;
        }
        return sum;
    }

    float code(int column) const { return code_of(x[column], half_to_float(d) * scale[column / 16]); }
};

}  // namespace
}  // namespace fewbits
