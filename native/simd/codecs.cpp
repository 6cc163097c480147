// The codecs of one instruction set; this file is compiled once per set (native/sources.cmake).
#include "affine_k.h"
#include "fewbits/kernels.h"
#include "shifted.h"
#include "symmetric.h"

#define FEWBITS_JOIN_(a, b) a##b
#define FEWBITS_JOIN(a, b) FEWBITS_JOIN_(a, b)
#define FEWBITS_TEXT_(a) #a
#define FEWBITS_TEXT(a) FEWBITS_TEXT_(a)

namespace fewbits {
namespace {

template <typename T, size_t n>
constexpr int length_of(const T (&)[n]) { return static_cast<int>(n); }

// Calls body(first span, spans present, numbers) for `per_batch` spans at a time; the last batch is filled with zeros.
template <int columns, int per_batch, typename Body>
void for_batches(const float* w, int64_t spans, Body body) {
    int64_t s = 0;
    for (; s + per_batch <= spans; s += per_batch) body(s, per_batch, w + s * columns);
    if (s == spans) return;
    float filled[columns * per_batch] = {};
    std::memcpy(filled, w + s * columns, static_cast<size_t>(spans - s) * columns * sizeof(float));
    body(s, static_cast<int>(spans - s), filled);
}

void encode_q4_k(const float* w, int64_t spans, uint8_t* stored) {
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

void encode_q5_k(const float* w, int64_t spans, uint8_t* stored) {
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

void encode_q6_k(const float* w, int64_t spans, uint8_t* stored) {
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

// Sixteen spans of 32 at once; store(span, number in the batch, codes of the span) fills in the rest of the span.
template <typename Span, typename Fit, typename Search, typename Store>
void encode_spans(const float* w, int64_t spans, uint8_t* stored, Fit& fit, Search search, Store store) {
    uint8_t codes[32 * batch];
    auto* out = reinterpret_cast<Span*>(stored);
    for_batches<32, batch>(w, spans, [&](int64_t first, int present, const float* numbers) {
        search(numbers);
        to_rows(fit.codes(), 32, codes);
        for (int s = 0; s < present; ++s) {
            const uint8_t* c = codes + 32 * s;
            out[first + s].d = fit.d(s);
            pack_halves<16>(c, c + 16, out[first + s].q);
            store(out[first + s], s, c);
        }
    });
}

void encode_q4_0(const float* w, int64_t spans, uint8_t* stored) {
    SymmetricSpan<8> fit;
    const auto search = [&](const float* x) { fit.fit(x, search::q4_0_levels, length_of(search::q4_0_levels)); };
    encode_spans<SpanQ4_0>(w, spans, stored, fit, search, [](SpanQ4_0&, int, const uint8_t*) {});
}

void encode_q5_0(const float* w, int64_t spans, uint8_t* stored) {
    SymmetricSpan<16> fit;
    const auto search = [&](const float* x) { fit.fit(x, search::q5_0_levels, length_of(search::q5_0_levels)); };
    encode_spans<SpanQ5_0>(w, spans, stored, fit, search,
                           [](SpanQ5_0& span, int, const uint8_t* c) { pack_fifth_bits(c, span.high); });
}

void encode_q5_1(const float* w, int64_t spans, uint8_t* stored) {
    ShiftedSpan fit;
    encode_spans<SpanQ5_1>(w, spans, stored, fit, [&](const float* x) { fit.fit(x); },
                           [&](SpanQ5_1& span, int s, const uint8_t* c) {
                               span.m = fit.m(s);
                               pack_fifth_bits(c, span.high);
                           });
}

void encode_q8_0(const float* w, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanQ8_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        Vec magnitude = Vec::all(0.0f);
        for (int e = 0; e < 32; e += Vec::lanes) magnitude = max(magnitude, abs(Vec::load(w + e)));
        float lanes[Vec::lanes], largest = 0.0f;
        magnitude.store(lanes);
        for (float lane : lanes) largest = lane > largest ? lane : largest;
        out[s].d = stored_half(largest / 127.0f);
        const Vec inv = Vec::all(inverse(half_to_float(out[s].d))), most = Vec::all(127.0f);
        uint8_t codes[32];  // shifted by 128, because bytes are stored without a sign
        for (int e = 0; e < 32; e += Vec::lanes)
            (clamp(round_even(Vec::load(w + e) * inv), Vec::all(-127.0f), most) + Vec::all(128.0f)).store_codes(codes + e);
        for (int e = 0; e < 32; ++e) out[s].q[e] = static_cast<int8_t>(codes[e] ^ 128);
    }
}

void encode_f32(const float* w, int64_t count, uint8_t* stored) { std::memcpy(stored, w, static_cast<size_t>(count) * 4); }

void encode_f16(const float* w, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) store_half(Vec::load(w + i), out + i);
    for (; i < count; ++i) out[i] = float_to_half(w[i]);
}

void encode_bf16(const float* w, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (int64_t i = 0; i < count; ++i) out[i] = float_to_bfloat(w[i]);
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

void decode_q4_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ4_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(half_to_float(in[s].d)), zero = Vec::all(8.0f);
        Vec codes[32 / Vec::lanes];
        unpack_halves(in[s].q, codes);
        for (int e = 0; e < 32; e += Vec::lanes) (d * (codes[e / Vec::lanes] - zero)).store(w + e);
    }
}

void decode_q5_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ5_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const float d = half_to_float(in[s].d);
        for (int e = 0; e < 32; ++e) {
            const int low = (in[s].q[e % 16] >> (4 * (e / 16))) & 15, high = (in[s].high[e / 8] >> (e % 8)) & 1;
            w[e] = d * static_cast<float>((low | high << 4) - 16);
        }
    }
}

void decode_q5_1(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ5_1*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const float d = half_to_float(in[s].d), m = half_to_float(in[s].m);
        for (int e = 0; e < 32; ++e) {
            const int low = (in[s].q[e % 16] >> (4 * (e / 16))) & 15, high = (in[s].high[e / 8] >> (e % 8)) & 1;
            w[e] = d * static_cast<float>(low | high << 4) + m;
        }
    }
}

void decode_q8_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ8_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const float d = half_to_float(in[s].d);
        for (int e = 0; e < 32; ++e) w[e] = d * static_cast<float>(in[s].q[e]);
    }
}

void widen(Number kind, const void* numbers, int64_t count, float* w) {
    if (kind == Number::f32) {
        std::memcpy(w, numbers, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    const auto* bits = static_cast<const uint16_t*>(numbers);
    if (kind == Number::bf16) {
        for (int64_t i = 0; i < count; ++i) w[i] = bits_to_float(static_cast<uint32_t>(bits[i]) << 16);
        return;
    }
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) load_half(bits + i).store(w + i);
    for (; i < count; ++i) w[i] = half_to_float(bits[i]);
}

// Magnitudes order like their bits, so the largest is found on the stored numbers, as many to a vector as fit. Lanes are
// spelled out, or compilers fall back to single steps.
template <typename Bits, int lanes>
void extent_of(const Bits* numbers, int64_t count, Bits infinity, Bits* largest, int64_t* not_finite) {
    constexpr Bits every = static_cast<Bits>(~Bits{0}), unsign = static_cast<Bits>(every >> 1);
    Bits most[lanes] = {};
    *not_finite = 0;
    for (int64_t first = 0; first < count; first += 4096) {
        const int present = static_cast<int>(count - first < 4096 ? count - first : 4096);
        Bits bad[lanes] = {};
        const auto look = [&](Bits bits, int lane) {
            const Bits magnitude = static_cast<Bits>(bits & unsign);
            const Bits finite = magnitude < infinity ? every : Bits{0};
            const Bits counted = static_cast<Bits>(magnitude & finite);
            bad[lane] = static_cast<Bits>(bad[lane] + static_cast<Bits>(~finite & 1));
            most[lane] = counted > most[lane] ? counted : most[lane];
        };
        int i = 0;
        for (; i + lanes <= present; i += lanes)
            for (int lane = 0; lane < lanes; ++lane) look(numbers[first + i + lane], lane);
        for (; i < present; ++i) look(numbers[first + i], 0);
        for (int lane = 0; lane < lanes; ++lane) *not_finite += bad[lane];
    }
    *largest = 0;
    for (Bits lane : most) *largest = lane > *largest ? lane : *largest;
}

void extent(Number kind, const void* numbers, int64_t count, float* absmax, int64_t* not_finite) {
    if (kind == Number::f32) {
        uint32_t largest;
        extent_of<uint32_t, 16>(static_cast<const uint32_t*>(numbers), count, 0x7f800000u, &largest, not_finite);
        *absmax = bits_to_float(largest);
        return;
    }
    const uint16_t infinity = kind == Number::bf16 ? 0x7f80u : 0x7c00u;
    uint16_t largest;
    extent_of<uint16_t, 32>(static_cast<const uint16_t*>(numbers), count, infinity, &largest, not_finite);
    *absmax = kind == Number::bf16 ? bits_to_float(static_cast<uint32_t>(largest) << 16) : half_to_float(largest);
}

// The compiler's own vectors of doubles, a register wide, because it splits loops over arrays of them into odd pieces.
constexpr int wide = Vec::lanes / 2;
typedef float NarrowVec __attribute__((vector_size(4 * wide)));
typedef double WideVec __attribute__((vector_size(8 * wide)));

inline WideVec widened(const float* p) {
    NarrowVec x;
    std::memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, WideVec);
}

// Sums over sixteen lanes, added up in the order of the lanes.
Deviation deviation(const float* w, const float* stored, int64_t count) {
    constexpr int parts = 16 / wide;
    WideVec errors[parts] = {}, squares[parts] = {};
    const auto add = [&](const float* x, const float* y) {
        for (int part = 0; part < parts; ++part) {
            const WideVec own = widened(x + wide * part), r = own - widened(y + wide * part);
            errors[part] += r * r;
            squares[part] += own * own;
        }
    };
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) add(w + i, stored + i);
    if (i < count) {
        float x[16] = {}, y[16] = {};
        std::memcpy(x, w + i, static_cast<size_t>(count - i) * sizeof(float));
        std::memcpy(y, stored + i, static_cast<size_t>(count - i) * sizeof(float));
        add(x, y);
    }
    Deviation sum{0.0, 0.0};
    for (int lane = 0; lane < 16; ++lane) {
        sum.squared_error += errors[lane / wide][lane % wide];
        sum.squared += squares[lane / wide][lane % wide];
    }
    return sum;
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

extern const KernelTable FEWBITS_JOIN(table_, FEWBITS_ISA_NAME);
const KernelTable FEWBITS_JOIN(table_, FEWBITS_ISA_NAME) = {
    FEWBITS_TEXT(FEWBITS_ISA_NAME), codecs, sizeof(codecs) / sizeof(Codec), widen, extent, deviation};

}  // namespace fewbits
