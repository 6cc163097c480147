// GGUF's first formats, scalar.
#include "importance.h"
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

void encode_q8_0(const float* w, const float*, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ8_0& out = spans_at<SpanQ8_0>(stored)[s];
        const float* x = w + 32 * s;
        float largest = 0;
        for (int e = 0; e < 32; ++e) largest = std::fmax(largest, std::fabs(x[e]));
        out.d = stored_half(largest / 127.0f);
        const float inv = inverse(half_to_float(out.d));
        for (int e = 0; e < 32; ++e) out.q[e] = static_cast<int8_t>(clamp(std::nearbyint(x[e] * inv), -127.0f, 127.0f));
    }
}

// Codes 0 .. 2 top - 1 nearest to one symmetric span of 32.
void nearest_symmetric(const float* x, int top, half_bits d, int* codes) {
    const float inv = inverse(half_to_float(d));
    for (int e = 0; e < 32; ++e)
        codes[e] = top + static_cast<int>(clamp(std::nearbyint(x[e] * inv), static_cast<float>(-top), static_cast<float>(top - 1)));
}

const float* of_span(const float* weights, int64_t s) { return weights ? weights + 32 * s : nullptr; }

template <int n>
half_bits stored_scale(const float* x, const float* weights, int top, const float (&levels)[n]) {
    return stored_half(best_scale(x, weights, 32, top, levels, n));
}

void pack_halves(const int* codes, uint8_t* q) {
    for (int e = 0; e < 16; ++e) q[e] = byte((codes[e] & 15) | (codes[e + 16] & 15) << 4);
}

void pack_fifth_bits(const int* codes, uint8_t* high) {
    std::memset(high, 0, 4);
    for (int e = 0; e < 32; ++e) high[e / 8] |= byte((codes[e] >> 4) << (e % 8));
}

void encode_q4_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_0& out = spans_at<SpanQ4_0>(stored)[s];
        const float* x = w + 32 * s;
        int codes[32];
        out.d = weights ? stored_scale(x, of_span(weights, s), 8, search::q4_0_weighted_levels)
                        : stored_half(best_even_scale(x, 8, search::q4_0_steps));
        nearest_symmetric(x, 8, out.d, codes);
        pack_halves(codes, out.q);
    }
}

void encode_q5_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_0& out = spans_at<SpanQ5_0>(stored)[s];
        const float* x = w + 32 * s;
        int codes[32];
        out.d = weights ? stored_scale(x, of_span(weights, s), 16, search::q5_0_weighted_levels)
                        : stored_half(best_even_scale(x, 16, search::q5_0_steps));
        nearest_symmetric(x, 16, out.d, codes);
        pack_fifth_bits(codes, out.high);
        pack_halves(codes, out.q);
    }
}

void encode_q4_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_1& out = spans_at<SpanQ4_1>(stored)[s];
        const ShiftedSpan span(w + 32 * s, of_span(weights, s), 15, search::q4_1_steps);
        out.d = span.d;
        out.m = span.m;
        int codes[32];
        for (int e = 0; e < 32; ++e) codes[e] = span.code(e);
        pack_halves(codes, out.q);
    }
}

void encode_q5_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_1& out = spans_at<SpanQ5_1>(stored)[s];
        const ShiftedSpan span(w + 32 * s, of_span(weights, s), 31, search::q5_1_steps);
        out.d = span.d;
        out.m = span.m;
        int codes[32];
        for (int e = 0; e < 32; ++e) codes[e] = span.code(e);
        pack_fifth_bits(codes, out.high);
        pack_halves(codes, out.q);
    }
}

void decode_q8_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanQ8_0& in = spans_at<SpanQ8_0>(stored)[i / 32];
        w[i] = half_to_float(in.d) * static_cast<float>(in.q[i % 32]);
    }
}

void decode_q4_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanQ4_0& in = spans_at<SpanQ4_0>(stored)[i / 32];
        const int code = in.q[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
        w[i] = half_to_float(in.d) * static_cast<float>(code - 8);
    }
}

void decode_q4_1(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanQ4_1& in = spans_at<SpanQ4_1>(stored)[i / 32];
        const int code = in.q[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
        w[i] = half_to_float(in.d) * static_cast<float>(code) + half_to_float(in.m);
    }
}

void decode_q5_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanQ5_0& in = spans_at<SpanQ5_0>(stored)[i / 32];
        const int e = static_cast<int>(i % 32);
        const int code = (in.q[e % 16] >> (e < 16 ? 0 : 4) & 15) + 16 * (in.high[e / 8] >> (e % 8) & 1);
        w[i] = half_to_float(in.d) * static_cast<float>(code - 16);
    }
}

void decode_q5_1(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 32 * spans; ++i) {
        const SpanQ5_1& in = spans_at<SpanQ5_1>(stored)[i / 32];
        const int e = static_cast<int>(i % 32);
        const int code = (in.q[e % 16] >> (e < 16 ? 0 : 4) & 15) + 16 * (in.high[e / 8] >> (e % 8) & 1);
        w[i] = half_to_float(in.d) * static_cast<float>(code) + half_to_float(in.m);
    }
}

constexpr Codec codecs[] = {
    {"Q4_0", 32, sizeof(SpanQ4_0), encode_q4_0, decode_q4_0, weigh_by_row_spread, true},
    {"Q4_1", 32, sizeof(SpanQ4_1), encode_q4_1, decode_q4_1, weigh_by_row_spread, true},
    {"Q5_0", 32, sizeof(SpanQ5_0), encode_q5_0, decode_q5_0, weigh_by_row_spread, true},
    {"Q5_1", 32, sizeof(SpanQ5_1), encode_q5_1, decode_q5_1, weigh_by_row_spread, true},
    {"Q8_0", 32, sizeof(SpanQ8_0), encode_q8_0, decode_q8_0},
};

}  // namespace

FEWBITS_FAMILY(legacy, codecs)

}  // namespace fewbits
