// Codecs of formats with several fields on disk: codes, and a scale for each group, row, tile or for the tensor.
#pragma once
#include <cstdint>

namespace fewbits {

// Scales of type e4m3 are multiplied by the tensor's, those of e4m3_divided are divided by it.
enum class ScaleType : int { f32 = 0, f16 = 1, bf16 = 2, e8m0 = 3, e4m3 = 4, e4m3_divided = 5 };
constexpr int64_t scale_bytes(ScaleType type) { return type == ScaleType::f32 ? 4 : type <= ScaleType::bf16 ? 2 : 1; }

// Rows of a matrix from where a line of scales begins, and their fields.
struct Slab {
    int64_t rows, cols;
    int64_t scope_rows, scope_cols;  // the numbers that share a scale; 0 = all
    ScaleType type;
    uint8_t* codes;      // code c of b bits in the bits of its row from b * c on; each row in whole bytes
    uint8_t* scales;     // in the order of their scopes; one of all rows is given, the others are found by encoding
    float tensor_scale;  // what the rest is multiplied or divided by; 1 where there is none

    int64_t span() const { return scope_cols ? scope_cols : cols; }
    int64_t scales_per_line() const { return cols / span(); }
};

struct FieldCodec {
    const char* kind;  // what codes stand for: the name of a format without its scope and the type of its scales
    int bits;          // of a code
    // `weights`, one per number, weigh squared errors; nullptr means evenly.
    void (*encode)(const Slab& slab, const float* w, const float* weights);
    void (*decode)(const Slab& slab, float* w);
};

}  // namespace fewbits
