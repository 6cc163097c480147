// Sums of products where the processor multiplies bfloat16 by itself: of columns, sum over t of x[t, i] * x[t, j], and of
// rows of weights with tokens.
#pragma once
#include <cstdint>

#include "fewbits/engine.h"

namespace fewbits {

// x (tokens, columns) holds bfloat16 bits, token after token `by_token` numbers apart. Added to sum[i * by_row + j] for j
// from `first` to `last` and i up to `last`; below the diagonal, anything may be added. Sums are single precision, over
// pairs of tokens in their order: how columns are divided among calls changes nothing.
struct ProductColumns {
    const uint16_t* x;
    int64_t tokens, by_token, first, last;
    float* sum;
    int64_t by_row;
};

using AddProducts = void (*)(const ProductColumns& columns);

AddProducts products_of_bfloat16();  // nullptr where the processor or the build cannot

// Panels of bfloat16 rows by tokens (engine/bfloats.h).
using MultiplyBfloats = void (*)(const uint8_t* panels, int64_t present, const Bfloats& x, float* out, int64_t stride);

MultiplyBfloats products_of_bfloat_rows();  // nullptr as above

}  // namespace fewbits
