// Q4_1 and Q5_1, evenly weighted: sixteen spans of 32 side by side, searched in whole numbers. Numbers become fractions of
// the span's range; then codes and all sums of a least-squares line are exact, two elements to a lane.
#pragma once
#include "measured.h"
#include "pairs.h"
#include "steps.h"

namespace fewbits {
namespace {

template <typename SpanType, int top, const search::EvenSteps& steps, void (*decode_spans)(const uint8_t*, int64_t, float*)>
class EvenShifted {
  public:
    using Span = SpanType;
    static constexpr auto decode = decode_spans;

    template <typename Number>
    void fit(const Number* w) {
        auto x = pairs_of(w);
        alignas(64) float low[batch], range[batch], inv[batch];
        int narrow = 0;  // a bit for each span
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Ends ends = x.ends(g);
            max(abs(ends.least), abs(ends.most)).store(largest_ + g);
            // Which zero is the smallest depends on the machine; this makes it +0.
            const Vec zero = Vec::all(0.0f), least = ends.least + zero, own = (ends.most - least) + zero;
            const Mask regular = (own > Vec::all(search::smallest_extreme)) & (own < Vec::all(search::largest_range));
            narrow |= bits_of(max(abs(least) * Vec::all(search::narrow_of_low), Vec::all(search::narrow)) > own) << g;
            least.store(low + g);
            own.store(range + g);
            select(regular, Vec::all(steps.whole) / own, zero).store(inv + g);
        }
        x.divide(inv, low);
        for (int g = 0; g < batch; g += Vec::lanes) keep(best_line(x, g, Vec::load(low + g), Vec::load(range + g)), g);
        if (narrow) compare_plain(w, low, range);
        for (int g = 0; g < batch; g += Vec::lanes) {
            store_half(Vec::load(d_ + g), d_bits_ + g);
            store_half(Vec::load(m_ + g), m_bits_ + g);
        }
    }

    const float* largest() const { return largest_; }

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(d_[s]), m = Vec::all(m_[s]), inv = Vec::all(inv_[s]);
        const Rounding<0> rounding(0.0f, top);
        Vec nearest[span_vectors];
        for (int v = 0; v < span_vectors; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = rounding.raised((x - m) * inv);
            sums->add(v, x, plus_product(m, d, rounding.lowered(nearest[v])));  // the product is exact
        }
        span->d = d_bits_[s];
        span->m = m_bits_[s];
        if constexpr (top == 31)
            store_codes<true>(nearest, span->q, span->high);
        else
            store_codes<false>(nearest, span->q, nullptr);
    }

  private:
    alignas(64) float d_[batch], m_[batch], inv_[batch], largest_[batch];
    half_bits d_bits_[batch], m_bits_[batch];

    // A line as it is stored.
    struct Line {
        Vec d, m, inv;
        Line(Vec scale, Vec start) : d(stored(scale)), m(stored(start)), inv(inverse(d)) {}
        static Vec stored(Vec numbers) {
            const Vec limit = Vec::all(search::half_max);
            half_bits bits[Vec::lanes];
            store_half(clamp(numbers, Vec::all(0.0f) - limit, limit), bits);
            return load_half(bits);
        }
    };

    void keep(const Line& line, int g) {
        line.d.store(d_ + g);
        line.m.store(m_ + g);
        line.inv.store(inv_ + g);
    }

    // The best line.
    template <typename Pairs>
    static Line best_line(const Pairs& x, int g, Vec low, Vec range) {
        const Vec zero = Vec::all(0.0f), count = Vec::all(2.0f * pairs);
        Sums sf = no_sums(), sqf[steps.count], sqq[steps.count];
        for (int i = 0; i < steps.count; ++i) sqf[i] = sqq[i] = no_sums();
        const Words one = all_words(1), less = all_words(-32768);
#pragma GCC unroll 2
        for (int k = 0; k < pairs; ++k) {
            const Words fraction = x.fractions(k, g);
            sf = add_products(sf, fraction, one);
            for (int i = 0; i < steps.count; ++i) {
                const Words q = scaled(fraction, all_words(static_cast<int16_t>(steps.first + i)));
                sqf[i] = add_products(sqf[i], q, fraction);
                sqq[i] = add_products(sqq[i], q, q | less);  // q * (q - 2^15): both sums at once
            }
        }
        const Vec sum = to_floats(sf);
        // The largest covariance^2 / variance, compared without dividing.
        Vec above = zero, below = Vec::all(1.0f), codes = zero;
        for (int i = 0; i < steps.count; ++i) {
            Vec sll, sl;
            to_floats(sqq[i], &sll, &sl);
            const Vec covariance = count * to_floats(sqf[i]) - sum * sl, variance = count * sll - sl * sl;
            const Mask better = (covariance * covariance) * below > (above * above) * variance;
            above = select(better, covariance, above);
            below = select(better, variance, below);
            codes = select(better, sl, codes);
        }
        const Vec scale = above / below;
        const Vec unit = range * Vec::all(1.0f / steps.whole), start = (sum - scale * codes) * Vec::all(0.5f / pairs);
        return Line(scale * unit, low + start * unit);
    }

    // Where a range is narrow, the plain line if that is nearer. Rare.
    template <typename Number>
    void compare_plain(const Number* w, const float* low, const float* range) {
        alignas(64) float rows[span_columns * batch], x[span_columns * batch];
        for (int i = 0; i < span_columns * batch; i += Vec::lanes) load_numbers(w + i).store(rows + i);
        to_columns(rows, span_columns, x);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec least = Vec::load(low + g), own = Vec::load(range + g);
            const Line line(Vec::load(d_ + g), Vec::load(m_ + g)), plain(own / Vec::all(top), least);
            const Mask narrow = max(abs(least) * Vec::all(search::narrow_of_low), Vec::all(search::narrow)) > own;
            const Mask nearer = narrow & !(error(x + g, line) < error(x + g, plain));
            keep(Line(select(nearer, plain.d, line.d), select(nearer, plain.m, line.m)), g);
        }
    }

    static Vec error(const float* x, const Line& line) {
        Vec sum = Vec::all(0.0f);
        for (int e = 0; e < span_columns; ++e) {
            const Vec number = Vec::load(x + batch * e), code = clamp(round_even((number - line.m) * line.inv), Vec::all(0.0f), Vec::all(top));
            const Vec r = (line.d * code + line.m) - number;
            sum = sum + r * r;
        }
        return sum;
    }
};

}  // namespace
}  // namespace fewbits
