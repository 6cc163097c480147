// Neighbouring groups of 32 columns that have one scale, in all rows of a matrix: where the numbers they are multiplied with
// have one scale too, products can be added up as whole numbers over all of them.
#pragma once
#include "decoding.h"

namespace fewbits {
namespace {

// 8 groups of 255 * 127 * 32 are far from 2^31, and fill what is unpacked at a time.
constexpr int long_run = 8, short_run = 4;

template <typename Type>
constexpr bool can_run() {
    return (Type::form == Form::single || Type::form == Form::half) && Type::span == 32 && Type::group == 32 && !Type::tabled;
}

template <typename Type>
bool has_run(const uint8_t* stored, int64_t spans, int run) {
    float first = 0.0f;
    for (int64_t s = 0; s < spans; ++s) {
        Parts parts;
        uint8_t codes[Type::span];
        typename Type::Span span;
        std::memcpy(&span, stored + s * static_cast<int64_t>(sizeof span), sizeof span);
        Type::read(span, codes, parts);
        const float scale = scale_of<Type>(parts, 0);
        if (s % run == 0) first = scale;
        else if (scale != first) return false;
    }
    return true;
}

// How many groups of these rows (rows, columns) have one scale: 8, 4, or 1 where there are no such runs.
template <typename Type>
int run_of(const uint8_t* stored, int64_t rows, int64_t cols) {
    for (const int run : {long_run, short_run})
        if (cols % (32 * run) == 0 && has_run<Type>(stored, rows * (cols / 32), run)) return run;
    return 1;
}

using FindRun = int (*)(const uint8_t* stored, int64_t rows, int64_t cols);
template <typename Type>
constexpr FindRun finds_run() {
    if constexpr (can_run<Type>()) return run_of<Type>;
    else return nullptr;
}

}  // namespace
}  // namespace fewbits
