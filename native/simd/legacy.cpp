// GGUF's first formats: one or two 16-bit parameters per 32 columns.
#include "bytes.h"
#include "even.h"
#include "even_shifted.h"
#include "importance.h"
#include "rounded.h"
#include "shifted.h"
#include "spans.h"
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

using EvenQ4_0 = EvenSymmetric<SpanQ4_0, 8, search::q4_0_steps, decode_q4_0>;
using EvenQ5_0 = EvenSymmetric<SpanQ5_0, 16, search::q5_0_steps, decode_q5_0>;
using EvenQ4_1 = EvenShifted<SpanQ4_1, 15, search::q4_1_steps, decode_q4_1>;
using EvenQ5_1 = EvenShifted<SpanQ5_1, 31, search::q5_1_steps, decode_q5_1>;
using RoundedQ8_0 = RoundedSpans<SpanQ8_0, decode_q8_0>;

void encode_q4_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (!weights) return encode_evenly<EvenQ4_0>(w, spans, stored);
    const auto store = [](SpanQ4_0&, int, const uint8_t*, const auto&) {};
    encode_spans<SpanQ4_0, WeightedSpan<8>>(w, weights, spans, stored, search::q4_0_weighted_levels, store);
}

void encode_q5_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (!weights) return encode_evenly<EvenQ5_0>(w, spans, stored);
    const auto store = [](SpanQ5_0& span, int, const uint8_t* c, const auto&) { pack_fifth_bits(c, span.high); };
    encode_spans<SpanQ5_0, WeightedSpan<16>>(w, weights, spans, stored, search::q5_0_weighted_levels, store);
}

void encode_q4_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (!weights) return encode_evenly<EvenQ4_1>(w, spans, stored);
    const auto store = [](SpanQ4_1& span, int s, const uint8_t*, const auto& fit) { span.m = fit.m(s); };
    encode_spans<SpanQ4_1, ShiftedSpan<15>>(w, weights, spans, stored, search::more_steps, store);
}

void encode_q5_1(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (!weights) return encode_evenly<EvenQ5_1>(w, spans, stored);
    const auto store = [](SpanQ5_1& span, int s, const uint8_t* c, const auto& fit) {
        span.m = fit.m(s);
        pack_fifth_bits(c, span.high);
    };
    encode_spans<SpanQ5_1, ShiftedSpan<31>>(w, weights, spans, stored, search::more_steps, store);
}

void encode_q8_0(const float* w, const float*, int64_t spans, uint8_t* stored) { encode_evenly<RoundedQ8_0>(w, spans, stored); }

constexpr Codec codecs[] = {
    {"Q4_0", 32, sizeof(SpanQ4_0), encode_q4_0, decode_q4_0, weigh_by_row_spread, true, nullptr, encode_measured<EvenQ4_0>},
    {"Q4_1", 32, sizeof(SpanQ4_1), encode_q4_1, decode_q4_1, weigh_by_row_spread, true, nullptr, encode_measured<EvenQ4_1>},
    {"Q5_0", 32, sizeof(SpanQ5_0), encode_q5_0, decode_q5_0, weigh_by_row_spread, true, nullptr, encode_measured<EvenQ5_0>},
    {"Q5_1", 32, sizeof(SpanQ5_1), encode_q5_1, decode_q5_1, weigh_by_row_spread, true, nullptr, encode_measured<EvenQ5_1>},
    {"Q8_0", 32, sizeof(SpanQ8_0), encode_q8_0, decode_q8_0, nullptr, false, nullptr, encode_measured<RoundedQ8_0>},
};

}  // namespace

FEWBITS_FAMILY(legacy, codecs)

}  // namespace fewbits
