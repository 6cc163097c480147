// Readers of IQ4_NL and IQ4_XS.
#pragma once
#include "parts.h"

namespace fewbits {
namespace {

struct PackIQ4_NL : Usual {
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

struct PackIQ4_XS : Usual {
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

}  // namespace
}  // namespace fewbits
