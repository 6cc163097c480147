// Lattices of 8 columns: IQ2_XXS, IQ2_XS, IQ2_S.
#include "lattice_spans.h"

namespace fewbits {
namespace {

struct Eight {
    static constexpr int width = 8, levels = 3, parts = 1;
    static constexpr float unit = 0.125f;
};
struct ShapeIQ2_XXS : Eight {
    static constexpr const char* name = "IQ2_XXS";
    static constexpr const float (&steps)[7] = search::iq2_xxs_levels;
    static constexpr int length = 32;
    static constexpr bool even = true, rooted = true;
    static constexpr float spread = 1.0f;
};
struct ShapeIQ2_XS : Eight {
    static constexpr const char* name = "IQ2_XS";
    static constexpr const float (&steps)[7] = search::iq2_levels;
    static constexpr int length = 16;
    static constexpr bool even = true, rooted = true;
    static constexpr float spread = 1.0f;
};
struct ShapeIQ2_S : Eight {
    static constexpr const char* name = "IQ2_S";
    static constexpr const float (&steps)[7] = search::iq2_levels;
    static constexpr int length = 16;
    static constexpr bool even = false, rooted = false;
    static constexpr float spread = 2.0f;
};

void encode_iq2_xxs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<ShapeIQ2_XXS, SpanIQ2_XXS>(w, weights, spans, stored, [](SpanIQ2_XXS& out, const auto& fit, int s) {
        out.d = fit.d(s);
        for (int g = 0; g < 8; ++g) {
            for (int v = 0; v < 4; ++v) out.groups[g].points[v] = static_cast<uint8_t>(fit.point(s, 4 * g + v));
            pack_signs_and_scale(fit, s, g, out.groups[g].signs_and_scale);
        }
    });
}

void encode_iq2_xs(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<ShapeIQ2_XS, SpanIQ2_XS>(w, weights, spans, stored, [](SpanIQ2_XS& out, const auto& fit, int s) {
        out.d = fit.d(s);
        for (int v = 0; v < 32; ++v)
            out.vectors[v] = static_cast<uint16_t>(fit.point(s, v) | (fit.signs(s, v) & 127) << 9);
        pack_scales(fit, s, 16, out.scales);
    });
}

void encode_iq2_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode_lattice<ShapeIQ2_S, SpanIQ2_S>(w, weights, spans, stored, [](SpanIQ2_S& out, const auto& fit, int s) {
        out.d = fit.d(s);
        std::memset(out.high, 0, sizeof out.high);
        for (int v = 0; v < 32; ++v) {
            out.points[v] = static_cast<uint8_t>(fit.point(s, v));
            out.high[v / 4] |= static_cast<uint8_t>((fit.point(s, v) >> 8) << 2 * (v % 4));
            out.signs[v] = fit.signs(s, v);
        }
        pack_scales(fit, s, 16, out.scales);
    });
}

// d * (2 * scale + 1) / 8, exact.
inline float step_of(float d, int scale) { return d * (0.125f * static_cast<float>(2 * scale + 1)); }

void decode_iq2_xxs(const uint8_t* stored, int64_t spans, float* w) {
    const int8_t* points = lattice("IQ2_XXS")->points;
    const auto* in = reinterpret_cast<const SpanIQ2_XXS*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (const auto& group : in[s].groups) {
            uint32_t bits;
            std::memcpy(&bits, group.signs_and_scale, 4);
            const float step = step_of(d, static_cast<int>(bits >> 28));
            for (int v = 0; v < 4; ++v, w += 8)
                store_eight(points + 8 * group.points[v], with_eighth(bits >> 7 * v & 127), step, w);
        }
    }
}

void decode_iq2_xs(const uint8_t* stored, int64_t spans, float* w) {
    const int8_t* points = lattice("IQ2_XS")->points;
    const auto* in = reinterpret_cast<const SpanIQ2_XS*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int v = 0; v < 32; ++v, w += 8) {
            const float step = step_of(d, in[s].scales[v / 4] >> 4 * (v / 2 % 2) & 15);
            store_eight(points + 8 * (in[s].vectors[v] & 511), with_eighth(in[s].vectors[v] >> 9), step, w);
        }
    }
}

void decode_iq2_s(const uint8_t* stored, int64_t spans, float* w) {
    const int8_t* points = lattice("IQ2_S")->points;
    const auto* in = reinterpret_cast<const SpanIQ2_S*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int v = 0; v < 32; ++v, w += 8) {
            const int point = in[s].points[v] | (in[s].high[v / 4] >> 2 * (v % 4) & 3) << 8;
            const float step = step_of(d, in[s].scales[v / 4] >> 4 * (v / 2 % 2) & 15);
            store_eight(points + 8 * point, in[s].signs[v], step, w);
        }
    }
}

constexpr Codec codecs[] = {
    {"IQ2_XXS", 256, sizeof(SpanIQ2_XXS), encode_iq2_xxs, decode_iq2_xxs, weigh_lattice<ShapeIQ2_XXS>, true, "IQ2_XXS"},
    {"IQ2_XS", 256, sizeof(SpanIQ2_XS), encode_iq2_xs, decode_iq2_xs, weigh_lattice<ShapeIQ2_XS>, true, "IQ2_XS"},
    {"IQ2_S", 256, sizeof(SpanIQ2_S), encode_iq2_s, decode_iq2_s, weigh_lattice<ShapeIQ2_S>, true, "IQ2_S"},
};

}  // namespace

FEWBITS_FAMILY(iq2, codecs)

}  // namespace fewbits
