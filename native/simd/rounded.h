// Q8_0: the largest magnitude of a span becomes 127, and all its numbers the nearest whole ones. Sixteen spans at once.
#pragma once
#include "lanes.h"
#include "measured.h"
#include "steps.h"
#include "words.h"

namespace fewbits {
namespace {

template <typename SpanType, void (*decode_spans)(const uint8_t*, int64_t, float*)>
class RoundedSpans {
  public:
    using Span = SpanType;
    static constexpr auto decode = decode_spans;

    template <typename Number>
    void fit(const Number* w) {
        LaneSums most;
        for (int s = 0; s < batch; ++s)
            for (int v = 0; v < vectors; ++v) larger_half(w + span_columns * s, v).store(most.of(s) + Vec::lanes * v);
        most.largest(largest_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            store_half(min(Vec::load(largest_ + g) / Vec::all(127.0f), Vec::all(search::half_max)), d_bits_ + g);
            const Vec d = load_half(d_bits_ + g);
            d.store(d_ + g);
            inverse(d).store(inv_ + g);
        }
    }

    const float* largest() const { return largest_; }

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(d_[s]), inv = Vec::all(inv_[s]);
        const Rounding<0> rounding(-127.0f, 127.0f);
        Vec nearest[span_vectors];
        for (int v = 0; v < span_vectors; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = rounding.raised(x * inv);
            sums->add_rest(v, x, less_product(x, d, rounding.lowered(nearest[v])));  // the product is exact
        }
        span->d = d_bits_[s];
        store_signed(nearest, span->q);
    }

  private:
    // The larger magnitudes of half the numbers of a span and of the others, vector v.
    static Vec larger_half(const float* x, int v) {
        return max(abs(Vec::load(x + Vec::lanes * v)), abs(Vec::load(x + batch + Vec::lanes * v)));
    }
    static Vec larger_half(const Bfloat* x, int v) {
        const Vec both = Vec::load(reinterpret_cast<const float*>(x) + Vec::lanes * v);
        return max(abs(lower_half(both)), abs(upper_half(both)));
    }

    alignas(64) float d_[batch], inv_[batch], largest_[batch];
    half_bits d_bits_[batch];
};

}  // namespace
}  // namespace fewbits
