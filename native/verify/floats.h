// Plain floating-point numbers.
#pragma once
#include "reading.h"

namespace fewbits {
namespace {

void read_f16(const uint8_t* __restrict p, float* __restrict w) { w[0] = binary16(p); }

void read_bf16_tile(const uint8_t* __restrict p, float* __restrict w) {
    uint16_t upper[tile];
    uint32_t whole[tile];
    std::memcpy(upper, p, sizeof upper);
    for (int j = 0; j < tile; ++j) whole[j] = static_cast<uint32_t>(upper[j]) << 16;
    std::memcpy(w, whole, sizeof whole);
}

void read_f32_tile(const uint8_t* __restrict p, float* __restrict w) { std::memcpy(w, p, tile * sizeof(float)); }

void read_f64(const uint8_t* __restrict p, float* __restrict w) {
    double x;
    std::memcpy(&x, p, sizeof x);
    w[0] = static_cast<float>(x);
}

constexpr Reading float_readings[] = {
    {"F32", 4 * tile, read_f32_tile, extent_of<tile>},
    {"BF16", 2 * tile, read_bf16_tile, extent_of<tile>},
    {"F16", 2 * tile, read_tile<1, 2, read_f16>, extent_of<tile>},
    {"F64", 8 * tile, read_tile<1, 8, read_f64>, extent_of<tile>},
};

}  // namespace
}  // namespace fewbits
