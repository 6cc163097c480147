// Q1_0 and Q2_0, scalar.
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

void encode_q1_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        const float* x = w + 128 * s;
        SpanQ1_0& out = spans_at<SpanQ1_0>(stored)[s];
        LaneSum sx, sw;
        std::memset(out.q, 0, sizeof out.q);
        for (int e = 0; e < 128; ++e) {
            const float weight = weights ? weights[128 * s + e] : 1.0f;
            sx.add(e, weight * std::fabs(x[e]));
            sw.add(e, weight);
            if (x[e] >= 0) out.q[e / 8] |= byte(1 << e % 8);
        }
        out.d = stored_half(sx.total() * inverse(sw.total()));
    }
}

// What the steps -1 .. 2 (or -2 .. 1, where `negative`) mean that `step` leads to: the best d for them, and the energy
// that it removes.
struct FourSteps {
    float d, gain;
    FourSteps(const float* x, const float* weights, float step, bool negative) {
        float sx = 0, more_x = 0, sw = 0, more_w = 0;
        for (int e = 0; e < 64; ++e) {
            const float size = std::fabs(x[e]), weight = weights ? weights[e] : 1.0f;
            const bool two = negative ? x[e] < -(step * 1.5f) : x[e] > step * 1.5f;
            if (size > step * 0.5f) {
                sx += weight * size;
                sw += weight;
            }
            if (two) {
                more_x += weight * size;
                more_w += weight;
            }
        }
        const float sum = sx + more_x, size = sum * inverse(sw + 3.0f * more_w);
        gain = size * sum;
        d = negative ? -size : size;
    }
};

half_bits fit_four_steps(const float* x, const float* weights) {
    float sx = 0, sxx = 0, sxxx = 0;
    for (int e = 0; e < 64; ++e) {
        const float size = std::fabs(x[e]), weighted = (weights ? weights[e] : 1.0f) * size;
        sx += weighted;
        sxx += weighted * size;
        sxxx += (weighted * size) * size;
    }
    const float mean = sxx * inverse(sx), cubic_mean = sxxx * inverse(sxx);
    const float step = mean * search::q2_0_of_mean + cubic_mean * search::q2_0_of_cubic_mean;
    const FourSteps up(x, weights, step, false), down(x, weights, step, true);
    return stored_half(down.gain > up.gain ? down.d : up.d);
}

void encode_q2_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        const float* x = w + 64 * s;
        SpanQ2_0& out = spans_at<SpanQ2_0>(stored)[s];
        out.d = fit_four_steps(x, weights ? weights + 64 * s : nullptr);
        const float inv = inverse(half_to_float(out.d));
        std::memset(out.q, 0, sizeof out.q);
        for (int e = 0; e < 64; ++e) {
            const int code = 1 + static_cast<int>(clamp(std::nearbyint(x[e] * inv), -1.0f, 2.0f));
            out.q[e / 4] |= byte(code << (2 * (e % 4)));
        }
    }
}

void decode_q1_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 128 * spans; ++i) {
        const SpanQ1_0& in = spans_at<SpanQ1_0>(stored)[i / 128];
        const float d = half_to_float(in.d);
        w[i] = in.q[i % 128 / 8] >> (i % 8) & 1 ? d : -d;
    }
}

void decode_q2_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 64 * spans; ++i) {
        const SpanQ2_0& in = spans_at<SpanQ2_0>(stored)[i / 64];
        const int code = in.q[i % 64 / 4] >> (2 * (i % 4)) & 3;
        w[i] = half_to_float(in.d) * static_cast<float>(code - 1);
    }
}

constexpr Codec codecs[] = {
    {"Q1_0", 128, sizeof(SpanQ1_0), encode_q1_0, decode_q1_0, nullptr, true},
    {"Q2_0", 64, sizeof(SpanQ2_0), encode_q2_0, decode_q2_0, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(tiny, codecs)

}  // namespace fewbits
