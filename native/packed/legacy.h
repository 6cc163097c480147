// Readers of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
#pragma once
#include "parts.h"

namespace fewbits {
namespace {

inline void add_fifth_bits(const uint8_t* high, uint8_t* codes) {
    for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(codes[e] | (high[e / 8] >> (e % 8) & 1) << 4);
}

struct PackQ4_0 : Plain {
    using Span = SpanQ4_0;
    static constexpr const char* name = "Q4_0";
    static constexpr int span = 32, group = 32, bits = 4, offset = 8;
    static constexpr Form form = Form::half;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        read_halves(in.q, codes);
    }
};

struct PackQ4_1 : Plain {
    using Span = SpanQ4_1;
    static constexpr const char* name = "Q4_1";
    static constexpr int span = 32, group = 32, bits = 4, offset = 0;
    static constexpr Form form = Form::shifted;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        parts.m[0] = negated(in.m);
        read_halves(in.q, codes);
    }
};

struct PackQ5_0 : Plain {
    using Span = SpanQ5_0;
    static constexpr const char* name = "Q5_0";
    static constexpr int span = 32, group = 32, bits = 5, offset = 16;
    static constexpr Form form = Form::half;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        read_halves(in.q, codes);
        add_fifth_bits(in.high, codes);
    }
};

struct PackQ5_1 : Plain {
    using Span = SpanQ5_1;
    static constexpr const char* name = "Q5_1";
    static constexpr int span = 32, group = 32, bits = 5, offset = 0;
    static constexpr Form form = Form::shifted;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        parts.m[0] = negated(in.m);
        read_halves(in.q, codes);
        add_fifth_bits(in.high, codes);
    }
};

struct PackQ8_0 : Plain {
    using Span = SpanQ8_0;
    static constexpr const char* name = "Q8_0";
    static constexpr int span = 32, group = 32, bits = 8, offset = 128;
    static constexpr Form form = Form::half;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(in.q[e] + 128);
    }
};

}  // namespace
}  // namespace fewbits
