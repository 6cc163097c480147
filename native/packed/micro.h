// Readers of MXFP4 and NVFP4, whose codes stand for twice the E2M1 numbers.
#pragma once
#include "fewbits/micro.h"
#include "parts.h"

namespace fewbits {
namespace {

struct Micro : Usual {
    static constexpr bool tabled = true;
    static constexpr const int8_t (&table)[16] = twice_e2m1;
    static constexpr int bits = 4, offset = 12;
};

struct PackMXFP4 : Micro {
    using Span = SpanMXFP4;
    static constexpr const char* name = "MXFP4";
    static constexpr int span = 32, group = 32;
    static constexpr Form form = Form::bfloat;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = float_to_bfloat(mxfp4_step(in.scale));  // a power of two, and so exact
        read_halves(in.q, codes);
    }
};

struct PackNVFP4 : Micro {
    using Span = SpanNVFP4;
    static constexpr const char* name = "NVFP4";
    static constexpr int span = 64, group = 16;
    static constexpr Form form = Form::half;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        for (int g = 0; g < 4; ++g) {
            parts.d[g] = float_to_half(nvfp4_step(in.scales[g]));  // of four bits, and so exact
            for (int e = 0; e < 8; ++e) {
                codes[16 * g + e] = in.q[8 * g + e] & 15;
                codes[16 * g + 8 + e] = in.q[8 * g + e] >> 4;
            }
        }
    }
};

}  // namespace
}  // namespace fewbits
