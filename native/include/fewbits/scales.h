// Scales as they lie on disk.
#pragma once
#include "fewbits/fields.h"
#include "fewbits/small_floats.h"

namespace fewbits {
namespace {

inline float load_scale(const Slab& slab, int64_t index) {
    const uint8_t* p = slab.scales + scale_bytes(slab.type) * index;
    uint16_t half = 0;
    if (scale_bytes(slab.type) == 2) std::memcpy(&half, p, 2);
    float single = 0;
    switch (slab.type) {
        case ScaleType::f32: std::memcpy(&single, p, 4); return single;
        case ScaleType::f16: return half_to_float(half);
        case ScaleType::bf16: return bits_to_float(static_cast<uint32_t>(half) << 16);
        case ScaleType::e8m0: return *p == 255 ? NAN : power_of_two(*p - 127);
        case ScaleType::e4m3: return slab.tensor_scale * from_mini(e4m3, *p);
        case ScaleType::e4m3_divided: return from_mini(e4m3, *p) / slab.tensor_scale;
    }
    return single;
}

// What takes numbers to those that scales of the type e4m3 are of.
inline float inverse_tensor_scale(const Slab& slab) {
    return slab.type == ScaleType::e4m3_divided ? slab.tensor_scale : inverse_of(slab.tensor_scale);
}

// Floating-point scales, rounded and saturating; what is no normal number of binary32 is stored as 0.
inline void store_scale(const Slab& slab, int64_t index, float scale) {
    uint8_t* p = slab.scales + scale_bytes(slab.type) * index;
    uint16_t half = slab.type == ScaleType::f16 ? float_to_half(scale > 65504.0f ? 65504.0f : scale) : float_to_bfloat(scale);
    if (slab.type == ScaleType::bf16 && half < 0x80) half = 0;
    if (scale < smallest_normal) scale = 0;
    slab.type == ScaleType::f32 ? std::memcpy(p, &scale, 4) : std::memcpy(p, &half, 2);
}

}  // namespace
}  // namespace fewbits
