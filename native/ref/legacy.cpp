// GGUF's first formats, scalar.
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

void encode_q4_0(const float* w, const float*, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_0& out = spans_at<SpanQ4_0>(stored)[s];
        int codes[32];
        out.d = stored_half(best_even_scale(w + 32 * s));
        nearest_symmetric(w + 32 * s, 8, out.d, codes);
        for (int e = 0; e < 16; ++e) out.q[e] = byte(codes[e] | codes[e + 16] << 4);
    }
}

void encode_q5_0(const float* w, const float*, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_0& out = spans_at<SpanQ5_0>(stored)[s];
        int codes[32];
        const auto even = [](float) { return 1.0f; };
        out.d = stored_half(best_scale(w + 32 * s, 32, even, 16, search::q5_0_levels, 5));
        nearest_symmetric(w + 32 * s, 16, out.d, codes);
        std::memset(out.high, 0, sizeof out.high);
        for (int e = 0; e < 32; ++e) out.high[e / 8] |= byte((codes[e] >> 4) << (e % 8));
        for (int e = 0; e < 16; ++e) out.q[e] = byte((codes[e] & 15) | (codes[e + 16] & 15) << 4);
    }
}

void encode_q5_1(const float* w, const float*, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_1& out = spans_at<SpanQ5_1>(stored)[s];
        const ShiftedSpan span(w + 32 * s);
        out.d = span.d;
        out.m = span.m;
        std::memset(out.high, 0, sizeof out.high);
        for (int e = 0; e < 32; ++e) out.high[e / 8] |= byte((span.code(e) >> 4) << (e % 8));
        for (int e = 0; e < 16; ++e) out.q[e] = byte((span.code(e) & 15) | (span.code(e + 16) & 15) << 4);
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
    {"Q4_0", 32, sizeof(SpanQ4_0), encode_q4_0, decode_q4_0},
    {"Q5_0", 32, sizeof(SpanQ5_0), encode_q5_0, decode_q5_0},
    {"Q5_1", 32, sizeof(SpanQ5_1), encode_q5_1, decode_q5_1},
    {"Q8_0", 32, sizeof(SpanQ8_0), encode_q8_0, decode_q8_0},
};

}  // namespace

FEWBITS_FAMILY(legacy, codecs)

}  // namespace fewbits
