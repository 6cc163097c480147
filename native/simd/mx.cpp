// OCP's microscaling formats and NVFP4.
#include "fields.h"

namespace fewbits {
namespace {

inline int clamp_exponent(int exponent) { return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent; }

template <typename Type, bool weighted>
int best_exponent(const float* x, const float* weights) {
    const int usual = clamp_exponent(exponent_of(largest_of(x, mx_span)) - Type::largest_power);
    const Rounding<Type> rounded;
    float best = INFINITY;
    int exponent = usual;
    for (const int shift : Type::shifts) {
        const int candidate = clamp_exponent(usual + shift);
        const Vec inverse = Vec::all(power_of_two(-candidate)), back = Vec::all(power_of_two(candidate - usual));
        LaneSum error;
        for_lanes<weighted>(x, weights, mx_span, [&](int p, Vec number, Vec weight) {
            const Vec y = number * inverse, r = (y - rounded(y)) * back;
            error.part[p] = error.part[p] + weigh<weighted>(weight, r) * r;
        });
        const float found = error.total();
        if (!(found < best)) continue;
        best = found;
        exponent = candidate;
    }
    return exponent;
}

// The code of E4M3 of the scale of a group; `inverse` is that of the tensor's scale.
template <bool weighted>
int best_scale_code(const float* x, const float* weights, float inverse) {
    const int top = static_cast<int>(e4m3.top), near = to_mini(e4m3, largest_of(x, nv_span) * inverse / 6.0f);
    const int usual = near < 1 ? 1 : near;
    const Vec inv = Vec::all(inverse);
    const Rounding<E2M1> rounded;
    float best = INFINITY;
    int code = usual;
    for (const int shift : nv_scale_shifts) {
        const int beside = usual + shift, candidate = beside < 1 ? 1 : beside > top ? top : beside;
        const float own = from_mini(e4m3, static_cast<uint8_t>(candidate));
        const Vec scale = Vec::all(own), own_inverse = Vec::all(inverse_of(own));
        LaneSum error;
        for_lanes<weighted>(x, weights, nv_span, [&](int p, Vec number, Vec weight) {
            const Vec y = number * inv, r = y - rounded(y * own_inverse) * scale;
            error.part[p] = error.part[p] + weigh<weighted>(weight, r) * r;
        });
        const float found = error.total();
        if (!(found < best)) continue;
        best = found;
        code = candidate;
    }
    return code;
}

template <typename Type>
void encode_mx(const Slab& slab, const float* w, const float* weights) {
    for (int64_t g = 0; g < slab.rows * slab.cols / mx_span; ++g) {
        const float* x = w + g * mx_span;
        const int exponent = weights ? best_exponent<Type, true>(x, weights + g * mx_span) : best_exponent<Type, false>(x, nullptr);
        slab.scales[g] = static_cast<uint8_t>(exponent + 127);
    }
    encode_rows<Type>(slab, w);
}

void encode_nvfp4(const Slab& slab, const float* w, const float* weights) {
    const float inverse = inverse_of(slab.tensor_scale);
    for (int64_t g = 0; g < slab.rows * slab.cols / nv_span; ++g) {
        const float* x = w + g * nv_span;
        slab.scales[g] = static_cast<uint8_t>(weights ? best_scale_code<true>(x, weights + g * nv_span, inverse)
                                                      : best_scale_code<false>(x, nullptr, inverse));
    }
    encode_rows<E2M1>(slab, w);
}

constexpr FieldCodec codecs[] = {
    {"mxfp8_e4m3", 8, encode_mx<E4M3>, decode_rows<E4M3>},
    {"mxfp8_e5m2", 8, encode_mx<E5M2>, decode_rows<E5M2>},
    {"mxfp6_e3m2", 6, encode_mx<E3M2>, decode_rows<E3M2>},
    {"mxfp6_e2m3", 6, encode_mx<E2M3>, decode_rows<E2M3>},
    {"mxfp4", 4, encode_mx<E2M1>, decode_rows<E2M1>},
    {"mxint8", 8, encode_mx<Sixtyfourths>, decode_rows<Sixtyfourths>},
    {"nvfp4", 4, encode_nvfp4, decode_rows<E2M1>},
};

}  // namespace

FEWBITS_FIELD_FAMILY(mx, codecs)

}  // namespace fewbits
