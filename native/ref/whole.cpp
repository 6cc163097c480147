// Products of whole numbers, plainly: a panel is one row.
#include <cstring>

#include "../engine/requantizing.h"
#include "fewbits/families.h"
#include "fewbits/whole.h"

namespace fewbits {
namespace {

int64_t panel_bytes(int64_t pieces, int64_t cols) { return pieces * cols; }

void pack(const int8_t* w, int64_t present, int64_t pieces, int64_t cols, uint8_t* panel) {
    if (present) std::memcpy(panel, w, static_cast<size_t>(pieces * cols));
}

void multiply(const uint8_t* panels, int64_t present, const Pieces& pieces, const uint8_t* x, const int64_t* tokens, int64_t count, int32_t* sums,
              int64_t stride) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t row = 0; row < present; ++row) {
            const uint8_t* w = panels + row * pieces.count * pieces.cols;
            int32_t sum = 0;
            for (int64_t piece = 0; piece < pieces.count; ++piece)
                for (int64_t k = 0; k < pieces.cols; ++k) sum += static_cast<int8_t>(*w++) * static_cast<int8_t>(x[tokens[i] + pieces.at[piece] + k]);
            sums[i * stride + row] = sum;
        }
}

void requantize(const int32_t* sums, int64_t positions, int64_t first, int64_t rows, const Requantization& how, uint8_t* codes, int64_t stride) {
    for (int64_t at = 0; at < positions; ++at)
        for (int64_t row = 0; row < rows; ++row) codes[at * stride + row] = requantized(sums[at * rows + row], first + row, how);
}

void add(const uint8_t* one, const uint8_t* other, int64_t count, const Addition& how, uint8_t* codes) {
    for (int64_t i = 0; i < count; ++i) codes[i] = added(one[i], other[i], how);
}

constexpr WholeKernels whole_kernels = {1, true, panel_bytes, pack, multiply, requantize, add};

}  // namespace

FEWBITS_WHOLE(whole, whole_kernels)

}  // namespace fewbits
