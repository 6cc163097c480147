// The scalar K-quants.
#include "importance.h"
#include "kquant_searches.h"
#include "spans.h"

namespace fewbits {
namespace {

constexpr AffineShape q2_k{3, 16, 15.0f, 0.125f}, q4_k{15, 8, 63.0f, 1.0f}, q5_k{31, 8, 63.0f, 1.0f};
const SymmetricShape q3_k{4, 32, {std::begin(search::q3_k_scale_levels), std::end(search::q3_k_scale_levels)}};
const SymmetricShape q6_k{32, 128, {}};

template <int n>
AffineSpan fitted(const float* w, const float* weights, const AffineShape& shape, const float (&levels)[n]) {
    return AffineSpan(w, weights, shape, levels, n);
}

template <int n>
SymmetricKSpan fitted(const float* w, const float* weights, const SymmetricShape& shape, const float (&levels)[n]) {
    return SymmetricKSpan(w, weights, shape, levels, n);
}

const float* of_span(const float* weights, int64_t s) { return weights ? weights + 256 * s : nullptr; }

// Two bits of column c: byte c % 32 of its half of the span.
void put_pair(uint8_t* q, int c, int pair) { q[32 * (c / 128) + c % 32] |= byte(pair << (2 * (c / 32 % 4))); }
int pair_at(const uint8_t* q, int c) { return q[32 * (c / 128) + c % 32] >> (2 * (c / 32 % 4)) & 3; }

void encode_q2_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ2_K& out = spans_at<SpanQ2_K>(stored)[s];
        const AffineSpan span = weights ? fitted(w + 256 * s, of_span(weights, s), q2_k, search::q2_k_weighted_levels)
                                        : fitted(w + 256 * s, nullptr, q2_k, search::q2_k_levels);
        std::memset(&out, 0, sizeof out);
        out.d = span.d;
        out.dmin = span.dmin;
        for (size_t g = 0; g < 16; ++g)
            out.scales[g] = byte(static_cast<int>(span.groups[g].scale) + 16 * static_cast<int>(span.groups[g].min));
        for (int c = 0; c < 256; ++c) put_pair(out.q, c, span.code(c));
    }
}

void encode_q3_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ3_K& out = spans_at<SpanQ3_K>(stored)[s];
        const SymmetricKSpan span = weights ? fitted(w + 256 * s, of_span(weights, s), q3_k, search::q3_k_weighted_levels)
                                            : fitted(w + 256 * s, nullptr, q3_k, search::q3_k_levels);
        std::memset(&out, 0, sizeof out);
        out.d = span.d;
        for (int g = 0; g < 16; ++g) {
            const int scale = static_cast<int>(span.scale[g]) + 32;
            out.scales[g % 8] |= byte((scale & 15) << (4 * (g / 8)));
            out.scales[8 + g % 4] |= byte((scale >> 4) << (2 * (g / 4)));
        }
        for (int c = 0; c < 256; ++c) {
            const int code = static_cast<int>(span.code(c)) + 4;
            put_pair(out.q, c, code & 3);
            out.high[c % 32] |= byte((code >> 2) << (c / 32));
        }
    }
}

void encode_q4_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_K& out = spans_at<SpanQ4_K>(stored)[s];
        const AffineSpan span = weights ? fitted(w + 256 * s, of_span(weights, s), q4_k, search::q4_k_weighted_levels)
                                        : fitted(w + 256 * s, nullptr, q4_k, search::q4_k_levels);
        out.d = span.d;
        out.dmin = span.dmin;
        span.pack_scales(out.scales);
        for (int c = 0; c < 256; c += 64)
            for (int e = 0; e < 32; ++e) out.q[c / 2 + e] = byte(span.code(c + e) | span.code(c + 32 + e) << 4);
    }
}

void encode_q5_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_K& out = spans_at<SpanQ5_K>(stored)[s];
        const AffineSpan span = weights ? fitted(w + 256 * s, of_span(weights, s), q5_k, search::q5_k_weighted_levels)
                                        : fitted(w + 256 * s, nullptr, q5_k, search::q5_k_levels);
        out.d = span.d;
        out.dmin = span.dmin;
        span.pack_scales(out.scales);
        std::memset(out.high, 0, sizeof out.high);
        for (int c = 0; c < 256; ++c) out.high[c % 32] |= byte((span.code(c) >> 4) << (c / 32));
        for (int c = 0; c < 256; c += 64)
            for (int e = 0; e < 32; ++e)
                out.q[c / 2 + e] = byte((span.code(c + e) & 15) | (span.code(c + 32 + e) & 15) << 4);
    }
}

void encode_q6_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ6_K& out = spans_at<SpanQ6_K>(stored)[s];
        const SymmetricKSpan span = fitted(w + 256 * s, of_span(weights, s), q6_k, search::q6_k_levels);
        std::memset(&out, 0, sizeof out);
        out.d = span.d;
        for (int g = 0; g < 16; ++g) out.scales[g] = static_cast<int8_t>(span.scale[g]);
        for (int c = 0; c < 256; ++c) {
            const int code = static_cast<int>(span.code(c)) + 32, half = c / 128, quarter = c / 32 % 4, e = c % 32;
            out.low[64 * half + 32 * (quarter % 2) + e] |= byte((code & 15) << (4 * (quarter / 2)));
            out.high[32 * half + e] |= byte((code >> 4) << (2 * quarter));
        }
    }
}

// Scale and minimum of group g from the twelve bytes of six-bit numbers.
void six_bit_pair(const uint8_t* packed, int g, int* scale, int* min) {
    if (g < 4) {
        *scale = packed[g] % 64;
        *min = packed[g + 4] % 64;
    } else {
        *scale = packed[g + 4] % 16 + 16 * (packed[g - 4] / 64);
        *min = packed[g + 4] / 16 + 16 * (packed[g] / 64);
    }
}

template <typename Span>
float affine_value(const Span& in, int c, int code) {
    int scale, min;
    six_bit_pair(in.scales, c / 32, &scale, &min);
    const float step = half_to_float(in.d) * static_cast<float>(scale);
    return step * static_cast<float>(code) - half_to_float(in.dmin) * static_cast<float>(min);
}

int nibble(const uint8_t* q, int c) { return q[32 * (c / 64) + c % 32] >> (c / 32 % 2 * 4) & 15; }

void decode_q2_k(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanQ2_K& in = spans_at<SpanQ2_K>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), both = in.scales[c / 16];
        const float step = half_to_float(in.d) * static_cast<float>(both % 16);
        w[i] = step * static_cast<float>(pair_at(in.q, c)) - half_to_float(in.dmin) * static_cast<float>(both / 16);
    }
}

void decode_q3_k(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanQ3_K& in = spans_at<SpanQ3_K>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), g = c / 16;
        const int scale = (in.scales[g % 8] >> (4 * (g / 8)) & 15) + 16 * (in.scales[8 + g % 4] >> (2 * (g / 4)) & 3) - 32;
        const int code = pair_at(in.q, c) + 4 * (in.high[c % 32] >> (c / 32) & 1) - 4;
        w[i] = (half_to_float(in.d) * static_cast<float>(scale)) * static_cast<float>(code);
    }
}

void decode_q4_k(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanQ4_K& in = spans_at<SpanQ4_K>(stored)[i / 256];
        const int c = static_cast<int>(i % 256);
        w[i] = affine_value(in, c, nibble(in.q, c));
    }
}

void decode_q5_k(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanQ5_K& in = spans_at<SpanQ5_K>(stored)[i / 256];
        const int c = static_cast<int>(i % 256);
        w[i] = affine_value(in, c, nibble(in.q, c) + 16 * (in.high[c % 32] >> (c / 32) & 1));
    }
}

void decode_q6_k(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanQ6_K& in = spans_at<SpanQ6_K>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), half = c / 128, quarter = c / 32 % 4, e = c % 32;
        const int low = in.low[64 * half + 32 * (quarter % 2) + e] >> (4 * (quarter / 2)) & 15;
        const int high = in.high[32 * half + e] >> (2 * quarter) & 3;
        const float step = half_to_float(in.d) * static_cast<float>(in.scales[c / 16]);
        w[i] = step * static_cast<float>(low + 16 * high - 32);
    }
}

constexpr Codec codecs[] = {
    {"Q2_K", 256, sizeof(SpanQ2_K), encode_q2_k, decode_q2_k, weigh_by_spread<256, 1>, true},
    {"Q3_K", 256, sizeof(SpanQ3_K), encode_q3_k, decode_q3_k, weigh_by_spread<256>, true},
    {"Q4_K", 256, sizeof(SpanQ4_K), encode_q4_k, decode_q4_k, weigh_by_spread<256>, true},
    {"Q5_K", 256, sizeof(SpanQ5_K), encode_q5_k, decode_q5_k, weigh_by_spread<256>, true},
    {"Q6_K", 256, sizeof(SpanQ6_K), encode_q6_k, decode_q6_k, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(kquant, codecs)

}  // namespace fewbits
