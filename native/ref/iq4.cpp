// Formats whose codes index a table of sixteen uneven numbers, scalar.
#include "importance.h"
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

// How many halfways between neighbours of the table lie at or below x; all of them for NaN.
int nearest_code(float x) {
    int code = 0;
    for (int k = 1; k < 16; ++k) code += !(static_cast<float>(iq4_table[k - 1] + iq4_table[k]) * 0.5f > x);
    return code;
}

float number_at(int code) { return static_cast<float>(iq4_table[code]); }

// 32 numbers and the weights of their errors: those given, or w^2 + the mean square.
struct TabledGroup {
    const float* x;
    float w[32];

    TabledGroup(const float* numbers, const float* weights) : x(numbers) {
        float squares = 0;
        for (int e = 0; e < 32; ++e) squares += x[e] * x[e];
        for (int e = 0; e < 32; ++e) w[e] = weights ? weights[e] : x[e] * x[e] + squares * (1.0f / 32);
    }

    int code(int e, float step) const { return nearest_code(x[e] * inverse(step)); }

    float error(float step) const {
        float sum = 0;
        for (int e = 0; e < 32; ++e) {
            const float r = step * number_at(code(e, step)) - x[e];
            sum += (w[e] * r) * r;
        }
        return sum;
    }

    // Sums of w * number * x and w * number^2 with each x times `inv` rounded to the table.
    void moments(float inv, float* slx, float* sll) const {
        *slx = *sll = 0;
        for (int e = 0; e < 32; ++e) {
            const float number = number_at(nearest_code(x[e] * inv)), weighted = w[e] * number;
            *slx += weighted * x[e];
            *sll += weighted * number;
        }
    }

    float best_scale() const {
        float extreme = 0, best = 0, scale = 0;
        for (int e = 0; e < 32; ++e)
            if (std::fabs(x[e]) > std::fabs(extreme)) extreme = x[e];
        for (float level : search::iq4_levels) {
            float slx, sll;
            moments(level * inverse(extreme), &slx, &sll);
            const float candidate = slx * inverse(sll);
            if (candidate * slx > best) {
                best = candidate * slx;
                scale = candidate;
            }
        }
        return scale;
    }
};

void encode_iq4_nl(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanIQ4_NL& out = spans_at<SpanIQ4_NL>(stored)[s];
        const TabledGroup group(w + 32 * s, weights ? weights + 32 * s : nullptr);
        out.d = stored_half(group.best_scale());
        const float d = half_to_float(out.d);
        for (int e = 0; e < 16; ++e) out.q[e] = byte(group.code(e, d) | group.code(e + 16, d) << 4);
    }
}

// The eight groups of a span: scales rounded with their neighbours tried, then d by least squares.
struct TabledSpan {
    std::vector<TabledGroup> groups;
    half_bits d;
    float scale[8];

    TabledSpan(const float* w, const float* weights) {
        float line[8], extreme = 0, before = 0, after = 0, a = 0, p = 0;
        for (int g = 0; g < 8; ++g) {
            groups.emplace_back(w + 32 * g, weights ? weights + 32 * g : nullptr);
            line[g] = groups.back().best_scale();
            if (std::fabs(line[g]) > std::fabs(extreme)) extreme = line[g];
        }
        d = stored_half(extreme / -32.0f);
        for (int g = 0; g < 8; ++g) {
            before += round_scale(g, line[g]);
            float slx, sll;
            groups[static_cast<size_t>(g)].moments(inverse(step(d, g)), &slx, &sll);
            a += (scale[g] * scale[g]) * sll;
            p += scale[g] * slx;
        }
        const half_bits refitted = a > 0 ? stored_half(p / a) : d;
        for (int g = 0; g < 8; ++g) after += groups[static_cast<size_t>(g)].error(step(refitted, g));
        if (after < before) d = refitted;
    }

    float step(half_bits d16, int g) const { return half_to_float(d16) * scale[g]; }

    // Leaves the best of the rounded scale and its neighbours; returns its error.
    float round_scale(int g, float line) {
        const TabledGroup& group = groups[static_cast<size_t>(g)];
        const float rounded = clamp(std::nearbyint(line * inverse(half_to_float(d))), -32.0f, 31.0f);
        scale[g] = rounded;
        float error = group.error(step(d, g));
        for (float near : {clamp(rounded - 1, -32.0f, 31.0f), clamp(rounded + 1, -32.0f, 31.0f)}) {
            const float candidate = group.error(half_to_float(d) * near);
            if (!(candidate < error)) continue;
            error = candidate;
            scale[g] = near;
        }
        return error;
    }
};

void encode_iq4_xs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanIQ4_XS& out = spans_at<SpanIQ4_XS>(stored)[s];
        const TabledSpan span(w + 256 * s, weights ? weights + 256 * s : nullptr);
        std::memset(&out, 0, sizeof out);
        out.d = span.d;
        for (int g = 0; g < 8; ++g) {
            const int scale = static_cast<int>(span.scale[g]) + 32;
            out.high[g / 4] |= byte((scale >> 4) << (g % 4 * 2));
            out.low[g / 2] |= byte((scale & 15) << (g % 2 * 4));
            for (int e = 0; e < 32; ++e)
                out.q[16 * g + e % 16] |= byte(span.groups[static_cast<size_t>(g)].code(e, span.step(span.d, g)) << (e / 16 * 4));
        }
    }
}

void decode_iq4_nl(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanIQ4_NL& in = spans_at<SpanIQ4_NL>(stored)[i / 32];
        w[i] = half_to_float(in.d) * number_at(in.q[i % 16] >> (i % 32 / 16 * 4) & 15);
    }
}

void decode_iq4_xs(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ4_XS& in = spans_at<SpanIQ4_XS>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), g = c / 32;
        const int scale = (in.low[g / 2] >> (g % 2 * 4) & 15) + 16 * (in.high[g / 4] >> (g % 4 * 2) & 3);
        const float step = half_to_float(in.d) * static_cast<float>(scale - 32);
        w[i] = step * number_at(in.q[16 * g + c % 16] >> (c % 32 / 16 * 4) & 15);
    }
}

constexpr Codec codecs[] = {
    {"IQ4_NL", 32, sizeof(SpanIQ4_NL), encode_iq4_nl, decode_iq4_nl, weigh_by_spread<32>, true},
    {"IQ4_XS", 256, sizeof(SpanIQ4_XS), encode_iq4_xs, decode_iq4_xs, weigh_by_spread<256>, true},
};

}  // namespace

FEWBITS_FAMILY(iq4, codecs)

}  // namespace fewbits
