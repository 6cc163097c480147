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
        const auto x = pairs_of(w);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec low = min(x.low(0, g), x.high(0, g)), high = max(x.low(0, g), x.high(0, g));
            for (int k = 1; k < pairs; ++k) {
                low = min(low, min(x.low(k, g), x.high(k, g)));
                high = max(high, max(x.low(k, g), x.high(k, g)));
            }
            max(abs(low), abs(high)).store(largest_ + g);
            low = low + Vec::all(0.0f);  // which zero is the smallest depends on the machine; this makes it +0
            const Vec range = (high - low) + Vec::all(0.0f);
            Line line = best_line(x, g, low, range);
            const Mask narrow = max(abs(low) * Vec::all(search::narrow_of_low), Vec::all(search::narrow)) > range;
            if (any(narrow)) {
                const Line plain(range / Vec::all(top), low);
                const Mask nearer = narrow & !(error(x, g, line) < error(x, g, plain));
                line = Line(select(nearer, plain.d, line.d), select(nearer, plain.m, line.m));
            }
            line.d.store(d_ + g);
            line.m.store(m_ + g);
            line.inv.store(inv_ + g);
        }
        for (int g = 0; g < batch; g += Vec::lanes) {
            store_half(Vec::load(d_ + g), d_bits_ + g);
            store_half(Vec::load(m_ + g), m_bits_ + g);
        }
    }

    const float* largest() const { return largest_; }

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(d_[s]), m = Vec::all(m_[s]), inv = Vec::all(inv_[s]);
        const Rounding rounding(0.0f, top);
        Vec nearest[span_vectors];
        for (int v = 0; v < span_vectors; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = rounding.raised((x - m) * inv);
            sums->add(v, x, d * Rounding::lowered(nearest[v]) + m);
        }
        span->d = d_bits_[s];
        span->m = m_bits_[s];
        if constexpr (top == 31)
            store_codes<0, true>(nearest, span->q, span->high);
        else
            store_codes<0, false>(nearest, span->q, nullptr);
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

    template <typename Pairs>
    static Line best_line(const Pairs& x, int g, Vec low, Vec range) {
        const Vec zero = Vec::all(0.0f), count = Vec::all(2.0f * pairs);
        const Mask regular = (range > Vec::all(search::smallest_extreme)) & (range < Vec::all(search::largest_range));
        const Vec inv = select(regular, Vec::all(steps.whole) / range, zero);
        Sums sf = no_sums(), sqf[steps.count], sqq[steps.count];
        for (int i = 0; i < steps.count; ++i) sqf[i] = sqq[i] = no_sums();
        const Words one = all_words(1), less = all_words(-32768);
        for (int k = 0; k < pairs; ++k) {
            const Words fraction = round_words((x.low(k, g) - low) * inv, (x.high(k, g) - low) * inv);
            sf = add_products(sf, fraction, one);
            for (int i = 0; i < steps.count; ++i) {
                const Words q = scaled(fraction, all_words(static_cast<int16_t>(steps.first + i)));
                sqf[i] = add_products(sqf[i], q, fraction);
                sqq[i] = add_products(sqq[i], q, q | less);  // q * (q - 2^15): both sums at once
            }
        }
        const Vec sum = to_floats(sf);
        Vec best = zero, scale = zero, codes = zero;
        for (int i = 0; i < steps.count; ++i) {
            Vec sll, sl;
            to_floats(sqq[i], &sll, &sl);
            const Vec covariance = count * to_floats(sqf[i]) - sum * sl, variance = count * sll - sl * sl;
            const Vec candidate = covariance * inverse(variance), gain = candidate * covariance;
            const Mask better = gain > best;
            best = select(better, gain, best);
            scale = select(better, candidate, scale);
            codes = select(better, sl, codes);
        }
        const Vec unit = range * Vec::all(1.0f / steps.whole), start = (sum - scale * codes) * Vec::all(0.5f / pairs);
        return Line(scale * unit, low + start * unit);
    }

    template <typename Pairs>
    static Vec error(const Pairs& x, int g, const Line& line) {
        const auto square = [&](Vec number) {
            const Vec code = clamp(round_even((number - line.m) * line.inv), Vec::all(0.0f), Vec::all(top));
            const Vec r = (line.d * code + line.m) - number;
            return r * r;
        };
        Vec sum = Vec::all(0.0f);
        for (int k = 0; k < pairs; ++k) sum = (sum + square(x.low(k, g))) + square(x.high(k, g));
        return sum;
    }
};

}  // namespace
}  // namespace fewbits
