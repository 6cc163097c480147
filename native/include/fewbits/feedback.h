// Error feedback (GPTQ): columns of a matrix are rounded one after another, each to what the errors before it leave to
// do. Rows do not influence each other.
#pragma once
#include <cstdint>

namespace fewbits {

enum class LadderKind : int {
    even = 0,   // scale * (code - zero) - offset, codes from `bottom` to `top`
    table = 1,  // scale * numbers[k], codes[k]
    sign = 2,   // offset or -offset, codes 1 and 0
    moved = 3,  // scale * (code - zero), where the zero point is no whole number
    twice = 4,  // (scale * (code - zero)) * offset
};

// What a column can become, its scale, offset and zero point aside. In a table, the k-th number is nearest from starts[k]
// on (starts[0] does not count). With `mirror`, numbers are magnitudes, and a negative one adds it to the code. What is
// looked up is x times the inverse of the scale; with `times`, which is not 0 then, `times` * (x / scale).
struct Ladder {
    LadderKind kind;
    int bottom, top;
    int count, mirror;
    float times;
    float starts[256], numbers[256], codes[256];
};

// Numbers of rows and columns, at data[row * by_row + column * by_column].
template <typename T>
struct View {
    T* data;
    int64_t by_row, by_column;
    T& operator()(int64_t row, int64_t column) const { return data[row * by_row + column * by_column]; }
    View from(int64_t row) const { return {data + row * by_row, by_row, by_column}; }
    View part(int64_t row, int64_t column) const { return {data + row * by_row + column * by_column, by_row, by_column}; }
    View turned() const { return {data, by_column, by_row}; }
};

// Column k is rounded nearest to t = target[k] + sum over i < k of errors[i] * upper(i, k), in the order of i and in double
// precision. errors[k] becomes w[k] - what the column became, and target[k] becomes t - what the column became.
struct Columns {
    int64_t rows, columns;
    View<const float> w, scale, offset, zero;
    View<double> target;
    View<const double> upper;
    View<uint8_t> codes;
    View<double> errors;
};

// What a vector of columns can become, its step aside: `parts` points of a lattice with a sign per column, of which an even
// number is negative where `even` says so; a code is point 0 + count * point 1 + count^parts * the bits of those columns. Or,
// with `ternary`, one point of IQ1_S, all shifted by the given shift; with `both`, up or down, and count more for down.
struct PointLadder {
    const char* lattice;
    int width, parts;
    bool even, ternary, both;
    int columns() const { return width * parts; }
};

// As Columns, with vectors rounded as a whole: `upper` feeds nothing back inside of one. `step` and `shift` are per vector,
// `weight` weighs squared errors of columns.
struct Vectors {
    int64_t rows, vectors;
    View<const float> w, step, shift;
    const float* weight;
    View<double> target;
    View<const double> upper;
    View<int32_t> codes;
    View<double> errors;
};

// Numbers of either precision; those that are not there have no data.
struct Numbers {
    View<const double> wide;
    View<const float> narrow;
    double operator()(int64_t row, int64_t column) const { return wide.data ? wide(row, column) : static_cast<double>(narrow(row, column)); }
};

// sum(i, j) becomes sum(i, j) + or, with `minus`, - the sum over k of left(i, k) * right(k, j): fused multiply-adds in the
// order of k, over stretches of `product_stretch` terms one after another. How rows and columns are divided among calls
// changes nothing.
struct Product {
    int64_t rows, terms, columns;
    View<const double> left;
    Numbers right;
    View<double> sum;
    bool minus;
};

constexpr int64_t product_stretch = 256;

struct FeedbackKernels {
    void (*round_columns)(const Ladder& ladder, const Columns& columns);
    void (*round_vectors)(const PointLadder& ladder, const Vectors& vectors);
    void (*add_product)(const Product& product);
};

}  // namespace fewbits
