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
        const auto x = pairs_of(w);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_scale(x, g), Vec::all(0.0f) - limit, limit), d_bits_ + g);
            const Vec d = load_half(d_bits_ + g);
            d.store(d_ + g);
            inverse(d).store(inv_ + g);
        }
    }

    const float* largest() const { return largest_; }

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(d_[s]), inv = Vec::all(inv_[s]);
        const Rounding rounding(-top, top - 1);
        Vec nearest[span_vectors];
        for (int v = 0; v < span_vectors; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = rounding.raised(x * inv);
            sums->add(v, x, d * Rounding::lowered(nearest[v]));
        }
        span->d = d_bits_[s];
        if constexpr (top == 16)
            store_codes<16, true>(nearest, span->q, span->high);
        else
            store_codes<8, false>(nearest, span->q, nullptr);
    }

  private:
    alignas(64) float d_[batch], inv_[batch], largest_[batch];
    half_bits d_bits_[batch];

    template <typename Pairs>
    Vec best_scale(const Pairs& x, int g) {
        const Vec zero = Vec::all(0.0f);
        const Ends ends = x.ends(g);
        const Vec extreme = select((zero - ends.least) > ends.most, ends.least, ends.most);
        abs(extreme).store(largest_ + g);
        const Vec inv = select(abs(extreme) > Vec::all(search::smallest_extreme), Vec::all(-steps.whole) / extreme, zero);
        Sums sqx[steps.count], sqq[steps.count];
        for (int i = 0; i < steps.count; ++i) sqx[i] = sqq[i] = no_sums();
        const Words highest = all_words(top - 1);
        for (int k = 0; k < pairs; ++k) {
            const Words fraction = round_words(x.low(k, g) * inv, x.high(k, g) * inv);
            for (int i = 0; i < steps.count; ++i) {
                const Words q = min(scaled(fraction, all_words(static_cast<int16_t>(steps.first + i))), highest);
                sqx[i] = add_products(sqx[i], q, fraction);
                sqq[i] = add_products(sqq[i], q, q);
            }
        }
        Vec best = zero, scale = zero;
        for (int i = 0; i < steps.count; ++i) {
            const Vec sum = to_floats(sqx[i]), candidate = sum * inverse(to_floats(sqq[i])), gain = candidate * sum;
            const Mask better = gain > best;
            best = select(better, gain, best);
            scale = select(better, candidate, scale);
        }
        return scale * (extreme * Vec::all(-1.0f / steps.whole)) + zero;  // never -0
    }
};

}  // namespace
}  // namespace fewbits
