// K-quants: two-level scales over spans of 256 columns.
#include "affine_k.h"
#include "bytes.h"
#include "importance.h"
#include "spans.h"
#include "symmetric_k.h"

namespace fewbits {
namespace {

struct TwoBits {
    static constexpr int top = 3, groups = 16;
    static constexpr float ceiling = 15.0f, even = 0.125f;
};
template <int top_>
struct SixBitScales {
    static constexpr int top = top_, groups = 8;
    static constexpr float ceiling = 63.0f, even = 1.0f;
};

// Fits spans by `levels`, or by `weighted_levels` where weights are given; store(span, number in the batch, its codes).
template <typename Span, typename Shape, int n, int m, typename Store>
void encode_affine(const float* w, const float* weights, int64_t spans, uint8_t* stored, const float (&levels)[n],
                   const float (&weighted_levels)[m], Store store) {
    AffineK<Shape> fit;
    constexpr int length = AffineK<Shape>::length, per_batch = batch / Shape::groups;
    uint8_t codes[length * batch];
    auto* out = reinterpret_cast<Span*>(stored);
    for_batches<256, per_batch>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* given) {
        given ? fit.fit(x, given, weighted_levels, m) : fit.fit(x, nullptr, levels, n);
        to_rows(fit.codes(), length, codes);
        for (int s = 0; s < present; ++s) {
            out[first + s].d = fit.d(s);
            out[first + s].dmin = fit.dmin(s);
            store(out[first + s], s, codes + 256 * s, fit);
        }
    });
}

// The same for sixteen spans of sixteen groups.
template <typename Span, typename Fit, int n, int m, typename Store>
void encode_symmetric(const float* w, const float* weights, int64_t spans, uint8_t* stored, const float (&levels)[n],
                      const float (&weighted_levels)[m], Store store) {
    Fit fit;
    uint8_t codes[Fit::columns];
    auto* out = reinterpret_cast<Span*>(stored);
    for (int64_t first = 0; first < spans; first += batch) {
        const int present = static_cast<int>(spans - first < batch ? spans - first : batch);
        const float* x = w + Fit::columns * first;
        weights ? fit.fit(x, weights + Fit::columns * first, present, weighted_levels, m)
                : fit.fit(x, nullptr, present, levels, n);
        for (int s = 0; s < present; ++s) {
            to_rows(fit.codes(s), Fit::length, codes);
            out[first + s].d = fit.d(s);
            store(out[first + s], s, codes, fit);
        }
    }
}

template <typename Fit>
void pack_scales(const Fit& fit, int s, uint8_t* packed) {
    for (int g = 0; g < 4; ++g) {
        const int scale = fit.scale(s, g), scale4 = fit.scale(s, g + 4), low = fit.low(s, g), low4 = fit.low(s, g + 4);
        packed[g] = static_cast<uint8_t>(scale | (scale4 >> 4) << 6);
        packed[g + 4] = static_cast<uint8_t>(low | (low4 >> 4) << 6);
        packed[g + 8] = static_cast<uint8_t>((scale4 & 15) | (low4 & 15) << 4);
    }
}

// Lower two bits of 256 codes: in each half, columns e, e + 32, e + 64, e + 96 share byte e.
void pack_pairs(const uint8_t* codes, uint8_t* q) {
    for (int half = 0; half < 2; ++half, codes += 128, q += 32)
        for (int e = 0; e < 32; ++e)
            q[e] = static_cast<uint8_t>((codes[e] & 3) | (codes[e + 32] & 3) << 2 | (codes[e + 64] & 3) << 4 |
                                        (codes[e + 96] & 3) << 6);
}

// Bit `bit` of 256 codes: bit p of byte e from column 32 p + e.
template <int bit>
void pack_bits(const uint8_t* codes, uint8_t* high) {
    for (int e = 0; e < 32; ++e) high[e] = 0;
    for (int p = 0; p < 8; ++p)
        for (int e = 0; e < 32; ++e) high[e] |= static_cast<uint8_t>((codes[32 * p + e] >> bit & 1) << p);
}

void encode_q2_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_affine<SpanQ2_K, TwoBits>(w, weights, spans, stored, search::q2_k_levels, search::q2_k_weighted_levels,
                                     [](SpanQ2_K& span, int s, const uint8_t* c, const auto& fit) {
                                         for (int g = 0; g < 16; ++g)
                                             span.scales[g] = static_cast<uint8_t>(fit.scale(s, g) | fit.low(s, g) << 4);
                                         pack_pairs(c, span.q);
                                     });
}

void encode_q4_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ4_K& span, int s, const uint8_t* c, const auto& fit) {
        pack_scales(fit, s, span.scales);
        for (int p = 0; p < 4; ++p) pack_halves<32>(c + 64 * p, c + 64 * p + 32, span.q + 32 * p);
    };
    encode_affine<SpanQ4_K, SixBitScales<15>>(w, weights, spans, stored, search::q4_k_levels,
                                              search::q4_k_weighted_levels, store);
}

void encode_q5_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ5_K& span, int s, const uint8_t* c, const auto& fit) {
        pack_scales(fit, s, span.scales);
        for (int p = 0; p < 4; ++p) pack_halves<32>(c + 64 * p, c + 64 * p + 32, span.q + 32 * p);
        pack_bits<4>(c, span.high);
    };
    encode_affine<SpanQ5_K, SixBitScales<31>>(w, weights, spans, stored, search::q5_k_levels,
                                              search::q5_k_weighted_levels, store);
}

void encode_q3_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ3_K& span, int s, const uint8_t* codes, const auto& fit) {
        const auto scale = [&](int g) { return fit.scale(s, g) + 32; };
        for (int g = 0; g < 8; ++g) span.scales[g] = static_cast<uint8_t>((scale(g) & 15) | (scale(g + 8) & 15) << 4);
        for (int g = 0; g < 4; ++g)
            span.scales[8 + g] = static_cast<uint8_t>(scale(g) >> 4 | (scale(g + 4) >> 4) << 2 |
                                                      (scale(g + 8) >> 4) << 4 | (scale(g + 12) >> 4) << 6);
        pack_pairs(codes, span.q);
        pack_bits<2>(codes, span.high);
    };
    encode_symmetric<SpanQ3_K, SymmetricK<4, 32, true>>(w, weights, spans, stored, search::q3_k_levels,
                                                        search::q3_k_weighted_levels, store);
}

void encode_q6_k(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ6_K& span, int s, const uint8_t* codes, const auto& fit) {
        for (int g = 0; g < 16; ++g) span.scales[g] = static_cast<int8_t>(fit.scale(s, g));
        for (int half = 0; half < 2; ++half) {
            const uint8_t* c = codes + 128 * half;
            pack_halves<64>(c, c + 64, span.low + 64 * half);
            for (int e = 0; e < 32; ++e)
                span.high[32 * half + e] = static_cast<uint8_t>(c[e] >> 4 | (c[e + 32] >> 4) << 2 |
                                                                (c[e + 64] >> 4) << 4 | (c[e + 96] >> 4) << 6);
        }
    };
    encode_symmetric<SpanQ6_K, SymmetricK<32, 128, false>>(w, weights, spans, stored, search::q6_k_levels,
                                                           search::q6_k_levels, store);
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

template <int n>
struct Whole {
    static constexpr int value = n;
};

// body(Whole<quarter>) for the four rows of 32 columns in half a span.
template <typename Body>
void for_quarters(Body body) {
    body(Whole<0>{});
    body(Whole<1>{});
    body(Whole<2>{});
    body(Whole<3>{});
}

void decode_q2_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ2_K*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 256) {
        const float d = half_to_float(in[s].d), dmin = half_to_float(in[s].dmin);
        for (int half = 0; half < 2; ++half)
            for (int part = 0; part < 2; ++part) {
                const Bytes pairs = load_bytes(in[s].q + 32 * half + 16 * part);
                for_quarters([&](auto quarter) {
                    const int g = 8 * half + 2 * quarter.value + part;
                    const Vec step = Vec::all(d * static_cast<float>(in[s].scales[g] & 15));
                    const Vec minimum = Vec::all(dmin * static_cast<float>(in[s].scales[g] >> 4));
                    decode_codes(field<2 * quarter.value, 3>(pairs), w + 16 * g, [&](Vec l) { return step * l - minimum; });
                });
            }
    }
}

void decode_q3_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ3_K*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 256) {
        const float d = half_to_float(in[s].d);
        float steps[16];
        for (int g = 0; g < 16; ++g) {
            const int low = in[s].scales[g % 8] >> (4 * (g / 8)) & 15, high = in[s].scales[8 + g % 4] >> (2 * (g / 4)) & 3;
            steps[g] = d * static_cast<float>((low | high << 4) - 32);
        }
        for (int half = 0; half < 2; ++half)
            for (int part = 0; part < 2; ++part) {
                const Bytes pairs = load_bytes(in[s].q + 32 * half + 16 * part), high = load_bytes(in[s].high + 16 * part);
                for_quarters([&](auto quarter) {
                    const int g = 8 * half + 2 * quarter.value + part;
                    const Bytes codes = field<2 * quarter.value, 3>(pairs) | where_bit(high, 4 * half + quarter.value, 4);
                    decode_codes(codes, w + 16 * g, [&](Vec l) { return Vec::all(steps[g]) * (l - Vec::all(4.0f)); });
                });
            }
    }
}

// Q4_K and, with fifth bits, Q5_K.
template <typename Span, typename Fifth>
void decode_affine(const uint8_t* stored, int64_t spans, float* w, Fifth fifth) {
    const auto* in = reinterpret_cast<const Span*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 256) {
        const float d = half_to_float(in[s].d), dmin = half_to_float(in[s].dmin);
        for (int g = 0; g < 8; g += 2) {
            int scale[2], low[2];
            for (int i = 0; i < 2; ++i) unpack_scale(in[s].scales, g + i, scale + i, low + i);
            const auto number = [&](int i) {
                const Vec step = Vec::all(d * static_cast<float>(scale[i])), minimum = Vec::all(dmin * static_cast<float>(low[i]));
                return [=](Vec l) { return step * l - minimum; };
            };
            for (int part = 0; part < 2; ++part) {
                const Bytes q = load_bytes(in[s].q + 16 * g + 16 * part);
                decode_codes(fifth(in[s], field<0, 15>(q), part, g), w + 32 * g + 16 * part, number(0));
                decode_codes(fifth(in[s], field<4, 15>(q), part, g + 1), w + 32 * g + 32 + 16 * part, number(1));
            }
        }
    }
}

void decode_q4_k(const uint8_t* stored, int64_t spans, float* w) {
    decode_affine<SpanQ4_K>(stored, spans, w, [](const SpanQ4_K&, Bytes q, int, int) { return q; });
}

void decode_q5_k(const uint8_t* stored, int64_t spans, float* w) {
    decode_affine<SpanQ5_K>(stored, spans, w, [](const SpanQ5_K& span, Bytes q, int part, int g) {
        return q | where_bit(load_bytes(span.high + 16 * part), g, 16);
    });
}

void decode_q6_k(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ6_K*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 256) {
        const float d = half_to_float(in[s].d);
        for (int half = 0; half < 2; ++half)
            for (int part = 0; part < 2; ++part) {
                const uint8_t* low = in[s].low + 64 * half + 16 * part;
                const Bytes high = load_bytes(in[s].high + 32 * half + 16 * part), first = load_bytes(low);
                const Bytes second = load_bytes(low + 32);
                for_quarters([&](auto quarter) {
                    constexpr int row = quarter.value;
                    const int g = 8 * half + 2 * row + part;
                    const Bytes codes = field<row / 2 * 4, 15>(row % 2 ? second : first) | raised<4>(field<2 * row, 3>(high));
                    const Vec step = Vec::all(d * static_cast<float>(in[s].scales[g]));
                    decode_codes(codes, w + 16 * g, [&](Vec l) { return step * (l - Vec::all(32.0f)); });
                });
            }
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
