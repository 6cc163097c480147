// TQ1_0 and TQ2_0, scalar.
#include "searches.h"
#include "spans.h"

namespace fewbits {
namespace {

// What lies above a threshold: the best d for it, and the energy that it removes.
struct Above {
    float d, gain;
    Above(const float* x, const float* weights, float threshold) {
        LaneSum sx, sw;
        for (int e = 0; e < 256; ++e) {
            const float size = std::fabs(x[e]), weight = weights ? weights[e] : 1.0f;
            sx.add(e, size > threshold ? weight * size : 0.0f);
            sw.add(e, size > threshold ? weight : 0.0f);
        }
        d = sx.total() * inverse(sw.total());
        gain = d * sx.total();
    }
};

half_bits fit_ternary(const float* x, const float* weights) {
    LaneSum sx, sxx;
    float most = 0, best = 0, d = 0;
    for (int e = 0; e < 256; ++e) {
        const float size = std::fabs(x[e]), weighted = (weights ? weights[e] : 1.0f) * size;
        sx.add(e, weighted);
        sxx.add(e, weighted * size);
        most = std::fmax(most, size);
    }
    const float mean = sxx.total() * inverse(sx.total());
    for (float threshold : {mean * search::ternary_of_mean, most * search::ternary_of_largest}) {
        const Above found(x, weights, threshold);
        if (!(found.gain > best)) continue;
        best = found.gain;
        d = found.d;
    }
    return stored_half(d);
}

int ternary_code(float x, half_bits d) {
    return 1 + static_cast<int>(clamp(std::nearbyint(x * inverse(half_to_float(d))), -1.0f, 1.0f));
}

// The column of digit n of byte i of TQ1_0; -1 where there is none.
int column_of_digit(int i, int n) {
    if (i < 32) return i + 32 * n;
    if (i < 48) return 160 + (i - 32) + 16 * n;
    return n < 4 ? 240 + (i - 48) + 4 * n : -1;
}

void encode_tq1_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        const float* x = w + 256 * s;
        SpanTQ1_0& out = spans_at<SpanTQ1_0>(stored)[s];
        out.d = fit_ternary(x, weights ? weights + 256 * s : nullptr);
        for (int i = 0; i < 52; ++i) {
            int number = 0;
            for (int n = 0; n < 5; ++n) {
                const int column = column_of_digit(i, n);
                number = 3 * number + (column < 0 ? 0 : ternary_code(x[column], out.d));
            }
            (i < 48 ? out.q[i] : out.rest[i - 48]) = byte((256 * number + 242) / 243);
        }
    }
}

void encode_tq2_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    for (int64_t s = 0; s < spans; ++s) {
        const float* x = w + 256 * s;
        SpanTQ2_0& out = spans_at<SpanTQ2_0>(stored)[s];
        out.d = fit_ternary(x, weights ? weights + 256 * s : nullptr);
        std::memset(out.q, 0, sizeof out.q);
        for (int c = 0; c < 256; ++c) out.q[32 * (c / 128) + c % 32] |= byte(ternary_code(x[c], out.d) << (2 * (c / 32 % 4)));
    }
}

void decode_tq1_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t s = 0; s < spans; ++s) {
        const SpanTQ1_0& in = spans_at<SpanTQ1_0>(stored)[s];
        for (int i = 0; i < 52; ++i) {
            int fraction = i < 48 ? in.q[i] : in.rest[i - 48];  // of 256
            for (int n = 0; n < 5; ++n) {
                fraction *= 3;
                const int column = column_of_digit(i, n);
                if (column >= 0) w[256 * s + column] = half_to_float(in.d) * static_cast<float>(fraction / 256 - 1);
                fraction %= 256;
            }
        }
    }
}

void decode_tq2_0(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t i = 0; i < 256 * spans; ++i) {
        const SpanTQ2_0& in = spans_at<SpanTQ2_0>(stored)[i / 256];
        const int c = static_cast<int>(i % 256), code = in.q[32 * (c / 128) + c % 32] >> (2 * (c / 32 % 4)) & 3;
        w[i] = half_to_float(in.d) * static_cast<float>(code - 1);
    }
}

constexpr Codec codecs[] = {
    {"TQ1_0", 256, sizeof(SpanTQ1_0), encode_tq1_0, decode_tq1_0, nullptr, true},
    {"TQ2_0", 256, sizeof(SpanTQ2_0), encode_tq2_0, decode_tq2_0, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(ternary, codecs)

}  // namespace fewbits
