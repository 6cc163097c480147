// Readers of IQ1_S and IQ1_M: w = d / 8 * (2 * scale + 1) * (8 * point +- 1), points being vectors of -1, 0 and 1.
#pragma once
#include "fewbits/lattices.h"
#include "parts.h"

namespace fewbits {
namespace {

inline const int8_t* iq1_point(unsigned low, unsigned high) { return lattice("IQ1_S")->points + 8 * (low | (high & 7) << 8); }

// A group is shifted as one: a minimum does that.
struct PackIQ1_S : Plain {
    using Span = SpanIQ1_S;
    static constexpr const char *name = "IQ1_S", *lattice = name;
    static constexpr int span = 256, group = 32, bits = 2, offset = 1;
    static constexpr Form form = Form::affine;
    static constexpr float unit = 0.125f;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = parts.m[0] = in.d;
        for (int g = 0; g < 8; ++g) {
            const unsigned high = in.high[g];
            const int step = static_cast<int>(2 * (high >> 12 & 7) + 1);
            parts.scale[g] = static_cast<int8_t>(8 * step);
            parts.minimum[g] = static_cast<int8_t>(high >> 15 ? step : -step);
            for (int v = 0; v < 4; ++v) {
                const int8_t* numbers = iq1_point(in.low[4 * g + v], high >> 3 * v);
                for (int e = 0; e < 8; ++e) codes[32 * g + 8 * v + e] = static_cast<uint8_t>(numbers[e] + 1);
            }
        }
    }
};

// Every eight columns are shifted on their own, so that shifts are part of the numbers: 8 * point +- 1.
struct PackIQ1_M : Usual {
    using Span = SpanIQ1_M;
    static constexpr const char *name = "IQ1_M", *lattice = "IQ1_S";
    static constexpr int span = 256, group = 16, bits = 3, offset = 9;
    static constexpr Form form = Form::steps;
    static constexpr float unit = 0.125f;
    static constexpr bool tabled = true;
    static constexpr int8_t table[16] = {-7, 1, 9, 0, -9, -1, 7, 0};
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        unsigned d = 0;
        for (unsigned k = 0; k < 4; ++k) {
            const unsigned word = in.scales[2 * k] | static_cast<unsigned>(in.scales[2 * k + 1]) << 8;
            d |= word >> 12 << 4 * k;
            for (unsigned g = 0; g < 4; ++g) parts.scale[4 * k + g] = static_cast<int8_t>(2 * (word >> 3 * g & 7) + 1);
        }
        parts.d[0] = static_cast<half_bits>(d);
        for (int v = 0; v < 32; ++v) {
            const unsigned high = static_cast<unsigned>(in.high[v / 2] >> (v % 2 * 4));
            const int8_t* numbers = iq1_point(in.low[v], high);
            for (int e = 0; e < 8; ++e) codes[8 * v + e] = static_cast<uint8_t>((numbers[e] + 1) | (high & 8) >> 1);
        }
    }
};

}  // namespace
}  // namespace fewbits
