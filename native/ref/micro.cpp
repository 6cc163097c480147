// MXFP4 and NVFP4, scalar.
#include "fewbits/micro.h"
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

// The code whose number is nearest to x in steps of d; of two, the even one.
int nearest_code(float x, float d) {
    const float y = d != 0.0f ? std::fabs(x / d) : 0.0f;
    int code = 0;
    for (int other = 1; other < 8; ++other) {
        const float middle = 0.5f * static_cast<float>(twice_e2m1[other - 1] + twice_e2m1[other]);
        if (y > middle || (y == middle && other % 2 == 0)) code = other;
    }
    return std::signbit(x) ? code + 8 : code;
}

float largest_of(const float* x, int length) {
    float most = 0;
    for (int e = 0; e < length; ++e) most = std::fmax(most, std::fabs(x[e]));
    return most;
}

// The number, a multiple of a power of two, that y >= 0 is rounded to: twice an E2M1 number.
float rounded(float y) { return 2.0f * from_mini(e2m1, to_mini(e2m1, 0.5f * y)); }

uint8_t mxfp4_scale(const float* x, const float* weights) {
    const float most = largest_of(x, 32);
    if (!(most > 0)) return 0;
    const auto within = [](int scale) { return std::min(std::max(scale, search::mxfp4_lowest), search::mxfp4_highest); };
    int exponent;
    const bool above = std::frexp(most, &exponent) > 14.5f / 16.0f;
    if (!weights) return byte(within(exponent + 124 + above));
    const int scale = within(exponent + 124);
    LaneSum errors[2];
    for (int e = 0; e < 32; ++e)
        for (int twice = 0; twice < 2; ++twice) {
            const float y = std::fabs(x[e]) * power_of_two(128 - scale), step = twice ? 2.0f : 1.0f;
            const float r = step * rounded(y / step) - y;
            errors[twice].add(e, (weights[e] * r) * r);
        }
    return byte(errors[1].total() < errors[0].total() && scale < search::mxfp4_highest ? scale + 1 : scale);
}

uint8_t nvfp4_scale(const float* x, const float* weights) {
    const float most = largest_of(x, 16);
    if (!(most > 0)) return 0;
    const int first = std::max<int>(to_mini(e4m3, most / 6.0f), 1);
    float best = INFINITY;
    int scale = first;
    for (int neighbour : search::nvfp4_neighbours) {
        int near = std::min(first + neighbour, 126);
        if (near < 8 && near < first) near = first;
        const float d = nvfp4_step(byte(near)), inv = inverse(d);
        float error = 0;
        for (int e = 0; e < 16; ++e) {
            const float size = std::fabs(x[e]), r = d * rounded(size * inv) - size;
            error += ((weights ? weights[e] : 1.0f) * r) * r;
        }
        if (!(error < best)) continue;
        best = error;
        scale = near;
    }
    return byte(scale);
}

void encode_mxfp4(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        const float* x = w + 32 * s;
        SpanMXFP4& out = spans_at<SpanMXFP4>(stored)[s];
        out.scale = mxfp4_scale(x, weights ? weights + 32 * s : nullptr);
        const float d = mxfp4_step(out.scale);
        for (int e = 0; e < 16; ++e) out.q[e] = byte(nearest_code(x[e], d) | nearest_code(x[e + 16], d) << 4);
    }
}

void encode_nvfp4(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t g = 0; g < 4 * spans; ++g) {
        const float* x = w + 16 * g;
        SpanNVFP4& out = spans_at<SpanNVFP4>(stored)[g / 4];
        const uint8_t scale = nvfp4_scale(x, weights ? weights + 16 * g : nullptr);
        const float d = nvfp4_step(scale);
        out.scales[g % 4] = scale;
        for (int e = 0; e < 8; ++e) out.q[8 * (g % 4) + e] = byte(nearest_code(x[e], d) | nearest_code(x[e + 8], d) << 4);
    }
}

void decode_mxfp4(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanMXFP4& in = spans_at<SpanMXFP4>(stored)[i / 32];
        const int code = in.q[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
        w[i] = mxfp4_step(in.scale) * static_cast<float>(twice_e2m1[code]);
    }
}

void decode_nvfp4(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 64 * spans; ++i) {
        const SpanNVFP4& in = spans_at<SpanNVFP4>(stored)[i / 64];
        const int group = static_cast<int>(i % 64 / 16), e = static_cast<int>(i % 16);
        const int code = in.q[8 * group + e % 8] >> (e < 8 ? 0 : 4) & 15;
        w[i] = nvfp4_step(in.scales[group]) * static_cast<float>(twice_e2m1[code]);
    }
}

constexpr Codec codecs[] = {
    {"MXFP4", 32, sizeof(SpanMXFP4), encode_mxfp4, decode_mxfp4, nullptr, true},
    {"NVFP4", 64, sizeof(SpanNVFP4), encode_nvfp4, decode_nvfp4, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(micro, codecs)

}  // namespace fewbits
