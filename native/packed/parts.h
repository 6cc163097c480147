// What readers of stored types give for packing: of each span its codes, one in a byte, and what stands for scales and
// minimums. Bits and equations are those of fewbits/layouts.h.
#pragma once
#include <cstring>

#include "fewbits/half.h"
#include "fewbits/layouts.h"

namespace fewbits {
namespace {

// w = scale * (code - offset) - minimum, with a scale, and a minimum where there are any, for each group:
enum class Form {
    half,      // scale d[g]
    bfloat,    // scale d[g], of type BF16
    single,    // scale s[g]
    shifted,   // scale d[g], minimum m[g]
    line,      // scale s[g], minimum low[g]
    zeros,     // scale d[g], minimum d[g] * minimum[g]
    whole,     // scale unit * d[0], of all groups
    steps,     // scale unit * d[0] * scale[g]
    affine,    // scale unit * d[0] * scale[g], minimum unit * m[0] * minimum[g]
};

struct Parts {
    half_bits d[4], m[4];
    float s[2], low[2];
    int8_t scale[16];
    int8_t minimum[16];
};

// What most types have in common. A type's `offset` is one that no number lies below the negative of.
struct Usual {
    static constexpr float unit = 1.0f;  // a power of two
    static constexpr const char* lattice = nullptr;
    static constexpr const char* rest = nullptr;
};

// Types whose codes are numbers themselves; others look them up.
struct Plain : Usual {
    static constexpr bool tabled = false;
    static constexpr int8_t table[16] = {};
};

inline half_bits negated(half_bits h) { return static_cast<half_bits>(h ^ 0x8000u); }

// Sixteen bytes of two codes each: the low halves, then the high halves.
inline void read_halves(const uint8_t* q, uint8_t* codes) {
    for (int e = 0; e < 16; ++e) {
        codes[e] = q[e] & 15;
        codes[16 + e] = q[e] >> 4;
    }
}

}  // namespace
}  // namespace fewbits
