// GGUF's first formats: one or two 16-bit parameters per 32 columns.
#include "bytes.h"
#include "even.h"
#include "importance.h"
#include "shifted.h"
#include "spans.h"
#include "symmetric.h"
#include "symmetric_k.h"

namespace fewbits {
namespace {

// Sixteen spans of 32 at once; store(span, number in the batch, codes of the span, fit) fills in the rest of the span.
template <typename Span, typename Fit, int n, typename Store>
void encode_spans(const float* w, const float* weights, int64_t spans, uint8_t* stored, const float (&levels)[n],
                  Store store) {
    Fit fit;
    uint8_t codes[32 * batch];
    auto* out = reinterpret_cast<Span*>(stored);
    for_batches<32, batch>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* given) {
        fit.fit(x, given, levels, n);
        to_rows(fit.codes(), 32, codes);
        for (int s = 0; s < present; ++s) {
            const uint8_t* c = codes + 32 * s;
            out[first + s].d = fit.d(s);
            pack_halves<16>(c, c + 16, out[first + s].q);
            store(out[first + s], s, c, fit);
        }
    });
}

template <typename Pairs, typename Numbers>
void encode_nibbles(const Numbers* w, int64_t spans, uint8_t* stored) {
    EvenNibbles fit;
    auto* out = reinterpret_cast<SpanQ4_0*>(stored);
    for_batches<32, batch>(w, spans, [&](int64_t first, int present, const Numbers* numbers) {
        fit.fit(Pairs(numbers));
        fit.store(out + first, present);
    });
}

void encode_q4_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (!weights) return encode_nibbles<FloatPairs>(w, spans, stored);
    const auto store = [](SpanQ4_0&, int, const uint8_t*, const auto&) {};
    encode_spans<SpanQ4_0, WeightedSpan<8>>(w, weights, spans, stored, search::q4_0_weighted_levels, store);
}

void encode_bfloat_q4_0(const uint16_t* w, int64_t spans, uint8_t* stored) {
    encode_nibbles<BfloatPairs>(w, spans, stored);
}

void encode_q5_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ5_0& span, int, const uint8_t* c, const auto&) { pack_fifth_bits(c, span.high); };
    if (weights)
        encode_spans<SpanQ5_0, WeightedSpan<16>>(w, weights, spans, stored, search::q5_0_weighted_levels, store);
    else
        encode_spans<SpanQ5_0, SymmetricSpan<16>>(w, nullptr, spans, stored, search::q5_0_levels, store);
}

void encode_q4_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ4_1& span, int s, const uint8_t*, const auto& fit) { span.m = fit.m(s); };
    if (weights)
        encode_spans<SpanQ4_1, ShiftedSpan<15, true>>(w, weights, spans, stored, search::q4_1_levels, store);
    else
        encode_spans<SpanQ4_1, ShiftedSpan<15, false>>(w, nullptr, spans, stored, search::q4_1_levels, store);
}

void encode_q5_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    const auto store = [](SpanQ5_1& span, int s, const uint8_t* c, const auto& fit) {
        span.m = fit.m(s);
        pack_fifth_bits(c, span.high);
    };
    if (weights)
        encode_spans<SpanQ5_1, ShiftedSpan<31, true>>(w, weights, spans, stored, search::q5_1_levels, store);
    else
        encode_spans<SpanQ5_1, ShiftedSpan<31, false>>(w, nullptr, spans, stored, search::q5_1_levels, store);
}

void encode_q8_0(const float* w, const float*, int64_t spans, uint8_t* stored) {
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

void decode_q4_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ4_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(half_to_float(in[s].d)), zero = Vec::all(8.0f);
        Vec codes[32 / Vec::lanes];
        unpack_halves(in[s].q, codes);
        for (int e = 0; e < 32; e += Vec::lanes) (d * (codes[e / Vec::lanes] - zero)).store(w + e);
    }
}

void decode_q4_1(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ4_1*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(half_to_float(in[s].d)), m = Vec::all(half_to_float(in[s].m));
        const auto number = [=](Vec l) { return d * l + m; };
        const Bytes q = load_bytes(in[s].q);
        decode_codes(field<0, 15>(q), w, number);
        decode_codes(field<4, 15>(q), w + 16, number);
    }
}

void decode_q5_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ5_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(half_to_float(in[s].d));
        const auto number = [=](Vec l) { return d * (l - Vec::all(16.0f)); };
        const Bytes q = load_bytes(in[s].q);
        decode_codes(field<0, 15>(q) | where_bits(in[s].high, 16), w, number);
        decode_codes(field<4, 15>(q) | where_bits(in[s].high + 2, 16), w + 16, number);
    }
}

void decode_q5_1(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ5_1*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(half_to_float(in[s].d)), m = Vec::all(half_to_float(in[s].m));
        const auto number = [=](Vec l) { return d * l + m; };
        const Bytes q = load_bytes(in[s].q);
        decode_codes(field<0, 15>(q) | where_bits(in[s].high, 16), w, number);
        decode_codes(field<4, 15>(q) | where_bits(in[s].high + 2, 16), w + 16, number);
    }
}

void decode_q8_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ8_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const float d = half_to_float(in[s].d);
        for (int e = 0; e < 32; ++e) w[e] = d * static_cast<float>(in[s].q[e]);
    }
}

constexpr Codec codecs[] = {
    {"Q4_0", 32, sizeof(SpanQ4_0), encode_q4_0, decode_q4_0, weigh_by_row_spread, true, nullptr, encode_bfloat_q4_0},
    {"Q4_1", 32, sizeof(SpanQ4_1), encode_q4_1, decode_q4_1, weigh_by_row_spread, true},
    {"Q5_0", 32, sizeof(SpanQ5_0), encode_q5_0, decode_q5_0, weigh_by_row_spread, true},
    {"Q5_1", 32, sizeof(SpanQ5_1), encode_q5_1, decode_q5_1, weigh_by_row_spread, true},
    {"Q8_0", 32, sizeof(SpanQ8_0), encode_q8_0, decode_q8_0},
};

}  // namespace

FEWBITS_FAMILY(legacy, codecs)

}  // namespace fewbits
