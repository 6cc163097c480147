// Lattices of 8 columns, scalar.
#include "lattice_spans.h"

namespace fewbits {
namespace {

constexpr LatticeKind iq2_xxs = {"IQ2_XXS", 8, 1, 32, true, 0.125f, search::iq2_xxs_levels, 1.0f, true};
constexpr LatticeKind iq2_xs = {"IQ2_XS", 8, 1, 16, true, 0.125f, search::iq2_levels, 1.0f, true};
constexpr LatticeKind iq2_s = {"IQ2_S", 8, 1, 16, false, 0.125f, search::iq2_levels, 2.0f, false};

void encode_iq2_xxs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<SpanIQ2_XXS>(iq2_xxs, w, weights, spans, stored, [](SpanIQ2_XXS& out, const LatticeSpan& span) {
        out.d = span.d;
        for (size_t v = 0; v < 32; ++v) {
            auto& group = out.groups[v / 4];
            group.points[v % 4] = byte(span.point[v]);
            const uint32_t bits = static_cast<uint32_t>(span.sign[v] & 127) << 7 * (v % 4);
            for (size_t b = 0; b < 4; ++b) group.signs_and_scale[b] |= static_cast<uint8_t>(bits >> 8 * b);
        }
        for (size_t g = 0; g < 8; ++g) out.groups[g].signs_and_scale[3] |= byte(span.scale[g] * 16);
    });
}

void encode_iq2_xs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<SpanIQ2_XS>(iq2_xs, w, weights, spans, stored, [](SpanIQ2_XS& out, const LatticeSpan& span) {
        out.d = span.d;
        for (size_t v = 0; v < 32; ++v)
            out.vectors[v] = static_cast<uint16_t>(span.point[v] + 512 * (span.sign[v] % 128));
        for (size_t g = 0; g < 16; g += 2) out.scales[g / 2] = byte(span.scale[g] + 16 * span.scale[g + 1]);
    });
}

void encode_iq2_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<SpanIQ2_S>(iq2_s, w, weights, spans, stored, [](SpanIQ2_S& out, const LatticeSpan& span) {
        out.d = span.d;
        for (size_t v = 0; v < 32; ++v) {
            out.points[v] = byte(span.point[v] % 256);
            out.signs[v] = byte(span.sign[v]);
            out.high[v / 4] |= byte((span.point[v] / 256) << (2 * (v % 4)));
        }
        for (size_t g = 0; g < 16; g += 2) out.scales[g / 2] = byte(span.scale[g] + 16 * span.scale[g + 1]);
    });
}

float eighths(half_bits d, int scale) { return half_to_float(d) * (0.5f + static_cast<float>(scale)) * 0.25f; }

void decode_iq2_xxs(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ2_XXS& in = spans_at<SpanIQ2_XXS>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), vector = c % 32 / 8;
        const auto& group = in.groups[c / 32];
        const int signs = bits_at(group.signs_and_scale, 7 * vector, 7), scale = group.signs_and_scale[3] / 16;
        const float number = lattice("IQ2_XXS")->points[8 * group.points[vector] + c % 8];
        w[i] = eighths(in.d, scale) * with_sign(number, signs, c % 8, true);
    }
}

void decode_iq2_xs(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ2_XS& in = spans_at<SpanIQ2_XS>(stored)[i / 256];
        const int c = static_cast<int>(i % 256);
        const float number = lattice("IQ2_XS")->points[8 * (in.vectors[c / 8] % 512) + c % 8];
        w[i] = eighths(in.d, bits_at(in.scales, 4 * (c / 16), 4)) * with_sign(number, in.vectors[c / 8] / 512, c % 8, true);
    }
}

void decode_iq2_s(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanIQ2_S& in = spans_at<SpanIQ2_S>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), point = in.points[c / 8] + 256 * bits_at(in.high, 2 * (c / 8), 2);
        const float number = lattice("IQ2_S")->points[8 * point + c % 8];
        w[i] = eighths(in.d, bits_at(in.scales, 4 * (c / 16), 4)) * with_sign(number, in.signs[c / 8], c % 8, false);
    }
}

constexpr Codec codecs[] = {
    {"IQ2_XXS", 256, sizeof(SpanIQ2_XXS), encode_iq2_xxs, decode_iq2_xxs, weigh_lattice<iq2_xxs>, true, "IQ2_XXS"},
    {"IQ2_XS", 256, sizeof(SpanIQ2_XS), encode_iq2_xs, decode_iq2_xs, weigh_lattice<iq2_xs>, true, "IQ2_XS"},
    {"IQ2_S", 256, sizeof(SpanIQ2_S), encode_iq2_s, decode_iq2_s, weigh_lattice<iq2_s>, true, "IQ2_S"},
};

}  // namespace

FEWBITS_FAMILY(iq2, codecs)

}  // namespace fewbits
