// Formats of less than two bits: shifted vectors of a lattice.
#include "importance.h"
#include "spans.h"
#include "shifted_lattice.h"

namespace fewbits {
namespace {

const Lattice& table() { return *lattice("IQ1_S"); }

// sqrt(2 * the span's mean square + w^2), for `count` numbers of whole spans.
void spread_weights(const float* w, int count, float* weights) {
    float even[256];
    for (float& x : even) x = 1.0f;
    weigh_by_spread<256>(w, even, count / 256, 256, weights);
}

// w^2 + the mean square of each sixteen.
void square_weights(const float* w, float* weights) {
    alignas(64) float x[16 * batch], mean[batch];
    to_columns(w, 16, x);
    for (int g = 0; g < batch; g += Vec::lanes) {
        Vec squares = Vec::all(0.0f);
        for (int e = 0; e < 16; ++e) squares = squares + Vec::load(x + batch * e + g) * Vec::load(x + batch * e + g);
        (squares * Vec::all(1.0f / 16)).store(mean + g);
    }
    for (int g = 0; g < batch; ++g)
        for (int e = 16 * g; e < 16 * (g + 1); ++e) weights[e] = w[e] * w[e] + mean[g];
}

void encode_iq1_s(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanIQ1_S*>(stored);
    for_batches<256, 2>(w, weights, spans, [&](int64_t first, int present, const float* numbers, const float* given) {
        float own[2 * 256];
        if (!given) spread_weights(numbers, 2 * 256, own);
        const TernarySpans<32, 32> fit(numbers, given ? given : own, table());
        for (int s = 0; s < present; ++s) {
            SpanIQ1_S& span = out[first + s];
            span.d = fit.d(s);
            for (int v = 0; v < 32; ++v) span.low[v] = static_cast<uint8_t>(fit.point(s, v));
            for (int g = 0; g < 8; ++g) {
                int high = fit.scale(s, g) << 12 | fit.down(s, 4 * g) << 15;
                for (int v = 0; v < 4; ++v) high |= (fit.point(s, 4 * g + v) >> 8) << (3 * v);
                span.high[g] = static_cast<uint16_t>(high);
            }
        }
    });
}

void encode_iq1_m(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanIQ1_M*>(stored);
    for_batches<256, 1>(w, weights, spans, [&](int64_t first, int, const float* numbers, const float* given) {
        float own[256];
        if (!given) square_weights(numbers, own);
        const TernarySpans<16, 8> fit(numbers, given ? given : own, table());
        SpanIQ1_M& span = out[first];
        for (int v = 0; v < 32; ++v) span.low[v] = static_cast<uint8_t>(fit.point(0, v));
        const auto high = [&](int v) { return fit.point(0, v) >> 8 | fit.down(0, v) << 3; };
        for (int b = 0; b < 16; ++b) span.high[b] = static_cast<uint8_t>(high(2 * b) | high(2 * b + 1) << 4);
        for (int word = 0; word < 4; ++word) {
            int bits = ((fit.d(0) >> (4 * word)) & 15) << 12;
            for (int g = 0; g < 4; ++g) bits |= fit.scale(0, 4 * word + g) << (3 * g);
            span.scales[2 * word] = static_cast<uint8_t>(bits);
            span.scales[2 * word + 1] = static_cast<uint8_t>(bits >> 8);
        }
    });
}

constexpr float shifts[2] = {search::iq1_shift, -search::iq1_shift};

void decode_point(const int8_t* point, float step, float shift, float* w) {
#if defined(__AVX2__) || defined(__AVX512F__)
    const __m256i numbers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(point)));
    const __m256 shifted = _mm256_add_ps(_mm256_cvtepi32_ps(numbers), _mm256_set1_ps(shift));
    _mm256_storeu_ps(w, _mm256_mul_ps(_mm256_set1_ps(step), shifted));
#else
    for (int e = 0; e < 8; ++e) w[e] = step * (static_cast<float>(point[e]) + shift);
#endif
}

void decode_iq1_s(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanIQ1_S*>(stored);
    const int8_t* points = table().points;
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int g = 0; g < 8; ++g) {
            const int high = in[s].high[g];
            const float step = d * static_cast<float>(2 * ((high >> 12) & 7) + 1);
            for (int v = 0; v < 4; ++v, w += 8)
                decode_point(points + 8 * (in[s].low[4 * g + v] | ((high >> (3 * v)) & 7) << 8), step, shifts[high >> 15], w);
        }
    }
}

void decode_iq1_m(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanIQ1_M*>(stored);
    const int8_t* points = table().points;
    for (int64_t s = 0; s < spans; ++s) {
        int words[4], d_bits = 0;
        for (int k = 0; k < 4; ++k) {
            words[k] = in[s].scales[2 * k] | in[s].scales[2 * k + 1] << 8;
            d_bits |= (words[k] >> 12) << (4 * k);
        }
        const float d = half_to_float(static_cast<half_bits>(d_bits));
        for (int g = 0; g < 16; ++g, w += 16) {
            const float step = d * static_cast<float>(2 * ((words[g / 4] >> (3 * (g % 4))) & 7) + 1);
            const int high = in[s].high[g];
            decode_point(points + 8 * (in[s].low[2 * g] | (high & 7) << 8), step, shifts[(high >> 3) & 1], w);
            decode_point(points + 8 * (in[s].low[2 * g + 1] | (high & 0x70) << 4), step, shifts[high >> 7], w + 8);
        }
    }
}

constexpr Codec codecs[] = {
    {"IQ1_S", 256, sizeof(SpanIQ1_S), encode_iq1_s, decode_iq1_s, weigh_by_spread<256>, true, "IQ1_S"},
    {"IQ1_M", 256, sizeof(SpanIQ1_M), encode_iq1_m, decode_iq1_m, weigh_by_spread<256>, true, "IQ1_S"},
};

}  // namespace

FEWBITS_FAMILY(iq1, codecs)

}  // namespace fewbits
