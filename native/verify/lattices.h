// The stranger's own tables of lattice points: the packed bytes of the gguf package, kept as they are and looked up bit
// by bit. The codecs get the same points in another way (fewbits/lattices.h).
#pragma once
#include <cstdint>

namespace fewbits {

struct PackedPoints {
    int apart;           // bits from one column to the next: 2 or 4
    int8_t number[16];   // what the bits mean
    uint8_t bytes[4096];
    int at(int column) const {  // of all points, one after another
        return number[bytes[column * apart / 8] >> column * apart % 8 & ((1 << apart) - 1)];
    }
};

// All zeros until they are given, which no comparison passes.
extern PackedPoints iq1_s_points, iq2_xxs_points, iq2_xs_points, iq2_s_points, iq3_xxs_points, iq3_s_points;

// False where no lattice has the name, or the sizes do not fit.
bool give_reader_points(const char* name, const uint8_t* bytes, int64_t size, const int8_t* numbers, int64_t count);

}  // namespace fewbits
