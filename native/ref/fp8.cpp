// Small floats with floating-point scales, scalar.
#include "fields.h"

namespace fewbits {
namespace {

float rounded(MiniFloat type, float x) { return from_mini(type, to_mini(type, x)); }

// The scale that removes most of the weighted energy of x.
float best_scale(MiniFloat type, const Levels& levels, std::vector<float> x, const std::vector<float>& weights) {
    const float largest = levels.levels[0];
    float size = smallest_normal * largest, best = 0, scale = 1.0f / largest;
    for (const float number : x) size = std::fmax(size, std::fabs(number));
    for (float& number : x) number *= inverse_of(size);
    for (int level = 0; level < levels.count; ++level) {
        LaneSum yv, vv;
        for (size_t i = 0; i < x.size(); ++i) {
            const float v = rounded(type, x[i] * levels.levels[level]), weighted = weights[i] * v;
            yv.add(weighted * x[i]);
            vv.add(weighted * v);
        }
        const float own = yv.total() * inverse_of(vv.total()), lowest = 1.0f / levels.reach;
        const float candidate = own < lowest ? lowest : own;
        const float gain = candidate * ((yv.total() + yv.total()) - candidate * vv.total());
        if (!(gain > best)) continue;
        best = gain;
        scale = candidate;
    }
    return scale * size;
}

void encode(MiniFloat type, const Levels& levels, const Slab& slab, const float* w, const float* weights) {
    const int bits = type.sign_bit() + 1;
    clear_codes(slab, bits);
    for_scopes(slab, [&](const Place& place) {
        if (slab.scope_rows) {
            const float scale = best_scale(type, levels, numbers_at(slab, place, w), numbers_at(slab, place, weights));
            store_scale(slab, place.scale, scale < smallest_normal ? smallest_normal : scale);
        }
        store_codes(slab, place, w, bits, [&](float x) { return to_mini(type, x); });
    });
}

template <const MiniFloat& type, const Levels& levels>
void encode_as(const Slab& slab, const float* w, const float* weights) { encode(type, levels, slab, w, weights); }
template <const MiniFloat& type>
void decode_as(const Slab& slab, float* w) {
    decode_codes(slab, type.sign_bit() + 1, w, [](uint8_t code) { return from_mini(type, code); });
}

constexpr FieldCodec codecs[] = {
    {"fp8_e4m3", 8, encode_as<e4m3, e4m3_levels>, decode_as<e4m3>},
    {"fp8_e5m2", 8, encode_as<e5m2, e5m2_levels>, decode_as<e5m2>},
    {"fp6_e3m2", 6, encode_as<e3m2, e3m2_levels>, decode_as<e3m2>},
    {"fp6_e2m3", 6, encode_as<e2m3, e2m3_levels>, decode_as<e2m3>},
    {"fp4_e2m1", 4, encode_as<e2m1, e2m1_levels>, decode_as<e2m1>},
};

}  // namespace

FEWBITS_FIELD_FAMILY(fp8, codecs)

}  // namespace fewbits
