// What the lattice formats share around the fit: weights of errors, batches of spans, numbers of stored points.
#pragma once
#include "lattice_fit.h"
#include "spans.h"

namespace fewbits {
namespace {

// The mean square of a span of 256 numbers: summed over sixteen lanes, in their order.
inline float mean_square(const float* w) {
    alignas(64) float lanes[16];
    for (int lane = 0; lane < 16; lane += Vec::lanes) {
        Vec sum = Vec::all(0.0f);
        for (int i = lane; i < 256; i += 16) {
            const Vec x = Vec::load(w + i);
            sum = sum + x * x;
        }
        sum.store(lanes + lane);
    }
    float total = 0.0f;
    for (float lane : lanes) total += lane;
    return total * (1.0f / 256);
}

// weights = importance * root(spread * mean square + w^2), without the importance where it is nullptr.
inline void weigh_span(const float* w, const float* importance, float spread, bool rooted, float* weights) {
    const Vec mean = Vec::all(spread * mean_square(w));
    for (int i = 0; i < 256; i += Vec::lanes) {
        const Vec x = Vec::load(w + i), squares = mean + x * x;
        const Vec weight = rooted ? sqrt(squares) : squares;
        (importance ? Vec::load(importance + i) * weight : weight).store(weights + i);
    }
}

template <typename Shape>
void weigh_lattice(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < cols; i += 256)
            weigh_span(w + row * cols + i, importance + i, Shape::spread, true, weights + row * cols + i);
}

// Calls pack(span, fit, its place in the fit) for every span.
template <typename Shape, typename Span, typename Pack>
void encode_lattice(const float* w, const float* weights, int64_t spans, uint8_t* stored, Pack pack) {
    using Fit = LatticeFit<Shape>;
    constexpr int together = Fit::spans;
    Fit fit(*lattice(Shape::name));
    auto* out = reinterpret_cast<Span*>(stored);
    alignas(64) float weighed[256 * together] = {};
    for_batches<256, together>(w, spans, [&](int64_t first, int present, const float* numbers) {
        for (int s = 0; s < present; ++s) {
            if (weights) std::memcpy(weighed + 256 * s, weights + 256 * (first + s), 256 * sizeof(float));
            else weigh_span(numbers + 256 * s, nullptr, 1.0f, Shape::rooted, weighed + 256 * s);
        }
        fit.fit(numbers, weighed);
        for (int s = 0; s < present; ++s) pack(out[first + s], fit, s);
    });
}

template <typename Fit>
void pack_scales(const Fit& fit, int s, int count, uint8_t* scales) {
    for (int g = 0; g < count; g += 2) scales[g / 2] = static_cast<uint8_t>(fit.scale(s, g) | fit.scale(s, g + 1) << 4);
}

// Four times seven signs and a scale, from the lowest bit.
template <typename Fit>
void pack_signs_and_scale(const Fit& fit, int s, int g, uint8_t* packed) {
    uint32_t bits = static_cast<uint32_t>(fit.scale(s, g)) << 28;
    for (int v = 0; v < 4; ++v) bits |= static_cast<uint32_t>(fit.signs(s, 4 * g + v) & 127) << 7 * v;
    std::memcpy(packed, &bits, 4);
}

inline uint8_t with_eighth(uint32_t seven) { return static_cast<uint8_t>(seven | __builtin_parity(seven) << 7); }

// w = step * number, negative where `signs` has a one, for eight numbers.
inline void store_eight(const int8_t* numbers, uint8_t signs, float step, float* w) {
#if defined(__AVX2__)
    const __m256 whole = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers))));
    const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32(signs), _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    const __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0x80000000u)));
    _mm256_storeu_ps(w, _mm256_xor_ps(_mm256_mul_ps(_mm256_set1_ps(step), whole), _mm256_castsi256_ps(sign)));
#else
    for (int e = 0; e < 8; ++e) {
        const float x = step * static_cast<float>(numbers[e]);
        w[e] = signs >> e & 1 ? -x : x;
    }
#endif
}

// Two points of four columns.
inline void store_four_and_four(const int8_t* first, const int8_t* second, uint8_t signs, float step, float* w) {
    int8_t numbers[8];
    std::memcpy(numbers, first, 4);
    std::memcpy(numbers + 4, second, 4);
    store_eight(numbers, signs, step, w);
}

}  // namespace
}  // namespace fewbits
