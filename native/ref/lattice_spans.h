// What the scalar lattice formats share around the search: weights of errors, numbers of stored points.
#pragma once
#include "lattices.h"

namespace fewbits {
namespace {

// The mean square of a span: column c is added to sum c % 16, then the sums in order.
inline float mean_square(const float* w) {
    float lanes[16] = {}, sum = 0;
    for (int c = 0; c < 256; ++c) lanes[c % 16] += w[c] * w[c];
    for (const float lane : lanes) sum += lane;
    return sum * (1.0f / 256);
}

inline Row own_weights(const LatticeKind& kind, const float* w) {
    Row weights;
    for (int c = 0; c < 256; ++c) {
        const float squares = mean_square(w) + w[c] * w[c];
        weights.push_back(kind.rooted ? std::sqrt(squares) : squares);
    }
    return weights;
}

template <const LatticeKind& kind>
void weigh_lattice(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) {
    for (int64_t i = 0; i < rows * cols; ++i) {
        const float mean = mean_square(w + i / 256 * 256);
        weights[i] = importance[i % cols] * std::sqrt(kind.spread * mean + w[i] * w[i]);
    }
}

// Calls pack(stored span, fitted span) for every span.
template <typename Span, typename Pack>
void encode_lattice(const LatticeKind& kind, const float* w, const float* weights, int64_t spans, uint8_t* stored, Pack pack) {
    for (int64_t s = 0; s < spans; ++s) {
        const Row own = weights ? Row(weights + 256 * s, weights + 256 * (s + 1)) : own_weights(kind, w + 256 * s);
        std::memset(spans_at<Span>(stored) + s, 0, sizeof(Span));
        pack(spans_at<Span>(stored)[s], LatticeSpan(kind, w + 256 * s, own.data()));
    }
}

// Bit `first` and `count - 1` more of a string of bytes.
inline int bits_at(const uint8_t* bytes, int first, int count) {
    int found = 0;
    for (int i = 0; i < count; ++i) found |= (bytes[(first + i) / 8] >> (first + i) % 8 & 1) << i;
    return found;
}

// The number with its sign; of seven stored signs the eighth column has the one that makes them even.
inline float with_sign(float number, int signs, int column, bool seven) {
    const int last = seven ? __builtin_parity(static_cast<unsigned>(signs & 127)) : signs >> 7 & 1;
    return (column == 7 ? last : signs >> column & 1) ? -number : number;
}

}  // namespace
}  // namespace fewbits
