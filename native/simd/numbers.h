// Numbers of a checkpoint as single precision.
#pragma once
#include <cstring>

#include "fewbits/half.h"
#include "fewbits/kernels.h"
#include "vec.h"

namespace fewbits {
namespace {

inline void widen(Number kind, const void* numbers, int64_t count, float* w) {
    if (kind == Number::f32) {
        std::memcpy(w, numbers, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    const auto* bits = static_cast<const uint16_t*>(numbers);
    if (kind == Number::bf16) {
        for (int64_t i = 0; i < count; ++i) w[i] = bits_to_float(static_cast<uint32_t>(bits[i]) << 16);
        return;
    }
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) load_half(bits + i).store(w + i);
    for (; i < count; ++i) w[i] = half_to_float(bits[i]);
}

}  // namespace
}  // namespace fewbits
