// Readers of TQ1_0, TQ2_0, Q1_0 and Q2_0: one scale for all of a span, and codes of two bits or one.
#pragma once
#include "parts.h"

namespace fewbits {
namespace {

struct Ternary : Plain {
    static constexpr int group = 32, bits = 2, offset = 1;
    static constexpr Form form = Form::whole;
};

// The `count` highest digits to base 3 of 243 / 256 of a number, each in a byte of its own.
inline void read_digits(uint8_t number, int count, int stride, uint8_t* codes) {
    unsigned fraction = number;
    for (int n = 0; n < count; ++n) {
        fraction *= 3;
        codes[n * stride] = static_cast<uint8_t>(fraction >> 8);
        fraction &= 255;
    }
}

struct PackTQ1_0 : Ternary {
    using Span = SpanTQ1_0;
    static constexpr const char* name = "TQ1_0";
    static constexpr int span = 256;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int i = 0; i < 32; ++i) read_digits(in.q[i], 5, 32, codes + i);
        for (int i = 0; i < 16; ++i) read_digits(in.q[32 + i], 5, 16, codes + 160 + i);
        for (int i = 0; i < 4; ++i) read_digits(in.rest[i], 4, 4, codes + 240 + i);
    }
};

struct PackTQ2_0 : Ternary {
    using Span = SpanTQ2_0;
    static constexpr const char* name = "TQ2_0";
    static constexpr int span = 256;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int c = 0; c < 256; ++c) codes[c] = in.q[32 * (c / 128) + c % 32] >> (c / 32 % 4 * 2) & 3;
    }
};

struct PackQ2_0 : Ternary {
    using Span = SpanQ2_0;
    static constexpr const char* name = "Q2_0";
    static constexpr int span = 64;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int c = 0; c < 64; ++c) codes[c] = in.q[c / 4] >> (c % 4 * 2) & 3;
    }
};

struct PackQ1_0 : Usual {
    using Span = SpanQ1_0;
    static constexpr const char* name = "Q1_0";
    static constexpr int span = 128, group = 32, bits = 1, offset = 1;
    static constexpr Form form = Form::whole;
    static constexpr bool tabled = true;
    static constexpr int8_t table[16] = {-1, 1};
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int c = 0; c < 128; ++c) codes[c] = in.q[c / 8] >> (c % 8) & 1;
    }
};

}  // namespace
}  // namespace fewbits
