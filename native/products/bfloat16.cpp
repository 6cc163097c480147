// Products of columns with the AVX-512 instruction that multiplies pairs of bfloat16 and adds both to a float.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "fewbits/products.h"

namespace fewbits {
namespace {

constexpr int lanes = 16;
constexpr int64_t wide = 3 * lanes;  // columns of the right side of a tile of sums in registers: 8 rows of 3 vectors
constexpr int64_t high = 8;          // and of its left side
constexpr int64_t stretch = 1024;    // tokens whose products are summed in registers: a panel of `wide` fits the second cache
constexpr int64_t held = 16 * high;  // columns of the left side that stay there while the right side passes

// Pairs of tokens of one stretch, panel after panel of `width` columns, the tokens of a column's pair in one word; columns
// and tokens beyond the end are zeros.
class Panels {
  public:
    Panels(const ProductColumns& c, int64_t from, int64_t to, int64_t start, int64_t stop, int64_t width)
        : pairs((stop - start + 1) / 2), words_(static_cast<size_t>((to - from + width - 1) / width * width * pairs)), width_(width) {
        for (int64_t panel = from; panel < to; panel += width)
            for (int64_t pair = 0; pair < pairs; ++pair) fill(c, panel, std::min(width, to - panel), start + 2 * pair, stop, at(panel - from) + pair * width);
    }
    const uint32_t* of(int64_t column) const { return words_.data() + column / width_ * width_ * pairs; }
    const int64_t pairs;

  private:
    std::vector<uint32_t> words_;
    const int64_t width_;

    uint32_t* at(int64_t column) { return words_.data() + column / width_ * width_ * pairs; }

    static void fill(const ProductColumns& c, int64_t column, int64_t count, int64_t token, int64_t stop, uint32_t* words) {
        const uint16_t* first = c.x + token * c.by_token + column;
        const uint16_t* second = token + 1 < stop ? first + c.by_token : nullptr;
        for (int64_t k = 0; k < count; ++k) words[k] = first[k] | (second ? static_cast<uint32_t>(second[k]) << 16 : 0u);
    }
};

__m512bh pairs_at(const uint32_t* words) {
    const __m512i bits = _mm512_loadu_si512(words);
    return reinterpret_cast<const __m512bh&>(bits);
}

__m512bh pair_everywhere(uint32_t word) {
    const __m512i bits = _mm512_set1_epi32(static_cast<int>(word));
    return reinterpret_cast<const __m512bh&>(bits);
}

// `high` rows of `wide` sums, of which `rows` and `columns` are wanted.
void add_tile(const uint32_t* left, const uint32_t* right, int64_t pairs, float* sum, int64_t by_row, int64_t rows, int64_t columns) {
    __m512 sums[high][3];
    for (auto& row : sums)
        for (auto& one : row) one = _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; ++p, left += high, right += wide) {
        const __m512bh r0 = pairs_at(right), r1 = pairs_at(right + lanes), r2 = pairs_at(right + 2 * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < high; ++i) {
            const __m512bh l = pair_everywhere(left[i]);
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], l, r0);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], l, r1);
            sums[i][2] = _mm512_dpbf16_ps(sums[i][2], l, r2);
        }
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int v = 0; v < 3; ++v) {
            const int64_t present = std::min<int64_t>(lanes, columns - v * lanes);
            if (present <= 0) break;
            const auto mask = static_cast<__mmask16>((1u << present) - 1);
            float* out = sum + i * by_row + v * lanes;
            _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sums[i][v]));
        }
}

void add_products(const ProductColumns& c) {
    for (int64_t start = 0; start < c.tokens; start += stretch) {
        const int64_t stop = std::min(start + stretch, c.tokens);
        const Panels right(c, c.first, c.last, start, stop, wide), left(c, 0, c.last, start, stop, high);
        for (int64_t from = 0; from < c.last; from += held)
            for (int64_t j = c.first; j < c.last; j += wide)
                for (int64_t i = from; i < std::min(from + held, c.last) && i < j + wide; i += high)
                    add_tile(left.of(i), right.of(j - c.first), left.pairs, c.sum + i * c.by_row + j, c.by_row,
                             std::min(high, c.last - i), std::min(wide, c.last - j));
    }
}

}  // namespace

AddProducts products_with_avx512() { return add_products; }

}  // namespace fewbits
