// Formats whose codes index a table of sixteen uneven numbers.
#include "importance.h"
#include "spans.h"
#include "tabled.h"

namespace fewbits {
namespace {

void encode_iq4_nl(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanIQ4_NL*>(stored);
    for_batches<32, batch>(w, weights, spans, [&](int64_t first, int present, const float* numbers, const float* own) {
        const TabledGroups fit(numbers, own);
        alignas(64) uint8_t columns[32 * batch];
        uint8_t codes[32 * batch];
        half_bits d[batch];
        const Vec limit = Vec::all(search::half_max);
        for (int g = 0; g < batch; g += Vec::lanes) {
            store_half(clamp(fit.best_scale(g), Vec::all(0.0f) - limit, limit), d + g);
            fit.store_codes(g, load_half(d + g), columns);
        }
        to_rows(columns, 32, codes);
        for (int s = 0; s < present; ++s) {
            out[first + s].d = d[s];
            pack_halves<16>(codes + 32 * s, codes + 32 * s + 16, out[first + s].q);
        }
    });
}

void encode_iq4_xs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanIQ4_XS*>(stored);
    for_batches<256, 2>(w, weights, spans, [&](int64_t first, int present, const float* numbers, const float* own) {
        const TabledSpans fit(numbers, own);
        uint8_t codes[32 * batch];
        to_rows(fit.codes(), 32, codes);
        for (int s = 0; s < present; ++s) {
            SpanIQ4_XS& span = out[first + s];
            span.d = fit.d(s);
            int high = 0;
            for (int g = 0; g < 8; ++g) high |= (fit.scale(s, g) >> 4) << (2 * g);
            for (int b = 0; b < 2; ++b) span.high[b] = static_cast<uint8_t>(high >> (8 * b));
            for (int p = 0; p < 4; ++p)
                span.low[p] = static_cast<uint8_t>((fit.scale(s, 2 * p) & 15) | (fit.scale(s, 2 * p + 1) & 15) << 4);
            const uint8_t* c = codes + 256 * s;
            for (int g = 0; g < 8; ++g) pack_halves<16>(c + 32 * g, c + 32 * g + 16, span.q + 16 * g);
        }
    });
}

void decode_group(const uint8_t* q, float step, float* w) {
    Vec numbers[32 / Vec::lanes];
    look_up_halves(q, iq4_table, numbers);
    for (int e = 0; e < 32; e += Vec::lanes) (Vec::all(step) * numbers[e / Vec::lanes]).store(w + e);
}

void decode_iq4_nl(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanIQ4_NL*>(stored);
    for (int64_t s = 0; s < spans; ++s) decode_group(in[s].q, half_to_float(in[s].d), w + 32 * s);
}

void decode_iq4_xs(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanIQ4_XS*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        const int high = in[s].high[0] | in[s].high[1] << 8;
        for (int g = 0; g < 8; ++g, w += 32) {
            const int scale = ((in[s].low[g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
            decode_group(in[s].q + 16 * g, d * static_cast<float>(scale - 32), w);
        }
    }
}

constexpr Codec codecs[] = {
    {"IQ4_NL", 32, sizeof(SpanIQ4_NL), encode_iq4_nl, decode_iq4_nl, weigh_by_spread<32>, true},
    {"IQ4_XS", 256, sizeof(SpanIQ4_XS), encode_iq4_xs, decode_iq4_xs, weigh_by_spread<256>, true},
};

}  // namespace

FEWBITS_FAMILY(iq4, codecs)

}  // namespace fewbits
