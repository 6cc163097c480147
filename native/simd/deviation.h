// How far a row is from what was stored of it (kernels.h says in which order the sums run).
#pragma once
#include "numbers.h"

namespace fewbits {
namespace {

// A vector of a checkpoint's numbers, widened in registers.
inline Vec load_numbers(const float* p) { return Vec::load(p); }
struct Half { uint16_t bits; };
struct Bfloat { uint16_t bits; };
inline Vec load_numbers(const Half* p) { return load_half(&p->bits); }
inline Vec load_numbers(const Bfloat* p) { return load_bfloat(&p->bits); }

constexpr int tile = static_cast<int>(deviation_tile), lanes = 16, vectors = lanes / Vec::lanes;

struct Lanes {
    alignas(64) double errors[lanes] = {}, squares[lanes] = {};
};

// Squares that single precision cannot hold: rare, and plain.
template <typename Number>
void add_tile_in_double(const Number* w, const float* stored, Lanes* sums) {
    double errors[lanes] = {}, squares[lanes] = {};
    alignas(64) float numbers[Vec::lanes];
    for (int i = 0; i < tile; i += Vec::lanes) {
        load_numbers(w + i).store(numbers);
        for (int j = 0; j < Vec::lanes; ++j) {
            const double x = numbers[j], r = x - static_cast<double>(stored[i + j]);
            errors[(i + j) % lanes] += r * r;
            squares[(i + j) % lanes] += x * x;
        }
    }
    for (int lane = 0; lane < lanes; ++lane) {
        sums->errors[lane] += errors[lane];
        sums->squares[lane] += squares[lane];
    }
}

template <typename Number>
void add_tile(const Number* w, const float* stored, Lanes* sums) {
    Vec errors[vectors], squares[vectors], largest = Vec::all(0.0f);
    for (int v = 0; v < vectors; ++v) errors[v] = squares[v] = Vec::all(0.0f);
    for (int i = 0; i < tile; i += lanes)
        for (int v = 0; v < vectors; ++v) {
            const Vec x = load_numbers(w + i + Vec::lanes * v), r = x - Vec::load(stored + i + Vec::lanes * v);
            errors[v] = errors[v] + r * r;
            squares[v] = squares[v] + x * x;
            largest = max(largest, abs(x));
        }
    if (any(largest > Vec::all(squares_to)) || !any(largest > Vec::all(squares_from)))
        return add_tile_in_double(w, stored, sums);
    for (int v = 0; v < vectors; ++v) {
        add_widened(errors[v], sums->errors + Vec::lanes * v);
        add_widened(squares[v], sums->squares + Vec::lanes * v);
    }
}

template <typename Number>
Deviation deviation_of(const Number* w, const float* stored, int64_t count) {
    Lanes sums;
    int64_t i = 0;
    for (; i + tile <= count; i += tile) add_tile(w + i, stored + i, &sums);
    if (i < count) {
        Number rest[tile] = {};
        float rest_stored[tile] = {};
        std::memcpy(rest, w + i, static_cast<size_t>(count - i) * sizeof(Number));
        std::memcpy(rest_stored, stored + i, static_cast<size_t>(count - i) * sizeof(float));
        add_tile(rest, rest_stored, &sums);
    }
    Deviation sum{0.0, 0.0};
    for (int lane = 0; lane < lanes; ++lane) {
        sum.squared_error += sums.errors[lane];
        sum.squared += sums.squares[lane];
    }
    return sum;
}

inline Deviation deviation(Number kind, const void* numbers, const float* stored, int64_t count) {
    if (kind == Number::f32) return deviation_of(static_cast<const float*>(numbers), stored, count);
    if (kind == Number::f16) return deviation_of(static_cast<const Half*>(numbers), stored, count);
    return deviation_of(static_cast<const Bfloat*>(numbers), stored, count);
}

}  // namespace
}  // namespace fewbits
