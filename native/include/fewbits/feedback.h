// Error feedback (GPTQ): columns of a matrix are rounded one after another, each to what the errors before it leave to
// do. Rows do not influence each other.
#pragma once
#include <cstdint>

namespace fewbits {

enum class LadderKind : int {
    even = 0,   // scale * (code - zero) - offset, codes from `bottom` to `top`
    table = 1,  // scale * numbers[k], codes[k]
    sign = 2,   // offset or -offset, codes 1 and 0
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

struct FeedbackKernels {
    void (*round_columns)(const Ladder& ladder, const Columns& columns);
};

}  // namespace fewbits
