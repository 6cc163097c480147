// Products of matrices in double precision: tiles of sums stay in registers while a stretch of terms goes by.
#pragma once
#include <algorithm>
#include <vector>

#include "doubles.h"
#include "fewbits/feedback.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int64_t tile_rows = 12;  // two registers of sums a row, of 32
#else
constexpr int64_t tile_rows = 6;  // of 16
#endif
constexpr int64_t tile_columns = Vec::lanes;
constexpr int64_t held_rows = 8 * 12;      // whose terms of a stretch stay in the second cache while all columns pass
constexpr int64_t held_columns = 64 * 16;  // whose terms stay in the third meanwhile

// `count` lines of `terms` terms, term by term with `width` lines side by side: zeros beyond the last.
template <typename T>
void pack(View<T> from, int64_t terms, int64_t count, int64_t width, double* into) {
    if (count < width) std::fill(into, into + terms * width, 0.0);
    for (int64_t k = 0; k < terms; ++k, into += width)
        for (int64_t line = 0; line < count; ++line) into[line] = static_cast<double>(from(line, k));
}

template <typename T>
void pack_panels(View<T> from, int64_t terms, int64_t count, int64_t width, std::vector<double>* into) {
    for (int64_t line = 0; line < count; line += width)
        pack(from.from(line), terms, std::min(width, count - line), width, into->data() + line * product_stretch);
}

// Sums of a whole tile, row by row; the loop over rows has a constant end so that all of them stay in registers.
void sum_tile(const double* left, const double* right, int64_t terms, double* found) {
    Doubles sums[tile_rows];
#pragma GCC unroll 12
    for (int64_t i = 0; i < tile_rows; ++i) sums[i] = Doubles::all(0.0);
    for (int64_t k = 0; k < terms; ++k, left += tile_rows, right += tile_columns) {
        const Doubles own = Doubles::load(right);
#pragma GCC unroll 12
        for (int64_t i = 0; i < tile_rows; ++i) sums[i] = fused(Doubles::all(left[i]), own, sums[i]);
    }
#pragma GCC unroll 12
    for (int64_t i = 0; i < tile_rows; ++i) sums[i].store(found + i * tile_columns);
}

void add_tile(const double* left, const double* right, int64_t terms, View<double> sum, int64_t rows, int64_t columns, bool minus) {
    double found[tile_rows * tile_columns];
    sum_tile(left, right, terms, found);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            const double own = found[i * tile_columns + j];
            sum(i, j) = minus ? sum(i, j) - own : sum(i, j) + own;
        }
}

// Some terms of some rows and columns.
void add_block(const double* left, const double* right, int64_t terms, const View<double>& sum, int64_t rows, int64_t columns, bool minus) {
    for (int64_t j = 0; j < columns; j += tile_columns)
        for (int64_t i = 0; i < rows; i += tile_rows)
            add_tile(left + i * product_stretch, right + j * product_stretch, terms, sum.part(i, j), std::min(tile_rows, rows - i),
                     std::min(tile_columns, columns - j), minus);
}

void add_product(const Product& p) {
    std::vector<double> left(static_cast<size_t>(product_stretch * held_rows)),
        right(static_cast<size_t>(product_stretch * std::min(held_columns, p.columns + tile_columns)));
    for (int64_t start = 0; start < p.terms; start += product_stretch)
        for (int64_t first = 0; first < p.columns; first += held_columns) {
            const int64_t terms = std::min(product_stretch, p.terms - start), columns = std::min(held_columns, p.columns - first);
            if (p.right.wide.data)
                pack_panels(p.right.wide.part(start, first).turned(), terms, columns, tile_columns, &right);
            else
                pack_panels(p.right.narrow.part(start, first).turned(), terms, columns, tile_columns, &right);
            for (int64_t row = 0; row < p.rows; row += held_rows) {
                const int64_t rows = std::min(held_rows, p.rows - row);
                pack_panels(p.left.part(row, start), terms, rows, tile_rows, &left);
                add_block(left.data(), right.data(), terms, p.sum.part(row, first), rows, columns, p.minus);
            }
        }
}

}  // namespace
}  // namespace fewbits
