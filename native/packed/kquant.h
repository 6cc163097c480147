// Readers of the K-quants.
#pragma once
#include "parts.h"

namespace fewbits {
namespace {

// Two bits each of 256 columns, as Q2_K and Q3_K have them.
inline void read_pairs(const uint8_t* q, uint8_t* codes) {
    for (int c = 0; c < 256; ++c) codes[c] = q[32 * (c / 128) + c % 32] >> (c % 128 / 32 * 2) & 3;
}

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

}  // namespace
}  // namespace fewbits
