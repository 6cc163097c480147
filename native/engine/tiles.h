// Parts of stored matrices as numbers, row by row in all threads: of 32 bits, or rounded to bfloat16.
#pragma once
#include <cstdint>
#include <functional>

#include "fewbits/kernels.h"

namespace fewbits {

// Where `rows` rows of `cols` numbers go: to floats, or to bfloat16 where `floats` is nullptr.
struct Tile {
    int64_t rows, cols;
    float* floats;
    uint8_t* halves;
};

// Reads numbers of one row after another; every thread has one of its own.
using ReadRow = std::function<void(int64_t row, float* w)>;

// The numbers of rows 0 .. tile.rows - 1; they are the same in any number of threads.
void read_tile(const KernelTable& table, const Tile& tile, int threads, const std::function<ReadRow()>& reader);

}  // namespace fewbits
