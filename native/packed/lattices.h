// Readers of the lattices of two and three bits. Their points are vectors of few numbers: a code names the number of one
// column and, in its highest bit, the sign.
#pragma once
#include "fewbits/lattices.h"
#include "parts.h"

namespace fewbits {
namespace {

struct SignedLevels {
    int8_t table[16];  // by code
    uint8_t code[64];  // by number
};
constexpr SignedLevels signed_levels(const LatticeShape& shape, int bits) {
    SignedLevels made{};
    for (int l = 0; l < shape.levels; ++l) {
        made.table[l] = shape.level[l];
        made.table[l + (1 << (bits - 1))] = static_cast<int8_t>(-shape.level[l]);
        made.code[shape.level[l]] = static_cast<uint8_t>(l);
    }
    return made;
}
constexpr SignedLevels iq2_levels = signed_levels(lattice_shapes[1], 3), iq3_xxs_levels = signed_levels(lattice_shapes[4], 4),
                       iq3_s_levels = signed_levels(lattice_shapes[5], 4);
static_assert(iq2_levels.table[6] == -43 && iq3_xxs_levels.table[15] == -62 && iq3_s_levels.table[15] == -15, "the lattices' order");

struct Signed : Usual {
    static constexpr int span = 256;
    static constexpr Form form = Form::steps;
    static constexpr bool tabled = true;
};
struct Iq2 : Signed {
    static constexpr int bits = 3, offset = 43;
    static constexpr float unit = 0.125f;
    static constexpr const int8_t (&table)[16] = iq2_levels.table;
};

// Codes of `count` columns of a point whose signs are the lowest bits of `signs`.
template <int bits>
void read_point(const SignedLevels& levels, const int8_t* numbers, int count, unsigned signs, uint8_t* codes) {
    for (int e = 0; e < count; ++e) codes[e] = static_cast<uint8_t>(levels.code[numbers[e]] | (signs >> e & 1) << (bits - 1));
}

// Seven signs, and the eighth that makes the number of negative columns even.
inline unsigned with_eighth_sign(unsigned seven) { return (seven & 127) | static_cast<unsigned>(__builtin_parity(seven & 127)) << 7; }

// Odd steps of a scale's four bits.
inline int8_t odd_step(unsigned scale) { return static_cast<int8_t>(2 * (scale & 15) + 1); }
inline void read_odd_steps(const uint8_t* scales, int count, Parts& parts) {
    for (int g = 0; g < count; ++g) parts.scale[g] = odd_step(static_cast<unsigned>(scales[g / 2] >> (g % 2 * 4)));
}

struct PackIQ2_XXS : Iq2 {
    using Span = SpanIQ2_XXS;
    static constexpr const char *name = "IQ2_XXS", *lattice = name;
    static constexpr int group = 32;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        const int8_t* points = fewbits::lattice(lattice)->points;
        parts.d[0] = in.d;
        for (int g = 0; g < 8; ++g) {
            uint32_t word;
            std::memcpy(&word, in.groups[g].signs_and_scale, 4);
            parts.scale[g] = odd_step(word >> 28);
            for (int v = 0; v < 4; ++v)
                read_point<bits>(iq2_levels, points + 8 * in.groups[g].points[v], 8, with_eighth_sign(word >> 7 * v), codes + 32 * g + 8 * v);
        }
    }
};

struct PackIQ2_XS : Iq2 {
    using Span = SpanIQ2_XS;
    static constexpr const char *name = "IQ2_XS", *lattice = name;
    static constexpr int group = 16;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        const int8_t* points = fewbits::lattice(lattice)->points;
        parts.d[0] = in.d;
        read_odd_steps(in.scales, 16, parts);
        for (int v = 0; v < 32; ++v)
            read_point<bits>(iq2_levels, points + 8 * (in.vectors[v] & 511), 8, with_eighth_sign(in.vectors[v] >> 9), codes + 8 * v);
    }
};

struct PackIQ2_S : Iq2 {
    using Span = SpanIQ2_S;
    static constexpr const char *name = "IQ2_S", *lattice = name;
    static constexpr int group = 16;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        const int8_t* points = fewbits::lattice(lattice)->points;
        parts.d[0] = in.d;
        read_odd_steps(in.scales, 16, parts);
        for (int v = 0; v < 32; ++v) {
            const int point = in.points[v] | (in.high[v / 4] >> (v % 4 * 2) & 3) << 8;
            read_point<bits>(iq2_levels, points + 8 * point, 8, in.signs[v], codes + 8 * v);
        }
    }
};

struct PackIQ3_XXS : Signed {
    using Span = SpanIQ3_XXS;
    static constexpr const char *name = "IQ3_XXS", *lattice = name;
    static constexpr int group = 32, bits = 4, offset = 62;
    static constexpr float unit = 0.25f;
    static constexpr const int8_t (&table)[16] = iq3_xxs_levels.table;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        const int8_t* points = fewbits::lattice(lattice)->points;
        parts.d[0] = in.d;
        for (int g = 0; g < 8; ++g) {
            uint32_t word;
            std::memcpy(&word, in.signs_and_scale[g], 4);
            parts.scale[g] = odd_step(word >> 28);
            for (int p = 0; p < 8; ++p)
                read_point<bits>(iq3_xxs_levels, points + 4 * in.points[8 * g + p], 4, with_eighth_sign(word >> p / 2 * 7) >> p % 2 * 4,
                                 codes + 32 * g + 4 * p);
        }
    }
};

struct PackIQ3_S : Signed {
    using Span = SpanIQ3_S;
    static constexpr const char *name = "IQ3_S", *lattice = name;
    static constexpr int group = 32, bits = 4, offset = 15;
    static constexpr const int8_t (&table)[16] = iq3_s_levels.table;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        const int8_t* points = fewbits::lattice(lattice)->points;
        parts.d[0] = in.d;
        read_odd_steps(in.scales, 8, parts);
        for (int p = 0; p < 64; ++p) {
            const int point = in.points[p] | (in.high[p / 8] >> (p % 8) & 1) << 8;
            read_point<bits>(iq3_s_levels, points + 4 * point, 4, static_cast<unsigned>(in.signs[p / 2] >> p % 2 * 4), codes + 4 * p);
        }
    }
};

}  // namespace
}  // namespace fewbits
