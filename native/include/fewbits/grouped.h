// Codes of 1 to 8 bits under one scale per group: one set of kernels for all integers and tables, told apart by numbers.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fewbits {

// What a code means, in units of the scale.
enum class Steps : int {
    symmetric = 0,  // code - middle
    sign = 1,       // 2 * code - 1
    zero = 2,       // code - the group's zero point
    table = 3,      // table[code]
};

constexpr int most_numbers = 256;  // of a table

// A member of a family. `levels` are the candidates of the search (formats/steps.py). Of a table, which has a number for
// each code, `sorted` holds the `distinct` ones in order, infinite from there on, and `order` their codes.
struct Grouped {
    Steps steps;
    int bits;       // of a code
    bool fives;     // five codes of three values make a byte: the first one counts 1, the next 3, 9, 27 and 81
    int64_t group;  // numbers that share a scale
    int bottom, top, middle;  // the smallest and the largest code that is chosen, and that of 0
    int flip;       // what stored codes are combined with, bit by bit, to count from 0
    const float* levels;
    int level_count;
    int distinct;
    float table[most_numbers], sorted[most_numbers];
    uint8_t order[most_numbers];

    int64_t packed_bytes(int64_t count) const { return fives ? (count + 4) / 5 : (count * bits + 7) / 8; }
};

struct GroupedKernels {
    // The best step of each group of w, and its zero point; `weights`, one per number, weigh squared errors.
    void (*fit)(const Grouped& format, const float* w, const float* weights, int64_t groups, float* steps, uint8_t* zeros);
    // The nearest codes, one in a byte.
    void (*encode)(const Grouped& format, const float* w, const float* scales, const uint8_t* zeros, int64_t groups,
                   uint8_t* codes);
    // Numbers of codes, one in a byte.
    void (*decode)(const Grouped& format, const uint8_t* codes, const float* scales, const uint8_t* zeros, int64_t groups,
                   float* w);
    // `count` codes of a row, one in a byte, as stored: code c from bit bits * c on, or five in a byte.
    void (*pack)(const Grouped& format, const uint8_t* codes, int64_t count, uint8_t* stored);
    void (*unpack)(const Grouped& format, const uint8_t* stored, int64_t count, uint8_t* codes);
};

}  // namespace fewbits
