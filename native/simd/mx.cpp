// OCP's microscaling formats and NVFP4.
#include "fields.h"
#include "sixteen.h"

namespace fewbits {
namespace {

inline int clamp_exponent(int exponent) { return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent; }

// What one of sixteen spans tries, and the best so far.
struct Choice {
    float best[batch];
    int usual[batch], tried[batch], chosen[batch];

    // `found` are the errors of what was tried.
    void take(const float* found) {
        for (int s = 0; s < batch; ++s) {
            const bool lower = found[s] < best[s];
            best[s] = lower ? found[s] : best[s];
            chosen[s] = lower ? tried[s] : chosen[s];
        }
    }
    void start_from(int s, int at) {
        best[s] = INFINITY;
        usual[s] = chosen[s] = at;
    }
};

template <typename Type, bool weighted>
void best_exponents(const float* x, const float* weights, int present, uint8_t* scales) {
    alignas(64) float largest[batch] = {}, found[batch], inverse[batch], back[batch];
    const Rounding<Type> rounded;
    LaneSums errors;
    Choice choice;
    largest_along(x, mx_span, present, largest);
    for (int s = 0; s < batch; ++s) choice.start_from(s, clamp_exponent(exponent_of(largest[s]) - Type::largest_power));
    for (const int shift : Type::shifts) {
        for (int s = 0; s < batch; ++s) {
            choice.tried[s] = clamp_exponent(choice.usual[s] + shift);
            inverse[s] = power_of_two(-choice.tried[s]);
            back[s] = power_of_two(choice.tried[s] - choice.usual[s]);
        }
        add_along<weighted>(x, weights, mx_span, present, {&errors}, [&](int s, Vec number, Vec weight, Vec* sum) {
            const Vec y = number * Vec::all(inverse[s]), r = (y - rounded(y)) * Vec::all(back[s]);
            *sum = *sum + weigh<weighted>(weight, r) * r;
        });
        errors.totals(found);
        choice.take(found);
    }
    for (int s = 0; s < present; ++s) scales[s] = static_cast<uint8_t>(choice.chosen[s] + 127);
}

// Numbers of E4M3 by their codes, and the inverses.
struct ScaleNumbers {
    float number[128], inverse[128];
    ScaleNumbers() {
        for (int code = 0; code < 128; ++code) {
            number[code] = from_mini(e4m3, static_cast<uint8_t>(code));
            inverse[code] = inverse_of(number[code]);
        }
    }
};

// The codes of E4M3 of the scales of groups; `inverse` is that of the tensor's scale.
template <bool weighted>
void best_scale_codes(const float* x, const float* weights, float inverse, int present, uint8_t* scales) {
    static const ScaleNumbers scale_of;
    alignas(64) float largest[batch] = {}, found[batch], y[nv_span * batch];
    const Rounding<E2M1> rounded;
    const int top = static_cast<int>(e4m3.top);
    LaneSums errors;
    Choice choice;
    largest_along(x, nv_span, present, largest);
    for (int s = 0; s < batch; ++s) {
        const int near = to_mini(e4m3, largest[s] * inverse / 6.0f);
        choice.start_from(s, near < 1 ? 1 : near);
    }
    for (int i = 0; i < nv_span * present; i += Vec::lanes) (Vec::load(x + i) * Vec::all(inverse)).store(y + i);
    for (const int shift : nv_scale_shifts) {
        for (int s = 0; s < batch; ++s) {
            const int beside = choice.usual[s] + shift;
            choice.tried[s] = beside < 1 ? 1 : beside > top ? top : beside;
        }
        add_along<weighted>(y, weights, nv_span, present, {&errors}, [&](int s, Vec number, Vec weight, Vec* sum) {
            const int tried = choice.tried[s];
            const Vec scale = Vec::all(scale_of.number[tried]), own_inverse = Vec::all(scale_of.inverse[tried]);
            const Vec r = number - rounded(number * own_inverse) * scale;
            *sum = *sum + weigh<weighted>(weight, r) * r;
        });
        errors.totals(found);
        choice.take(found);
    }
    for (int s = 0; s < present; ++s) scales[s] = static_cast<uint8_t>(choice.chosen[s]);
}

template <typename Type>
void encode_mx(const Slab& slab, const float* w, const float* weights) {
    for_sixteens(slab.rows * slab.cols / mx_span, [&](int64_t first, int present) {
        const int64_t at = first * mx_span;
        if (weights) best_exponents<Type, true>(w + at, weights + at, present, slab.scales + first);
        else best_exponents<Type, false>(w + at, nullptr, present, slab.scales + first);
    });
    encode_rows<Type>(slab, w);
}

void encode_nvfp4(const Slab& slab, const float* w, const float* weights) {
    const float inverse = inverse_tensor_scale(slab);
    for_sixteens(slab.rows * slab.cols / nv_span, [&](int64_t first, int present) {
        const int64_t at = first * nv_span;
        if (weights) best_scale_codes<true>(w + at, weights + at, inverse, present, slab.scales + first);
        else best_scale_codes<false>(w + at, nullptr, inverse, present, slab.scales + first);
    });
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
