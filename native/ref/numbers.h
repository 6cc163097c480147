// Numbers of a checkpoint as single precision.
#pragma once
#include <cstring>

#include "fewbits/half.h"
#include "fewbits/kernels.h"

namespace fewbits {
namespace {

inline void widen(Number kind, const void* numbers, int64_t count, float* w) {
    for (int64_t i = 0; i < count; ++i) {
        if (kind == Number::f32) w[i] = static_cast<const float*>(numbers)[i];
        if (kind == Number::f16) w[i] = half_to_float(static_cast<const uint16_t*>(numbers)[i]);
        if (kind == Number::bf16) w[i] = bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(numbers)[i]) << 16);
    }
}

}  // namespace
}  // namespace fewbits
