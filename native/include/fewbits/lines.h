// Codes of 1 to 8 bits under a scale and an offset of its own per group: formats/offsets.py.
#pragma once
#include <cmath>
#include <cstdint>

#include "fewbits/fields.h"
#include "fewbits/half.h"

namespace fewbits {

enum class LineKind : int {
    bias = 0,   // scale * code + offset
    moved = 1,  // scale * (code - offset)
};

// A member of the family. `levels` are the candidates of the search, each refitted `refits` times; a `moved` one has steps
// of at least the value times `least`.
struct Lines {
    LineKind kind;
    ScaleType type;  // of scales and offsets as they are stored: f32, f16 or bf16
    int64_t group;
    int top;
    float least;
    const float* levels;
    int level_count, refits;
};

struct LineKernels {
    // The nearest line of each group of w, as it is stored, that of `steps` and whole zero points `zeros` included;
    // `weights`, one per number, weigh squared errors.
    void (*fit)(const Lines& format, const float* w, const float* weights, int64_t groups, const float* steps,
                const uint8_t* zeros, float* scales, float* offsets);
    // The nearest codes, one in a byte.
    void (*encode)(const Lines& format, const float* w, const float* scales, const float* offsets, int64_t groups,
                   uint8_t* codes);
    // Numbers of codes, one in a byte.
    void (*decode)(const Lines& format, const uint8_t* codes, const float* scales, const float* offsets, int64_t groups,
                   float* w);
};

namespace {

// A number as it is stored and read again: rounded, saturating, and 0 where it is no normal number of binary32.
inline float stored_as(ScaleType type, float x) {
    if (type == ScaleType::f16) return half_to_float(float_to_half(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x));
    const float rounded = type == ScaleType::bf16 ? bits_to_float(static_cast<uint32_t>(float_to_bfloat(x)) << 16) : x;
    return std::fabs(rounded) < 0x1p-126f ? 0.0f : rounded;
}

struct StoredLine {
    float scale, offset;
};

// The line that grows by `step` from code to code and is `value` at `code`, as it is stored.
inline StoredLine stored_line(const Lines& f, float step, float code, float value) {
    if (f.kind == LineKind::bias) {
        const float scale = stored_as(f.type, step), bias = value - scale * code;
        return {scale, stored_as(f.type, bias > 0x1p127f ? 0x1p127f : bias < -0x1p127f ? -0x1p127f : bias)};
    }
    const float least = std::fabs(value) * f.least;
    const float scale = stored_as(f.type, std::fabs(step) < least ? (step < 0.0f ? -least : least) : step);
    return {scale, stored_as(f.type, code - value * (scale != 0.0f ? 1.0f / scale : 0.0f))};
}

}  // namespace
}  // namespace fewbits
