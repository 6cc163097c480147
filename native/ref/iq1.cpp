// Formats of less than two bits, scalar: vectors of eight from a lattice of -1, 0 and 1, all shifted by an eighth.
#include "importance.h"
#include "searches.h"
#include "spans.h"
#include "ternary_vectors.h"

namespace fewbits {
namespace {

// Groups of `length` numbers of which `shared` have a shift in common.
template <int length, int shared>
struct TernaryGroup {
    const float *x, *w;

    // Sums of w * number * x and w * number^2, each number at its nearest level and every shift at its best.
    void moments(float step, float* slx, float* sll) const {
        *slx = *sll = 0;
        for (int at = 0; at < length; at += shared) {
            float lx[2] = {}, ll[2] = {};
            for (int e = at; e < at + shared; ++e)
                for (int down = 0; down < 2; ++down) {
                    const float shift = down ? -search::iq1_shift : search::iq1_shift;
                    const float number = clamp(std::nearbyint(x[e] * inverse(step) - shift), -1.0f, 1.0f) + shift;
                    lx[down] += (w[e] * number) * x[e];
                    ll[down] += (w[e] * number) * number;
                }
            const int best = error(step, lx[0], ll[0]) <= error(step, lx[1], ll[1]) ? 0 : 1;
            *slx += lx[best];
            *sll += ll[best];
        }
    }

    // Up to the energy of the numbers.
    static float error(float step, float slx, float sll) { return step * (step * sll - 2.0f * slx); }

    float error(float step) const {
        float slx, sll;
        moments(step, &slx, &sll);
        return error(step, slx, sll);
    }

    float best_step() const {
        float largest = 0, best = 0, step = 0;
        for (int e = 0; e < length; ++e) largest = std::fmax(largest, std::fabs(x[e]));
        if (!(largest > search::narrowest)) largest = 0;
        for (float level : search::iq1_levels) {
            float slx, sll;
            moments(largest * level, &slx, &sll);
            const float candidate = slx * inverse(sll);
            if (candidate * slx > best) {
                best = candidate * slx;
                step = candidate;
            }
        }
        return std::fmax(step, 0.0f);
    }
};

// One span: d, a scale per group, a point and a shift per vector.
template <int length, int shared>
struct TernarySpan {
    static constexpr int groups = 256 / length;
    using Group = TernaryGroup<length, shared>;
    half_bits d = 0;
    int scale[groups] = {}, point[32];
    bool down[32];

    TernarySpan(const float* w, const float* weights) {
        Group group[groups];
        float step[groups], largest = 0, least = INFINITY;
        for (int g = 0; g < groups; ++g) {
            group[g] = {w + length * g, weights + length * g};
            step[g] = group[g].best_step();
            largest = std::fmax(largest, step[g]);
        }
        for (float units : search::iq1_units) {
            const half_bits candidate = stored_half(largest / units);
            int near[groups];
            float total = 0;
            for (int g = 0; g < groups; ++g) total += round_scale(group[g], step[g], half_to_float(candidate), &near[g]);
            if (!(total < least)) continue;
            least = total;
            d = candidate;
            std::copy(near, near + groups, scale);
        }
        for (int g = 0; g < groups; ++g)
            for (int at = 0; at < length; at += shared) choose_points(w + length * g + at, weights + length * g + at, g, at / 8);
    }

    // The best of three scales around a step; returns its error.
    static float round_scale(const Group& group, float step, float unit, int* scale) {
        const float rounded = std::nearbyint((step * inverse(unit) - 1.0f) * 0.5f);
        float least = INFINITY;
        for (float off : {-1.0f, 0.0f, 1.0f}) {
            const float near = clamp(rounded + off, 0.0f, 7.0f), error = group.error(unit * (2.0f * near + 1.0f));
            if (!(error < least)) continue;
            least = error;
            *scale = static_cast<int>(near);
        }
        return least;
    }

    // Points and the shift of `shared` columns of group g, from its vector `first` on.
    void choose_points(const float* x, const float* w, int g, int first) {
        const float step = half_to_float(d) * (2.0f * static_cast<float>(scale[g]) + 1.0f);
        Found found[2][shared / 8];
        float error[2] = {};
        for (int side = 0; side < 2; ++side)
            for (int v = 0; v < shared / 8; ++v) {
                const float shift = side ? -search::iq1_shift : search::iq1_shift;
                found[side][v] = nearest_point({x + 8 * v, w + 8 * v, step, shift});
                error[side] += found[side][v].error;
            }
        const int side = error[0] <= error[1] ? 0 : 1;
        for (int v = 0; v < shared / 8; ++v) {
            point[g * length / 8 + first + v] = found[side][v].point;
            down[g * length / 8 + first + v] = side == 1;
        }
    }
};

void encode_iq1_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const std::vector<float> even(256, 1.0f);
    for (int64_t s = 0; s < spans; ++s) {
        float own[256];
        if (!weights) weigh_by_spread<256>(w + 256 * s, even.data(), 1, 256, own);
        const TernarySpan<32, 32> span(w + 256 * s, weights ? weights + 256 * s : own);
        SpanIQ1_S& out = spans_at<SpanIQ1_S>(stored)[s];
        out.d = span.d;
        for (int v = 0; v < 32; ++v) out.low[v] = byte(span.point[v] % 256);
        for (int g = 0; g < 8; ++g) {
            int high = 4096 * span.scale[g] + 32768 * span.down[4 * g];
            for (int v = 0; v < 4; ++v) high += span.point[4 * g + v] / 256 << (3 * v);
            out.high[g] = static_cast<uint16_t>(high);
        }
    }
}

void encode_iq1_m(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        float own[256];
        for (int g = 0; g < 256; g += 16) {
            const float* x = w + 256 * s + g;
            float squares = 0;
            for (int e = 0; e < 16; ++e) squares += x[e] * x[e];
            for (int e = 0; e < 16; ++e) own[g + e] = x[e] * x[e] + squares * (1.0f / 16);
        }
        const TernarySpan<16, 8> span(w + 256 * s, weights ? weights + 256 * s : own);
        SpanIQ1_M& out = spans_at<SpanIQ1_M>(stored)[s];
        std::memset(&out, 0, sizeof out);
        for (int v = 0; v < 32; ++v) {
            out.low[v] = byte(span.point[v] % 256);
            out.high[v / 2] |= byte((span.point[v] / 256 + 8 * span.down[v]) << (v % 2 * 4));
        }
        for (int word = 0; word < 4; ++word) {
            int bits = (span.d >> (4 * word) & 15) << 12;
            for (int g = 0; g < 4; ++g) bits += span.scale[4 * word + g] << (3 * g);
            out.scales[2 * word] = byte(bits % 256);
            out.scales[2 * word + 1] = byte(bits / 256);
        }
    }
}

float number_of(float step, int point, int e, bool down) {
    const float shift = down ? -search::iq1_shift : search::iq1_shift;
    return step * (static_cast<float>(points().points[8 * point + e]) + shift);
}

void decode_iq1_s(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ1_S& in = spans_at<SpanIQ1_S>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), v = c / 8, high = in.high[c / 32];
        const float step = half_to_float(in.d) * static_cast<float>(2 * (high >> 12 & 7) + 1);
        w[i] = number_of(step, in.low[v] + 256 * (high >> (3 * (v % 4)) & 7), c % 8, high >> 15 & 1);
    }
}

void decode_iq1_m(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ1_M& in = spans_at<SpanIQ1_M>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), v = c / 8, g = c / 16, high = in.high[v / 2] >> (v % 2 * 4);
        const auto word = [&](int k) { return in.scales[2 * k] + 256 * in.scales[2 * k + 1]; };
        int d = 0;
        for (int k = 0; k < 4; ++k) d += (word(k) >> 12) << (4 * k);
        const int scale = word(g / 4) >> (3 * (g % 4)) & 7;
        const float step = half_to_float(static_cast<half_bits>(d)) * static_cast<float>(2 * scale + 1);
        w[i] = number_of(step, in.low[v] + 256 * (high & 7), c % 8, high & 8);
    }
}

constexpr Codec codecs[] = {
    {"IQ1_S", 256, sizeof(SpanIQ1_S), encode_iq1_s, decode_iq1_s, weigh_by_spread<256>, true, "IQ1_S"},
    {"IQ1_M", 256, sizeof(SpanIQ1_M), encode_iq1_m, decode_iq1_m, weigh_by_spread<256>, true, "IQ1_S"},
};

}  // namespace

FEWBITS_FAMILY(iq1, codecs)

}  // namespace fewbits
