// How the codes and scales of stored types are read for packing: for each span, its codes, one in a byte, and what
// stands for scales and minimums. Bits and equations are those of fewbits/layouts.h.
#pragma once
#include <cstring>

#include "fewbits/engine.h"
#include "fewbits/half.h"
#include "fewbits/layouts.h"

namespace fewbits {
namespace {

// w = scale * (code - offset) - minimum, with a scale, and a minimum where there are any, for each group:
enum class Form {
    half,      // scale d[g]
    bfloat,    // scale d[g], of type BF16
    shifted,   // scale d[g], minimum m[g]
    steps,     // scale d[0] * scale[g]
    affine,    // scale d[0] * scale[g], minimum m[0] * minimum[g]
};

struct Parts {
    half_bits d[4], m[4];
    int8_t scale[16];
    int8_t minimum[16];
};

// Types whose codes are numbers themselves; others look them up.
struct Plain {
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
inline void add_fifth_bits(const uint8_t* high, uint8_t* codes) {
    for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(codes[e] | (high[e / 8] >> (e % 8) & 1) << 4);
}
// Two bits each of 256 columns, as Q2_K and Q3_K have them.
inline void read_pairs(const uint8_t* q, uint8_t* codes) {
    for (int c = 0; c < 256; ++c) codes[c] = q[32 * (c / 128) + c % 32] >> (c % 128 / 32 * 2) & 3;
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

struct PackQ2_K : Plain {
    using Span = SpanQ2_K;
    static constexpr const char* name = "Q2_K";
    static constexpr int span = 256, group = 16, bits = 2, offset = 0;
    static constexpr Form form = Form::affine;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        parts.m[0] = in.dmin;
        for (int g = 0; g < 16; ++g) {
            parts.scale[g] = static_cast<int8_t>(in.scales[g] & 15);
            parts.minimum[g] = static_cast<int8_t>(in.scales[g] >> 4);
        }
        read_pairs(in.q, codes);
    }
};

struct PackQ3_K : Plain {
    using Span = SpanQ3_K;
    static constexpr const char* name = "Q3_K";
    static constexpr int span = 256, group = 16, bits = 3, offset = 4;
    static constexpr Form form = Form::steps;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int g = 0; g < 16; ++g) {
            const int low = in.scales[g % 8] >> (4 * (g / 8)) & 15, high = in.scales[8 + g % 4] >> (2 * (g / 4)) & 3;
            parts.scale[g] = static_cast<int8_t>(low + 16 * high - 32);
        }
        read_pairs(in.q, codes);
        for (int c = 0; c < 256; ++c) codes[c] = static_cast<uint8_t>(codes[c] | (in.high[c % 32] >> (c / 32) & 1) << 2);
    }
};

// Eight six-bit scales and eight six-bit minimums in twelve bytes.
inline void read_sixes(const uint8_t* scales, Parts& parts) {
    for (int g = 0; g < 4; ++g) {
        parts.scale[g] = static_cast<int8_t>(scales[g] & 63);
        parts.minimum[g] = static_cast<int8_t>(scales[4 + g] & 63);
        parts.scale[4 + g] = static_cast<int8_t>((scales[8 + g] & 15) | scales[g] >> 6 << 4);
        parts.minimum[4 + g] = static_cast<int8_t>(scales[8 + g] >> 4 | scales[4 + g] >> 6 << 4);
    }
}
// Groups 2p and 2p + 1 of 32 columns in the halves of bytes 32p on.
inline void read_half_groups(const uint8_t* q, uint8_t* codes) {
    for (int p = 0; p < 4; ++p)
        for (int e = 0; e < 32; ++e) {
            codes[64 * p + e] = q[32 * p + e] & 15;
            codes[64 * p + 32 + e] = q[32 * p + e] >> 4;
        }
}

struct PackQ4_K : Plain {
    using Span = SpanQ4_K;
    static constexpr const char* name = "Q4_K";
    static constexpr int span = 256, group = 32, bits = 4, offset = 0;
    static constexpr Form form = Form::affine;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        parts.m[0] = in.dmin;
        read_sixes(in.scales, parts);
        read_half_groups(in.q, codes);
    }
};

struct PackQ5_K : Plain {
    using Span = SpanQ5_K;
    static constexpr const char* name = "Q5_K";
    static constexpr int span = 256, group = 32, bits = 5, offset = 0;
    static constexpr Form form = Form::affine;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        parts.m[0] = in.dmin;
        read_sixes(in.scales, parts);
        read_half_groups(in.q, codes);
        for (int c = 0; c < 256; ++c) codes[c] = static_cast<uint8_t>(codes[c] | (in.high[c % 32] >> (c / 32) & 1) << 4);
    }
};

struct PackQ6_K : Plain {
    using Span = SpanQ6_K;
    static constexpr const char* name = "Q6_K";
    static constexpr int span = 256, group = 16, bits = 6, offset = 32;
    static constexpr Form form = Form::steps;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        std::memcpy(parts.scale, in.scales, 16);
        for (int half = 0; half < 2; ++half)
            for (int e = 0; e < 32; ++e) {
                const uint8_t* low = in.low + 64 * half + e;
                const uint8_t high = in.high[32 * half + e];
                uint8_t* out = codes + 128 * half + e;
                out[0] = static_cast<uint8_t>((low[0] & 15) | (high & 3) << 4);
                out[32] = static_cast<uint8_t>((low[32] & 15) | (high >> 2 & 3) << 4);
                out[64] = static_cast<uint8_t>(low[0] >> 4 | (high >> 4 & 3) << 4);
                out[96] = static_cast<uint8_t>(low[32] >> 4 | (high >> 6) << 4);
            }
    }
};

struct PackIQ4_NL {
    using Span = SpanIQ4_NL;
    static constexpr const char* name = "IQ4_NL";
    static constexpr int span = 32, group = 32, bits = 4, offset = 128;
    static constexpr Form form = Form::half;
    static constexpr bool tabled = true;
    static constexpr const int8_t (&table)[16] = iq4_table;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        read_halves(in.q, codes);
    }
};

struct PackIQ4_XS {
    using Span = SpanIQ4_XS;
    static constexpr const char* name = "IQ4_XS";
    static constexpr int span = 256, group = 32, bits = 4, offset = 128;
    static constexpr Form form = Form::steps;
    static constexpr bool tabled = true;
    static constexpr const int8_t (&table)[16] = iq4_table;
    static void read(const Span& in, uint8_t* codes, Parts& parts) {
        parts.d[0] = in.d;
        for (int g = 0; g < 8; ++g) {
            const int low = in.low[g / 2] >> (g % 2 * 4) & 15, high = in.high[g / 4] >> (g % 4 * 2) & 3;
            parts.scale[g] = static_cast<int8_t>(low + 16 * high - 32);
            read_halves(in.q + 16 * g, codes + 32 * g);
        }
    }
};

#define FEWBITS_PACKED_TYPES(DO)                                                                                              \
    DO(PackQ4_0) DO(PackQ4_1) DO(PackQ5_0) DO(PackQ5_1) DO(PackQ8_0) DO(PackQ2_K) DO(PackQ3_K) DO(PackQ4_K) DO(PackQ5_K)      \
    DO(PackQ6_K) DO(PackIQ4_NL) DO(PackIQ4_XS)

// What follows from the codes and the scale of group g (of all tokens' groups).
inline void note_sums(const Rounded& out, int64_t g) {
    for (int half = 0; half < 2; ++half) {
        int sum = 0;
        for (int e = 0; e < 16; ++e) sum += out.codes[32 * g + 16 * half + e];
        out.sums[2 * g + half] = sum;
        out.low_sums[2 * g + half] = static_cast<float>(sum) * out.scales[g];
    }
    out.pairs[g] = out.sums[2 * g] + out.sums[2 * g + 1];
    out.low_pairs[g] = static_cast<float>(out.pairs[g]) * out.scales[g];
}

}  // namespace
}  // namespace fewbits
