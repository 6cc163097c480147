// K-quants: two-level scales over spans of 256 columns.
#include "affine_k.h"
#include "spans.h"
#include "symmetric.h"

namespace fewbits {
namespace {

void encode_q4_k(const float* w, const float*, int64_t spans, uint8_t* stored) {
    AffineK<15> fit;
    uint8_t codes[32 * batch];
    auto* out = reinterpret_cast<SpanQ4_K*>(stored);
    for_batches<256, 2>(w, spans, [&](int64_t first, int present, const float* numbers) {
        fit.fit(numbers, search::q4_k_levels, length_of(search::q4_k_levels));
        to_rows(fit.codes(), 32, codes);
        for (int s = 0; s < present; ++s) {
            SpanQ4_K& span = out[first + s];
            const uint8_t* c = codes + 256 * s;
            fit.pack_scales(s, &span.d, &span.dmin, span.scales);
            for (int p = 0; p < 4; ++p) pack_halves<32>(c + 64 * p, c + 64 * p + 32, span.q + 32 * p);
        }
    });
}

void encode_q5_k(const float* w, const float*, int64_t spans, uint8_t* stored) {
    AffineK<31> fit;
    uint8_t codes[32 * batch];
    auto* out = reinterpret_cast<SpanQ5_K*>(stored);
    for_batches<256, 2>(w, spans, [&](int64_t first, int present, const float* numbers) {
        fit.fit(numbers, search::q5_k_levels, length_of(search::q5_k_levels));
        to_rows(fit.codes(), 32, codes);
        for (int s = 0; s < present; ++s) {
            SpanQ5_K& span = out[first + s];
            const uint8_t* c = codes + 256 * s;
            fit.pack_scales(s, &span.d, &span.dmin, span.scales);
            for (int p = 0; p < 4; ++p) pack_halves<32>(c + 64 * p, c + 64 * p + 32, span.q + 32 * p);
            for (int e = 0; e < 32; ++e) span.high[e] = 0;
            for (int g = 0; g < 8; ++g)
                for (int e = 0; e < 32; ++e) span.high[e] |= static_cast<uint8_t>((c[32 * g + e] >> 4) << g);
        }
    });
}

void encode_q6_k(const float* w, const float*, int64_t spans, uint8_t* stored) {
    SymmetricK fit;
    uint8_t codes[16 * batch];
    auto* out = reinterpret_cast<SpanQ6_K*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        fit.fit(w + s * SymmetricK::columns);
        to_rows(fit.codes(), 16, codes);
        SpanQ6_K& span = out[s];
        span.d = fit.d();
        for (int g = 0; g < 16; ++g) span.scales[g] = static_cast<int8_t>(fit.scale(g));
        for (int half = 0; half < 2; ++half) {
            const uint8_t* c = codes + 128 * half;
            pack_halves<64>(c, c + 64, span.low + 64 * half);
            for (int e = 0; e < 32; ++e)
                span.high[32 * half + e] = static_cast<uint8_t>(c[e] >> 4 | (c[e + 32] >> 4) << 2 |
                                                                (c[e + 64] >> 4) << 4 | (c[e + 96] >> 4) << 6);
        }
    }
}

void unpack_scale(const uint8_t* packed, int g, int* scale, int* low) {
    if (g < 4) {
        *scale = packed[g] & 63;
        *low = packed[g + 4] & 63;
    } else {
        *scale = (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
        *low = packed[g + 4] >> 4 | (packed[g] >> 6) << 4;
    }
}

void decode_q4_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ4_K*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d), dmin = half_to_float(in[s].dmin);
        for (int g = 0; g < 8; ++g, w += 32) {
            int scale, low;
            unpack_scale(in[s].scales, g, &scale, &low);
            const float step = d * static_cast<float>(scale), minimum = dmin * static_cast<float>(low);
            const uint8_t* q = in[s].q + 32 * (g / 2);
            const int shift = 4 * (g % 2);
            for (int e = 0; e < 32; ++e) w[e] = step * static_cast<float>((q[e] >> shift) & 15) - minimum;
        }
    }
}

void decode_q5_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ5_K*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d), dmin = half_to_float(in[s].dmin);
        for (int g = 0; g < 8; ++g, w += 32) {
            int scale, low;
            unpack_scale(in[s].scales, g, &scale, &low);
            const float step = d * static_cast<float>(scale), minimum = dmin * static_cast<float>(low);
            const uint8_t* q = in[s].q + 32 * (g / 2);
            const int shift = 4 * (g % 2);
            for (int e = 0; e < 32; ++e) {
                const int code = ((q[e] >> shift) & 15) | ((in[s].high[e] >> g) & 1) << 4;
                w[e] = step * static_cast<float>(code) - minimum;
            }
        }
    }
}

void decode_q6_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ6_K*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int g = 0; g < 16; ++g, w += 16) {
            const float step = d * static_cast<float>(in[s].scales[g]);
            const int half = g / 8, quarter = (g % 8) / 2, start = 16 * (g % 2);
            const uint8_t* low = in[s].low + 64 * half + 32 * (quarter % 2) + start;
            const uint8_t* high = in[s].high + 32 * half + start;
            for (int e = 0; e < 16; ++e) {
                const int code = ((low[e] >> (4 * (quarter / 2))) & 15) | ((high[e] >> (2 * quarter)) & 3) << 4;
                w[e] = step * static_cast<float>(code - 32);
            }
        }
    }
}

constexpr Codec codecs[] = {
    {"Q4_K", 256, sizeof(SpanQ4_K), encode_q4_k, decode_q4_k},
    {"Q5_K", 256, sizeof(SpanQ5_K), encode_q5_k, decode_q5_k},
    {"Q6_K", 256, sizeof(SpanQ6_K), encode_q6_k, decode_q6_k},
};

}  // namespace

FEWBITS_FAMILY(kquant, codecs)

}  // namespace fewbits
