// Lattices of 4 columns: IQ3_XXS, IQ3_S.
#include "lattice_spans.h"

namespace fewbits {
namespace {

struct Four {
    static constexpr int width = 4, levels = 8, length = 32;
    static constexpr bool rooted = false;
    static constexpr float spread = 2.0f;
};
struct ShapeIQ3_XXS : Four {
    static constexpr const char* name = "IQ3_XXS";
    static constexpr const float (&steps)[7] = search::iq3_xxs_levels;
    static constexpr int parts = 2;
    static constexpr bool even = true;
    static constexpr float unit = 0.25f;
};
struct ShapeIQ3_S : Four {
    static constexpr const char* name = "IQ3_S";
    static constexpr const float (&steps)[7] = search::iq3_s_levels;
    static constexpr int parts = 1;
    static constexpr bool even = false;
    static constexpr float unit = 1.0f;
};

void encode_iq3_xxs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<ShapeIQ3_XXS, SpanIQ3_XXS>(w, weights, spans, stored, [](SpanIQ3_XXS& out, const auto& fit, int s) {
        out.d = fit.d(s);
        for (int p = 0; p < 64; ++p) out.points[p] = static_cast<uint8_t>(fit.point(s, p));
        for (int g = 0; g < 8; ++g) pack_signs_and_scale(fit, s, g, out.signs_and_scale[g]);
    });
}

void encode_iq3_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<ShapeIQ3_S, SpanIQ3_S>(w, weights, spans, stored, [](SpanIQ3_S& out, const auto& fit, int s) {
        out.d = fit.d(s);
        std::memset(out.high, 0, sizeof out.high);
        for (int p = 0; p < 64; ++p) {
            out.points[p] = static_cast<uint8_t>(fit.point(s, p));
            out.high[p / 8] |= static_cast<uint8_t>((fit.point(s, p) >> 8) << p % 8);
        }
        for (int v = 0; v < 32; ++v) out.signs[v] = fit.signs(s, v);
        pack_scales(fit, s, 8, out.scales);
    });
}

void decode_iq3_xxs(const uint8_t* stored, int64_t spans, float* w) {
    const int8_t* points = lattice("IQ3_XXS")->points;
    const auto* in = reinterpret_cast<const SpanIQ3_XXS*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int g = 0; g < 8; ++g) {
            uint32_t bits;
            std::memcpy(&bits, in[s].signs_and_scale[g], 4);
            const float step = d * (0.25f * static_cast<float>(2 * (bits >> 28) + 1));
            const uint8_t* p = in[s].points + 8 * g;
            for (int v = 0; v < 4; ++v, p += 2, w += 8)
                store_four_and_four(points + 4 * p[0], points + 4 * p[1], with_eighth(bits >> 7 * v & 127), step, w);
        }
    }
}

void decode_iq3_s(const uint8_t* stored, int64_t spans, float* w) {
    const int8_t* points = lattice("IQ3_S")->points;
    const auto* in = reinterpret_cast<const SpanIQ3_S*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int v = 0; v < 32; ++v, w += 8) {
            const float step = d * static_cast<float>(2 * (in[s].scales[v / 8] >> 4 * (v / 4 % 2) & 15) + 1);
            const int high = in[s].high[v / 4] >> 2 * (v % 4);
            const int first = in[s].points[2 * v] | (high & 1) << 8, second = in[s].points[2 * v + 1] | (high & 2) << 7;
            store_four_and_four(points + 4 * first, points + 4 * second, in[s].signs[v], step, w);
        }
    }
}

constexpr Codec codecs[] = {
    {"IQ3_XXS", 256, sizeof(SpanIQ3_XXS), encode_iq3_xxs, decode_iq3_xxs, weigh_lattice<ShapeIQ3_XXS>, true, "IQ3_XXS"},
    {"IQ3_S", 256, sizeof(SpanIQ3_S), encode_iq3_s, decode_iq3_s, weigh_lattice<ShapeIQ3_S>, true, "IQ3_S"},
};

}  // namespace

FEWBITS_FAMILY(iq3, codecs)

}  // namespace fewbits
