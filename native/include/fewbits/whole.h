// Products of whole numbers of 8 bits, and the way from their sums back to 8 bits. All of it is exact, so that every
// instruction set, tile and number of threads gives the same numbers.
#pragma once
#include <cstdint>

namespace fewbits {

// What codes may be; low and high are less the zero point.
struct Bounds {
    int32_t zero, low, high;
};

// code = floor((sum + offset) * factor + half), brought between low and high, + zero. The double-precision numbers are exact
// where factors have 22 bits and sums 31.
struct Requantization {
    const int32_t* offset;  // one per row, as factor and half
    const double* factor;
    const double* half;
    Bounds bounds;
};

// The same of the sum of (one - zero[0]) * m[0] and (other - zero[1]) * m[1], where m have 22 bits.
struct Addition {
    bool is_signed[2];
    int32_t zero[2];
    double m[2];
    double factor, half;
    Bounds bounds;
};

// Where the numbers of an input lie: `count` pieces of `cols` numbers, each so far from the first as `at` says. What lies up
// to three numbers behind a piece is read too, and multiplied by zero.
struct Pieces {
    int64_t count, cols;
    const int64_t* at;
};

// Rows of whole numbers of 8 bits, `rows` of them together as a panel for one instruction set; columns are those of pieces,
// each filled up with zeros to fours.
struct WholeKernels {
    int rows;
    bool signed_inputs;  // what inputs have to be: -128 .. 127, or else 0 .. 255
    int64_t (*panel_bytes)(int64_t pieces, int64_t cols);
    // Up to `rows` rows (a row every `pieces * cols` numbers) as a panel; rows that are not there are zero.
    void (*pack)(const int8_t* w, int64_t present, int64_t pieces, int64_t cols, uint8_t* panel);
    // sums[i * stride + row] of `count` inputs (the i-th at x + tokens[i]) and of `present` rows in consecutive panels. Sums
    // must fit 32 bits.
    void (*multiply)(const uint8_t* panels, int64_t present, const Pieces& pieces, const uint8_t* x, const int64_t* tokens, int64_t count,
                     int32_t* sums, int64_t stride);
    // Codes (one position every `stride`) of sums (positions, rows); the first row is row `first` of `how`.
    void (*requantize)(const int32_t* sums, int64_t positions, int64_t first, int64_t rows, const Requantization& how, uint8_t* codes, int64_t stride);
    void (*add)(const uint8_t* one, const uint8_t* other, int64_t count, const Addition& how, uint8_t* codes);
};

}  // namespace fewbits
