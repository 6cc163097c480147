// Rows in lanes for error feedback: how they get there and back, and how errors reach the columns to come.
#pragma once
#include <vector>

#include "batch.h"
#include "doubles.h"
#include "fewbits/feedback.h"

namespace fewbits {
namespace {

constexpr int lanes = Vec::lanes;

// Some rows, column by column: element k of lane r at [lanes * k + r]; lanes without a row are zero.
template <typename T, typename From>
void gather(View<From> from, int64_t rows, int64_t columns, std::vector<T>* into) {
    for (int64_t k = 0; k < columns; ++k)
        for (int64_t r = 0; r < lanes; ++r) (*into)[static_cast<size_t>(lanes * k + r)] = r < rows ? from(r, k) : T{0};
}

template <typename T>
void scatter_to(View<T> to, int64_t rows, int64_t columns, const std::vector<T>& from) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < columns; ++k) to(r, k) = from[static_cast<size_t>(lanes * k + r)];
}

// What the errors of the columns before `before` leave to do for `count` columns from `k` on, in the order of the errors.
template <int count>
void feed(const double* errors, View<const double> upper, int64_t before, int64_t k, Doubles* target) {
    for (int64_t i = 0; i < before; ++i) {
        const Doubles error = Doubles::load(errors + lanes * i);
        const double* own = &upper(i, k);
        for (int t = 0; t < count; ++t) target[t] = target[t] + error * Doubles::all(own[t]);
    }
}

}  // namespace
}  // namespace fewbits
