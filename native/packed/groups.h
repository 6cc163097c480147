// Readers of what is made of other containers' codes and scales while a model is loaded: 32 columns a span, their codes
// as one string of bits, the lowest bit of byte 0 first.
#pragma once
#include "fewbits/micro.h"
#include "parts.h"

namespace fewbits {
namespace {

template <int bits>
struct SpanEven {  // w = scale * (code - middle)
    float scale;
    uint8_t q[4 * bits];
};
template <int bits>
struct SpanLine {  // w = scale * (code - middle) - minimum
    float scale, minimum;
    uint8_t q[4 * bits];
};
struct SpanZero {  // w = scale * (code - middle - zero)
    half_bits scale;
    int16_t zero;
    uint8_t q[16];
};
struct SpanTable {  // w = scale[column / 16] * table[code]; where all columns have scale[0], scale[1] is the decoder's
    float scale[2];
    uint8_t q[16];
};
static_assert(sizeof(SpanEven<4>) == 20 && sizeof(SpanLine<3>) == 20 && sizeof(SpanZero) == 20 && sizeof(SpanTable) == 24,
              "as fewbits/engine/spans.py makes them");

template <int bits>
void read_bits(const uint8_t (&q)[4 * bits], uint8_t* codes) {
    for (int e = 0; e < 32; ++e) {
        const int at = e * bits, next = at / 8 + 1 < 4 * bits ? at / 8 + 1 : at / 8;
        codes[e] = static_cast<uint8_t>((q[at / 8] | q[next] << 8) >> (at % 8) & ((1 << bits) - 1));
    }
}

template <int width>
struct Codes : Plain {
    static constexpr int span = 32, group = 32, bits = width, offset = 1 << (width - 1);
};

template <int width>
struct PackEven : Codes<width> {
    using Span = SpanEven<width>;
    static constexpr const char* name = width == 4 ? "even4" : "even8";
    static constexpr Form form = Form::single;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.s[0] = in.scale;
        read_bits<width>(in.q, codes);
    }
};

template <int width>
struct PackLine : Codes<width> {
    using Span = SpanLine<width>;
    static constexpr const char* name = width == 2 ? "line2" : width == 3 ? "line3" : width == 4 ? "line4" : "line8";
    static constexpr Form form = Form::line;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.s[0] = in.scale;
        parts.low[0] = in.minimum;
        read_bits<width>(in.q, codes);
    }
};

struct PackZero4 : Codes<4> {
    using Span = SpanZero;
    static constexpr const char* name = "zero4";
    static constexpr Form form = Form::zeros;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.scale;
        parts.minimum[0] = static_cast<int8_t>(in.zero);
        read_bits<4>(in.q, codes);
    }
};

struct Tabled : Usual {
    using Span = SpanTable;
    static constexpr int span = 32, bits = 4;
    static constexpr Form form = Form::single;
    static constexpr bool tabled = true;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        std::memcpy(parts.s, in.scale, sizeof in.scale);
        read_bits<4>(in.q, codes);
    }
};

struct PackE2M1 : Tabled {  // twice the numbers
    static constexpr const char* name = "e2m1";
    static constexpr int group = 16, offset = 12;
    static constexpr const int8_t (&table)[16] = twice_e2m1;
};

// NF4 and bitsandbytes' FP4 in steps of 1 / 112.03 and 1 / 120, of all that eight bits allow those that the numbers lie
// nearest to: what that changes is less than what rounding numbers to eight bits does. What the steps leave, in 256ths of
// one, is a table of its own, for products of numbers of sixteen bits.
struct PackNF4 : Tabled {
    static constexpr const char* name = "nf4";
    static constexpr const char* rest = "nf4_rest";
    static constexpr int group = 32, offset = 128;
    static constexpr int8_t table[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};
};
struct PackNF4Rest : Tabled {
    static constexpr const char* name = "nf4_rest";
    static constexpr int group = 32, offset = 128;
    static constexpr int8_t table[16] = {-8, 1, 45, -62, 34, 77, -51, 0, -22, 7, -110, -37, 95, 8, -2, 8};
};
struct PackFP4 : Tabled {
    static constexpr const char* name = "fp4";
    static constexpr const char* rest = "fp4_rest";
    static constexpr int group = 32, offset = 128;
    static constexpr int8_t table[16] = {0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30};
};
struct PackFP4Rest : Tabled {
    static constexpr const char* name = "fp4_rest";
    static constexpr int group = 32, offset = 128;
    static constexpr int8_t table[16] = {0, -96, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 0, 0, 0};
};

// The type that multiplies by what a table leaves out.
template <typename Type> struct RestOf { using Rest = void; };
template <> struct RestOf<PackNF4> { using Rest = PackNF4Rest; };
template <> struct RestOf<PackFP4> { using Rest = PackFP4Rest; };

}  // namespace
}  // namespace fewbits
