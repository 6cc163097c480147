// Lattices: tables of points, each a vector of 4 or 8 columns, among which a codec chooses. The points are the peers'
// data, not ours: they are given at run time (docs/design/0004-lattices.md), once per process, to all instruction sets.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fewbits {

// What is known of a lattice before its points are given.
struct LatticeShape {
    const char* name;  // that of the format which brought it
    int count, width;  // points, and columns of a point
    int levels;        // distinct numbers that points are made of, ascending
    int8_t level[8];
};

constexpr LatticeShape lattice_shapes[] = {
    {"IQ1_S", 2048, 8, 3, {-1, 0, 1}},
    {"IQ2_XXS", 256, 8, 3, {8, 25, 43}},
    {"IQ2_XS", 512, 8, 3, {8, 25, 43}},
    {"IQ2_S", 1024, 8, 3, {8, 25, 43}},
    {"IQ3_XXS", 256, 4, 8, {4, 12, 20, 28, 36, 44, 52, 62}},
    {"IQ3_S", 512, 4, 8, {1, 3, 5, 7, 9, 11, 13, 15}},
};
constexpr int lattice_count = static_cast<int>(sizeof(lattice_shapes) / sizeof(*lattice_shapes));
constexpr int most_points = 2048, most_halves = 81;  // 3 levels in 4 columns, or 8 levels in 2

struct Lattice {
    LatticeShape shape;
    int halves;                        // levels ^ (width / 2): what one half of a point can be
    int8_t points[most_points * 8];    // (count, width)
    uint8_t first[most_points];        // which half a point begins with, its first column counting most
    uint8_t second[most_points];       // which half it ends with
    // The points by their first half: those that begin with half h are sorted[begin[h]] .. sorted[begin[h + 1] - 1].
    uint16_t begin[most_halves + 1];
    uint16_t sorted[most_points];
    // What those end with, four at a time, the last one again where fewer are left: ends[fours[h]] .. ends[fours[h + 1] - 1].
    uint16_t fours[most_halves + 1];
    uint8_t ends[most_points + 3 * most_halves];
    // The first point with these halves, at [halves * first + second]; -1 where there is none.
    int16_t of_halves[most_halves * most_halves];
};

// nullptr until the points were given, and where no lattice has the name.
const Lattice* lattice(const char* name);

// Takes (count, width) points; the same points may be given again. False where the shape or a number does not fit.
bool give_lattice(const char* name, const int8_t* points, int64_t count, int64_t width);

}  // namespace fewbits
