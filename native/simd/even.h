// Q4_0 and Q5_0, evenly weighted: sixteen spans of 32 side by side, searched in whole numbers. Numbers become sixteen-bit
// fractions of the span's largest; then codes and both sums of least squares are exact, two elements to a lane.
#pragma once
#include "measured.h"
#include "pairs.h"
#include "steps.h"

namespace fewbits {
namespace {

template <typename SpanType, int top, const search::EvenSteps& steps, void (*decode_spans)(const uint8_t*, int64_t, float*)>
class EvenSymmetric {
  public:
    using Span = SpanType;
    static constexpr auto decode = decode_spans;

    template <typename Number>
    void fit(const Number* w) {
        auto x = pairs_of(w);
        alignas(64) float extreme[batch], inv[batch];
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec own = x.extreme(g), magnitude = abs(own), one_over = Vec::all(-steps.whole) / own;
            own.store(extreme + g);
            magnitude.store(largest_ + g);
            select(magnitude > Vec::all(search::smallest_extreme), one_over, Vec::all(0.0f)).store(inv + g);
        }
        x.divide(inv);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max), scale = best_scale(x, g) * unit(Vec::load(extreme + g));
            store_half(clamp(scale + Vec::all(0.0f), Vec::all(0.0f) - limit, limit), d_bits_ + g);  // never -0
            const Vec d = load_half(d_bits_ + g);
            d.store(d_ + g);
            inverse(d).store(inv_ + g);
        }
    }

    const float* largest() const { return largest_; }

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(d_[s]), inv = Vec::all(inv_[s]);
        const Rounding<top> rounding(-top, top - 1);
        Vec nearest[span_vectors];
        for (int v = 0; v < span_vectors; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = rounding.raised(x * inv);
            sums->add_rest(v, x, less_product(x, d, rounding.lowered(nearest[v])));  // the product is exact
        }
        span->d = d_bits_[s];
        if constexpr (top == 16)
            store_codes<true>(nearest, span->q, span->high);
        else
            store_codes<false>(nearest, span->q, nullptr);
    }

  private:
    alignas(64) float d_[batch], inv_[batch], largest_[batch];
    half_bits d_bits_[batch];

    static Vec unit(Vec extreme) { return extreme * Vec::all(-1.0f / steps.whole); }

    // The best scale in units of a fraction.
    template <typename Pairs>
    static Vec best_scale(const Pairs& x, int g) {
        Sums sqx[steps.count], sqq[steps.count];
        for (int i = 0; i < steps.count; ++i) sqx[i] = sqq[i] = no_sums();
        const Words highest = all_words(top - 1);
#pragma GCC unroll 4
        for (int k = 0; k < pairs; ++k) {
            const Words fraction = x.fractions(k, g);
            for (int i = 0; i < steps.count; ++i) {
                Words q = scaled(fraction, all_words(static_cast<int16_t>(steps.first + i)));
                if (!steps.below(i, top - 0.5f)) q = min(q, highest);
                sqx[i] = add_products(sqx[i], q, fraction);
                sqq[i] = add_products(sqq[i], q, q);
            }
        }
        // The largest sqx^2 / sqq, compared without dividing.
        Vec sum = Vec::all(0.0f), squares = Vec::all(1.0f);
        for (int i = 0; i < steps.count; ++i) {
            const Vec own = to_floats(sqx[i]), own_squares = to_floats(sqq[i]);
            const Mask better = (own * own) * squares > (sum * sum) * own_squares;
            sum = select(better, own, sum);
            squares = select(better, own_squares, squares);
        }
        return sum / squares;
    }
};

}  // namespace
}  // namespace fewbits
