// Lattices of 4 columns, scalar.
#include "lattice_spans.h"

namespace fewbits {
namespace {

constexpr LatticeKind iq3_xxs = {"IQ3_XXS", 4, 2, 32, true, 0.25f, search::iq3_xxs_levels, 2.0f, false};
constexpr LatticeKind iq3_s = {"IQ3_S", 4, 1, 32, false, 1.0f, search::iq3_s_levels, 2.0f, false};

void encode_iq3_xxs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<SpanIQ3_XXS>(iq3_xxs, w, weights, spans, stored, [](SpanIQ3_XXS& out, const LatticeSpan& span) {
        out.d = span.d;
        for (size_t p = 0; p < 64; ++p) out.points[p] = byte(span.point[p]);
        for (size_t v = 0; v < 32; ++v) {
            const uint32_t bits = static_cast<uint32_t>(span.sign[v] & 127) << 7 * (v % 4);
            for (size_t b = 0; b < 4; ++b) out.signs_and_scale[v / 4][b] |= static_cast<uint8_t>(bits >> 8 * b);
        }
        for (size_t g = 0; g < 8; ++g) out.signs_and_scale[g][3] |= byte(span.scale[g] * 16);
    });
}

void encode_iq3_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<SpanIQ3_S>(iq3_s, w, weights, spans, stored, [](SpanIQ3_S& out, const LatticeSpan& span) {
        out.d = span.d;
        for (size_t p = 0; p < 64; ++p) {
            out.points[p] = byte(span.point[p] % 256);
            out.high[p / 8] |= byte((span.point[p] / 256) << (p % 8));
        }
        for (size_t v = 0; v < 32; ++v) out.signs[v] = byte(span.sign[v]);
        for (size_t g = 0; g < 8; g += 2) out.scales[g / 2] = byte(span.scale[g] + 16 * span.scale[g + 1]);
    });
}

void decode_iq3_xxs(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ3_XXS& in = spans_at<SpanIQ3_XXS>(stored)[i / 256];
        const int c = static_cast<int>(i % 256);
        const uint8_t* group = in.signs_and_scale[c / 32];
        const float step = half_to_float(in.d) * (0.5f + static_cast<float>(group[3] / 16)) * 0.5f;
        const float number = lattice("IQ3_XXS")->points[4 * in.points[c / 4] + c % 4];
        w[i] = step * with_sign(number, bits_at(group, 7 * (c % 32 / 8), 7), c % 8, true);
    }
}

void decode_iq3_s(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ3_S& in = spans_at<SpanIQ3_S>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), point = in.points[c / 4] + 256 * bits_at(in.high, c / 4, 1);
        const float step = half_to_float(in.d) * static_cast<float>(1 + 2 * bits_at(in.scales, 4 * (c / 32), 4));
        w[i] = step * with_sign(lattice("IQ3_S")->points[4 * point + c % 4], in.signs[c / 8], c % 8, false);
    }
}

constexpr Codec codecs[] = {
    {"IQ3_XXS", 256, sizeof(SpanIQ3_XXS), encode_iq3_xxs, decode_iq3_xxs, weigh_lattice<iq3_xxs>, true, "IQ3_XXS"},
    {"IQ3_S", 256, sizeof(SpanIQ3_S), encode_iq3_s, decode_iq3_s, weigh_lattice<iq3_s>, true, "IQ3_S"},
};

}  // namespace

FEWBITS_FAMILY(iq3, codecs)

}  // namespace fewbits
