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

// How far ahead of a loop numbers are asked for: processors do not read on beyond a page of their own accord.
constexpr int64_t ahead = 4096;

constexpr int tile = static_cast<int>(deviation_tile), lanes = 16, vectors = lanes / Vec::lanes;

constexpr int tiles_together = Vec::lanes == 16 ? 2 : 1;  // as many as registers hold

struct Lanes {
    alignas(64) double errors[lanes] = {}, squares[lanes] = {};
    Vec largest = Vec::all(0.0f);
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

struct TileSums {
    Vec errors[vectors], squares[vectors], largest = Vec::all(0.0f);
    TileSums() {
        for (int v = 0; v < vectors; ++v) errors[v] = squares[v] = Vec::all(0.0f);
    }
    bool fit_single() const { return !any(largest > Vec::all(squares_to)) && any(largest > Vec::all(squares_from)); }
    // Vector v of sixteen lanes: numbers, and what comes back of them.
    void add(int v, Vec x, Vec back) {
        const Vec r = x - back;
        errors[v] = plus_product(errors[v], r, r);
        squares[v] = plus_product(squares[v], x, x);
        largest = max(largest, abs(x));
    }
    void close(Lanes* sums) const {
        for (int v = 0; v < vectors; ++v) {
            add_widened(errors[v], sums->errors + Vec::lanes * v);
            add_widened(squares[v], sums->squares + Vec::lanes * v);
        }
    }
};

// `count` tiles side by side, so that their sums do not wait for each other.
template <int count, typename Number>
void add_tiles(const Number* w, const float* stored, Lanes* sums) {
    TileSums tiles[count];
    for (int i = 0; i < tile; i += lanes)
        for (int t = 0; t < count; ++t)
            for (int v = 0; v < vectors; ++v) {
                const int at = tile * t + i + Vec::lanes * v;
                tiles[t].add(v, load_numbers(w + at), Vec::load(stored + at));
            }
    for (int t = 0; t < count; ++t) {
        sums->largest = max(sums->largest, tiles[t].largest);
        if (tiles[t].fit_single()) tiles[t].close(sums);
        else add_tile_in_double(w + tile * t, stored + tile * t, sums);
    }
}

inline Deviation total(const Lanes& sums) {
    Deviation sum{0.0, 0.0, 0.0f};
    for (int lane = 0; lane < lanes; ++lane) {
        sum.squared_error += sums.errors[lane];
        sum.squared += sums.squares[lane];
    }
    alignas(64) float largest[Vec::lanes];
    sums.largest.store(largest);
    for (float lane : largest) sum.largest = lane > sum.largest ? lane : sum.largest;
    return sum;
}

template <typename Number>
Deviation deviation_of(const Number* w, const float* stored, int64_t count) {
    Lanes sums;
    int64_t i = 0;
    for (; i + tiles_together * tile <= count; i += tiles_together * tile) add_tiles<tiles_together>(w + i, stored + i, &sums);
    for (; i + tile <= count; i += tile) add_tiles<1>(w + i, stored + i, &sums);
    if (i < count) {
        Number rest[tile] = {};
        float rest_stored[tile] = {};
        std::memcpy(rest, w + i, static_cast<size_t>(count - i) * sizeof(Number));
        std::memcpy(rest_stored, stored + i, static_cast<size_t>(count - i) * sizeof(float));
        add_tiles<1>(rest, rest_stored, &sums);
    }
    return total(sums);
}

inline Deviation deviation(Number kind, const void* numbers, const float* stored, int64_t count) {
    if (kind == Number::f32) return deviation_of(static_cast<const float*>(numbers), stored, count);
    if (kind == Number::f16) return deviation_of(static_cast<const Half*>(numbers), stored, count);
    return deviation_of(static_cast<const Bfloat*>(numbers), stored, count);
}

}  // namespace
}  // namespace fewbits
