// OCP's microscaling formats and NVFP4, scalar.
#include "fields.h"

namespace fewbits {
namespace {

// What codes of a format mean, and the exponent of the largest one.
struct Small {
    MiniFloat type;
    int largest_power;
    uint8_t encode(float x) const { return to_mini(type, x); }
    float decode(uint8_t code) const { return from_mini(type, code); }
    int bits() const { return type.sign_bit() + 1; }
    static constexpr const int (&shifts)[2] = mx_float_shifts;
};

struct Sixtyfourths {
    static constexpr int largest_power = 0;
    uint8_t encode(float x) const {
        const float steps = std::nearbyint(x * 64.0f);
        return static_cast<uint8_t>(static_cast<int8_t>(steps > 127.0f ? 127.0f : steps < -127.0f ? -127.0f : steps));
    }
    float decode(uint8_t code) const { return static_cast<float>(static_cast<int8_t>(code)) * 0x1p-6f; }
    int bits() const { return 8; }
    static constexpr const int (&shifts)[2] = mx_integer_shifts;
};

int clamp_exponent(int exponent) { return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent; }

template <typename Element>
int best_exponent(const Element& element, const std::vector<float>& x, const std::vector<float>& weights) {
    float largest = 0;
    for (const float number : x) largest = std::fmax(largest, std::fabs(number));
    const int usual = clamp_exponent(exponent_of(largest) - element.largest_power);
    float best = INFINITY;
    int exponent = usual;
    for (const int shift : Element::shifts) {
        const int candidate = clamp_exponent(usual + shift);
        LaneSum error;
        for (size_t i = 0; i < x.size(); ++i) {
            const float y = x[i] * power_of_two(-candidate);
            const float r = (y - element.decode(element.encode(y))) * power_of_two(candidate - usual);
            error.add((weights[i] * r) * r);
        }
        if (!(error.total() < best)) continue;
        best = error.total();
        exponent = candidate;
    }
    return exponent;
}

template <typename Element>
void encode_mx(const Element& element, const Slab& slab, const float* w, const float* weights) {
    clear_codes(slab, element.bits());
    for_scopes(slab, [&](const Place& place) {
        const int exponent = best_exponent(element, numbers_at(slab, place, w), numbers_at(slab, place, weights));
        slab.scales[place.scale] = static_cast<uint8_t>(exponent + 127);
        store_codes(slab, place, w, element.bits(), [&](float x) { return element.encode(x); });
    });
}

// The code of E4M3 of the scale of a group of numbers that are divided by the tensor's scale.
int best_scale_code(const std::vector<float>& x, const std::vector<float>& weights) {
    float largest = 0, best = INFINITY;
    for (const float number : x) largest = std::fmax(largest, std::fabs(number));
    const int top = static_cast<int>(e4m3.top), near = to_mini(e4m3, largest / 6.0f), usual = near < 1 ? 1 : near;
    int code = usual;
    for (const int shift : nv_scale_shifts) {
        const int beside = usual + shift, candidate = beside < 1 ? 1 : beside > top ? top : beside;
        const float scale = from_mini(e4m3, static_cast<uint8_t>(candidate)), inverse = inverse_of(scale);
        LaneSum error;
        for (size_t i = 0; i < x.size(); ++i) {
            const float r = x[i] - from_mini(e2m1, to_mini(e2m1, x[i] * inverse)) * scale;
            error.add((weights[i] * r) * r);
        }
        if (!(error.total() < best)) continue;
        best = error.total();
        code = candidate;
    }
    return code;
}

void encode_nvfp4(const Slab& slab, const float* w, const float* weights) {
    clear_codes(slab, 4);
    for_scopes(slab, [&](const Place& place) {
        std::vector<float> x = numbers_at(slab, place, w);
        for (float& number : x) number *= inverse_tensor_scale(slab);
        slab.scales[place.scale] = static_cast<uint8_t>(best_scale_code(x, numbers_at(slab, place, weights)));
        store_codes(slab, place, w, 4, [](float number) { return to_mini(e2m1, number); });
    });
}

template <const MiniFloat& type, int largest_power>
void encode_as(const Slab& slab, const float* w, const float* weights) {
    encode_mx(Small{type, largest_power}, slab, w, weights);
}
template <const MiniFloat& type>
void decode_as(const Slab& slab, float* w) {
    decode_codes(slab, type.sign_bit() + 1, w, [](uint8_t code) { return from_mini(type, code); });
}
void encode_mxint8(const Slab& slab, const float* w, const float* weights) { encode_mx(Sixtyfourths{}, slab, w, weights); }
void decode_mxint8(const Slab& slab, float* w) {
    decode_codes(slab, 8, w, [](uint8_t code) { return Sixtyfourths{}.decode(code); });
}

constexpr FieldCodec codecs[] = {
    {"mxfp8_e4m3", 8, encode_as<e4m3, 8>, decode_as<e4m3>},
    {"mxfp8_e5m2", 8, encode_as<e5m2, 15>, decode_as<e5m2>},
    {"mxfp6_e3m2", 6, encode_as<e3m2, 4>, decode_as<e3m2>},
    {"mxfp6_e2m3", 6, encode_as<e2m3, 2>, decode_as<e2m3>},
    {"mxfp4", 4, encode_as<e2m1, 2>, decode_as<e2m1>},
    {"mxint8", 8, encode_mxint8, decode_mxint8},
    {"nvfp4", 4, encode_nvfp4, decode_as<e2m1>},
};

}  // namespace

FEWBITS_FIELD_FAMILY(mx, codecs)

}  // namespace fewbits
