// The scalar codecs: FEWBITS_ISA=scalar, the fallback of every machine and the reference of every kernel test.
#include "fewbits/kernels.h"
#include "searches.h"

namespace fewbits {
namespace {

template <typename Span>
Span* spans_at(uint8_t* p) { return reinterpret_cast<Span*>(p); }
template <typename Span>
const Span* spans_at(const uint8_t* p) { return reinterpret_cast<const Span*>(p); }

uint8_t byte(int x) { return static_cast<uint8_t>(x); }

void encode_q8_0(const float* w, int64_t spans, uint8_t* stored) {
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

// Codes 0 .. 2 top - 1 of one symmetric span of 32.
template <int level_count>
void fit_symmetric(const float* x, int top, const float (&levels)[level_count], half_bits* d, int* codes) {
    *d = stored_half(best_scale(x, 32, [](float) { return 1.0f; }, top, levels, level_count));
    const float inv = inverse(half_to_float(*d));
    for (int e = 0; e < 32; ++e)
        codes[e] = top + static_cast<int>(clamp(std::nearbyint(x[e] * inv), static_cast<float>(-top), static_cast<float>(top - 1)));
}

void encode_q4_0(const float* w, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_0& out = spans_at<SpanQ4_0>(stored)[s];
        int codes[32];
        fit_symmetric(w + 32 * s, 8, search::q4_0_levels, &out.d, codes);
        for (int e = 0; e < 16; ++e) out.q[e] = byte(codes[e] | codes[e + 16] << 4);
    }
}

void encode_q5_0(const float* w, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_0& out = spans_at<SpanQ5_0>(stored)[s];
        int codes[32];
        fit_symmetric(w + 32 * s, 16, search::q5_0_levels, &out.d, codes);
        std::memset(out.high, 0, sizeof out.high);
        for (int e = 0; e < 32; ++e) out.high[e / 8] |= byte((codes[e] >> 4) << (e % 8));
        for (int e = 0; e < 16; ++e) out.q[e] = byte((codes[e] & 15) | (codes[e + 16] & 15) << 4);
    }
}

void encode_q5_1(const float* w, int64_t spans, uint8_t* stored) {
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

void encode_q4_k(const float* w, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ4_K& out = spans_at<SpanQ4_K>(stored)[s];
        const AffineSpan span(w + 256 * s, search::q4_k_levels, 7, 15);
        out.d = span.d;
        out.dmin = span.dmin;
        span.pack_scales(out.scales);
        for (int c = 0; c < 256; c += 64)
            for (int e = 0; e < 32; ++e) out.q[c / 2 + e] = byte(span.code(c + e) | span.code(c + 32 + e) << 4);
    }
}

void encode_q5_k(const float* w, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ5_K& out = spans_at<SpanQ5_K>(stored)[s];
        const AffineSpan span(w + 256 * s, search::q5_k_levels, 7, 31);
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

void encode_q6_k(const float* w, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        SpanQ6_K& out = spans_at<SpanQ6_K>(stored)[s];
        const SymmetricSpan6 span(w + 256 * s);
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

void widen(Number kind, const void* numbers, int64_t count, float* w) {
    for (int64_t i = 0; i < count; ++i) {
        if (kind == Number::f32) w[i] = static_cast<const float*>(numbers)[i];
        if (kind == Number::f16) w[i] = half_to_float(static_cast<const uint16_t*>(numbers)[i]);
        if (kind == Number::bf16) w[i] = bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(numbers)[i]) << 16);
    }
}

void extent(Number kind, const void* numbers, int64_t count, float* absmax, int64_t* not_finite) {
    const int64_t width = kind == Number::f32 ? 4 : 2;
    *absmax = 0;
    *not_finite = 0;
    for (int64_t i = 0; i < count; ++i) {
        float w;
        widen(kind, static_cast<const uint8_t*>(numbers) + i * width, 1, &w);
        if (!std::isfinite(w)) ++*not_finite;
        else *absmax = std::fmax(*absmax, std::fabs(w));
    }
}

Deviation deviation(const float* w, const float* stored, int64_t count) {
    double error[16] = {}, square[16] = {};
    for (int64_t i = 0; i < count; ++i) {
        const double x = w[i], r = x - static_cast<double>(stored[i]);
        error[i % 16] += r * r;
        square[i % 16] += x * x;
    }
    Deviation sum{0.0, 0.0};
    for (int lane = 0; lane < 16; ++lane) {
        sum.squared_error += error[lane];
        sum.squared += square[lane];
    }
    return sum;
}

void encode_f32(const float* w, int64_t count, uint8_t* stored) { std::memcpy(stored, w, static_cast<size_t>(count) * 4); }
void encode_f16(const float* w, int64_t count, uint8_t* stored) {
    for (int64_t i = 0; i < count; ++i) spans_at<uint16_t>(stored)[i] = float_to_half(w[i]);
}
void encode_bf16(const float* w, int64_t count, uint8_t* stored) {
    for (int64_t i = 0; i < count; ++i) spans_at<uint16_t>(stored)[i] = float_to_bfloat(w[i]);
}
void decode_f32(const uint8_t* stored, int64_t count, float* w) { widen(Number::f32, stored, count, w); }
void decode_f16(const uint8_t* stored, int64_t count, float* w) { widen(Number::f16, stored, count, w); }
void decode_bf16(const uint8_t* stored, int64_t count, float* w) { widen(Number::bf16, stored, count, w); }

constexpr Codec codecs[] = {
    {"F32", 1, 4, encode_f32, decode_f32},                    {"F16", 1, 2, encode_f16, decode_f16},
    {"BF16", 1, 2, encode_bf16, decode_bf16},
    {"Q4_0", 32, sizeof(SpanQ4_0), encode_q4_0, decode_q4_0}, {"Q5_0", 32, sizeof(SpanQ5_0), encode_q5_0, decode_q5_0},
    {"Q8_0", 32, sizeof(SpanQ8_0), encode_q8_0, decode_q8_0}, {"Q4_K", 256, sizeof(SpanQ4_K), encode_q4_k, decode_q4_k},
    {"Q5_K", 256, sizeof(SpanQ5_K), encode_q5_k, decode_q5_k}, {"Q6_K", 256, sizeof(SpanQ6_K), encode_q6_k, decode_q6_k},
    {"Q5_1", 32, sizeof(SpanQ5_1), encode_q5_1, decode_q5_1},
};

}  // namespace

extern const KernelTable table_scalar;
const KernelTable table_scalar = {"scalar", codecs, sizeof(codecs) / sizeof(Codec), widen, extent, deviation};

}  // namespace fewbits
