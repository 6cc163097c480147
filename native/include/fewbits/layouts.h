// The stored bytes of every format that has a native codec: one struct per span, sizes asserted.
// Layouts are those of the GGUF container (ggml's types of the same names); equations are in docs/formats.md.
#pragma once
#include <cstdint>

namespace fewbits {

using half_bits = uint16_t;  // an IEEE binary16 number as bits

struct SpanQ4_0 {    // w = d * (q - 8), 32 columns
    half_bits d;
    uint8_t q[16];   // element e (< 16) in the low half of byte e, element e + 16 in the high half
};
static_assert(sizeof(SpanQ4_0) == 18, "4.5 bits per weight");

struct SpanQ4_1 {    // w = d * q + m, 32 columns
    half_bits d, m;
    uint8_t q[16];   // as in Q4_0
};
static_assert(sizeof(SpanQ4_1) == 20, "5 bits per weight");

struct SpanQ5_0 {    // w = d * (q - 16), 32 columns
    half_bits d;
    uint8_t high[4]; // bit e is the fifth bit of element e
    uint8_t q[16];   // low four bits, as in Q4_0
};
static_assert(sizeof(SpanQ5_0) == 22, "5.5 bits per weight");

struct SpanQ5_1 {    // w = d * q + m, 32 columns
    half_bits d, m;
    uint8_t high[4]; // bit e is the fifth bit of element e
    uint8_t q[16];   // low four bits, as in Q4_0
};
static_assert(sizeof(SpanQ5_1) == 24, "6 bits per weight");

struct SpanQ8_0 {    // w = d * q, 32 columns
    half_bits d;
    int8_t q[32];
};
static_assert(sizeof(SpanQ8_0) == 34, "8.5 bits per weight");

struct SpanQ2_K {    // w = d * scale[g] * q - dmin * min[g], 256 columns, 16 groups of 16
    uint8_t scales[16];  // scale in the low half, minimum in the high half
    uint8_t q[64];       // in each half of the span, columns e, e + 32, e + 64, e + 96 share byte e, two bits each
    half_bits d, dmin;
};
static_assert(sizeof(SpanQ2_K) == 84, "2.625 bits per weight");

struct SpanQ3_K {    // w = d * scale[g] * (q - 4), 256 columns, 16 groups of 16
    uint8_t high[32];    // bit p of byte e is the third bit of column 32 p + e
    uint8_t q[64];       // lower two bits as in Q2_K
    uint8_t scales[12];  // 16 six-bit scales, shifted by 32
    half_bits d;
};
static_assert(sizeof(SpanQ3_K) == 110, "3.4375 bits per weight");

struct SpanQ4_K {    // w = d * scale[g] * q - dmin * min[g], 256 columns, 8 groups of 32
    half_bits d, dmin;
    uint8_t scales[12];  // 8 six-bit scales and 8 six-bit minimums
    uint8_t q[128];      // groups 2p (low halves) and 2p + 1 (high halves) share bytes 32p .. 32p + 31
};
static_assert(sizeof(SpanQ4_K) == 144, "4.5 bits per weight");

struct SpanQ5_K {    // as Q4_K with five-bit codes
    half_bits d, dmin;
    uint8_t scales[12];
    uint8_t high[32];    // bit g of byte e is the fifth bit of element e of group g
    uint8_t q[128];
};
static_assert(sizeof(SpanQ5_K) == 176, "5.5 bits per weight");

struct SpanQ6_K {    // w = d * scale[g] * (q - 32), 256 columns, 16 groups of 16
    uint8_t low[128];    // low four bits
    uint8_t high[64];    // upper two bits
    int8_t scales[16];
    half_bits d;
};
static_assert(sizeof(SpanQ6_K) == 210, "6.5625 bits per weight");

// IQ4: what the sixteen codes mean before the scale.
constexpr int8_t iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct SpanIQ4_NL {  // w = d * table[q], 32 columns
    half_bits d;
    uint8_t q[16];   // as in Q4_0
};
static_assert(sizeof(SpanIQ4_NL) == 18, "4.5 bits per weight");

struct SpanIQ4_XS {  // w = d * (scale[g] - 32) * table[q], 256 columns, 8 groups of 32
    half_bits d;
    uint8_t high[2]; // upper two bits of 8 six-bit scales, as one number of 16 bits
    uint8_t low[4];  // lower four bits, the even group's in the low half of a byte
    uint8_t q[128];  // 16 bytes per group, as in IQ4_NL
};
static_assert(sizeof(SpanIQ4_XS) == 136, "4.25 bits per weight");

struct SpanTQ1_0 {   // w = d * (q - 1), 256 columns; ceil(256 / 243 * number) of a number of five digits to base 3
    uint8_t q[48];       // byte i < 32: columns i, i + 32, ...; byte 32 + i: columns 160 + i, 176 + i, ...
    uint8_t rest[4];     // byte i: columns 240 + i, 244 + i, ..., and a fifth digit 0
    half_bits d;
};
static_assert(sizeof(SpanTQ1_0) == 54, "1.6875 bits per weight");

struct SpanTQ2_0 {   // w = d * (q - 1), 256 columns
    uint8_t q[64];       // bits 2n, 2n + 1 of byte 32 h + i: column 128 h + 32 n + i
    half_bits d;
};
static_assert(sizeof(SpanTQ2_0) == 66, "2.0625 bits per weight");

struct SpanQ1_0 {    // w = d * (2 q - 1), 128 columns
    half_bits d;
    uint8_t q[16];       // bit e % 8 of byte e / 8
};
static_assert(sizeof(SpanQ1_0) == 18, "1.125 bits per weight");

struct SpanQ2_0 {    // w = d * (q - 1), 64 columns
    half_bits d;
    uint8_t q[16];       // bits 2n, 2n + 1 of byte i: column 4 i + n
};
static_assert(sizeof(SpanQ2_0) == 18, "2.25 bits per weight");

struct SpanMXFP4 {   // w = 2^(scale - 128) * twice the E2M1 number q, 32 columns
    uint8_t scale;
    uint8_t q[16];       // element e (< 16) in the low half of byte e, element e + 16 in the high half
};
static_assert(sizeof(SpanMXFP4) == 17, "4.25 bits per weight");

struct SpanNVFP4 {   // w = E4M3(scale) / 2 * twice the E2M1 number q, 64 columns, 4 groups of 16
    uint8_t scales[4];
    uint8_t q[32];       // group g from byte 8 g on: element e (< 8) in the low half of byte e, e + 8 in the high half
};
static_assert(sizeof(SpanNVFP4) == 36, "4.5 bits per weight");

// Lattices: w = d * (2 * scale[g] + 1) * unit * sign * point. Seven signs mean eight: the number of negative columns is even.
struct SpanIQ2_XXS {  // unit 1/8, 256 columns, 8 groups of 32
    half_bits d;
    struct {
        uint8_t points[4];
        uint8_t signs_and_scale[4];  // from the lowest bit: 4 times 7 signs, 4 bits of scale
    } groups[8];
};
static_assert(sizeof(SpanIQ2_XXS) == 66, "2.0625 bits per weight");

struct SpanIQ2_XS {  // unit 1/8, 256 columns, 16 groups of 16
    half_bits d;
    uint16_t vectors[32];  // 9 bits of point, 7 signs
    uint8_t scales[8];     // of group 2b in the low half of byte b, of group 2b + 1 in the high half
};
static_assert(sizeof(SpanIQ2_XS) == 74, "2.3125 bits per weight");

struct SpanIQ2_S {  // unit 1/8, 256 columns, 16 groups of 16
    half_bits d;
    uint8_t points[32];  // their low 8 bits
    uint8_t signs[32];
    uint8_t high[8];     // two upper bits of points 4b .. 4b + 3 in byte b
    uint8_t scales[8];   // as in IQ2_XS
};
static_assert(sizeof(SpanIQ2_S) == 82, "2.5625 bits per weight");

struct SpanIQ3_XXS {  // unit 1/4, 256 columns, 8 groups of 32
    half_bits d;
    uint8_t points[64];
    uint8_t signs_and_scale[8][4];  // as in IQ2_XXS
};
static_assert(sizeof(SpanIQ3_XXS) == 98, "3.0625 bits per weight");

struct SpanIQ3_S {  // unit 1, 256 columns, 8 groups of 32
    half_bits d;
    uint8_t points[64];  // their low 8 bits
    uint8_t high[8];     // bit e of byte b is the ninth of point 8b + e
    uint8_t signs[32];   // of 8 columns each
    uint8_t scales[4];   // as in IQ2_XS
};
static_assert(sizeof(SpanIQ3_S) == 110, "3.4375 bits per weight");
struct SpanIQ1_S {   // w = d * (2 * scale[g] + 1) * (point[v] +- 1/8), 256 columns, 8 groups of 32, 32 vectors of 8
    half_bits d;
    uint8_t low[32]; // low 8 bits of the points
    uint16_t high[8]; // per group: upper 3 bits of 4 points, 3 bits of scale, 1 bit where the shift is downwards
};
static_assert(sizeof(SpanIQ1_S) == 50, "1.5625 bits per weight");

struct SpanIQ1_M {   // as IQ1_S with 16 groups of 16, and a shift per vector
    uint8_t low[32]; // low 8 bits of the points
    uint8_t high[16]; // per vector half a byte: upper 3 bits of the point, 1 bit where the shift is downwards
    uint8_t scales[8]; // 4 numbers of 16 bits: 4 scales of 3 bits, and above them 4 bits of d
};
static_assert(sizeof(SpanIQ1_M) == 56, "1.75 bits per weight");

}  // namespace fewbits
