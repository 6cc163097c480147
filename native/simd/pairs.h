// Sixteen spans of 32 numbers: the ends of each, and their numbers as whole fractions of a span's extreme or range, two
// numbers of all spans side by side. Which two are together does not matter: sums of whole numbers have no order.
#pragma once
#include "batch.h"
#include "deviation.h"
#include "words.h"

namespace fewbits {
namespace {

constexpr int pairs = 16;  // of a span of 32

// The largest and the smallest number of each span.
struct Ends {
    Vec least, most;
};

// The number of the largest magnitude; of two, the positive one. 0 where there is none: spans may not reach both sides.
inline Vec extreme_of(Ends ends) {
    const Vec zero = Vec::all(0.0f), least = min(zero, ends.least), most = max(zero, ends.most);
    return select((zero - least) > most, least, most);
}

// Numbers are brought into columns when they are fractions already, half as long.
class FloatPairs {
  public:
    explicit FloatPairs(const float* w) : w_(w) {}

    Ends ends(int g) const {
        Vec least[Vec::lanes], most[Vec::lanes];
        for (int s = 0; s < Vec::lanes; ++s) {
            const float* x = w_ + 2 * pairs * (g + s);
            least[s] = most[s] = Vec::load(x);
            for (int e = Vec::lanes; e < 2 * pairs; e += Vec::lanes) {
                least[s] = min(least[s], Vec::load(x + e));
                most[s] = max(most[s], Vec::load(x + e));
            }
        }
        return {join_rows(least, [](Vec a, Vec b) { return min(a, b); }), join_rows(most, [](Vec a, Vec b) { return max(a, b); })};
    }

#if defined(__AVX512F__)
    Vec extreme(int g) const {
        const auto larger = [](Vec a, Vec b) { return Vec{_mm512_range_ps(a.v, b.v, 7)}; };  // of magnitude, with its sign
        Vec found[Vec::lanes];
        for (int s = 0; s < Vec::lanes; ++s) {
            const float* x = w_ + 2 * pairs * (g + s);
            found[s] = larger(Vec::load(x), Vec::load(x + Vec::lanes));
        }
        return join_rows(found, larger);
    }
#else
    Vec extreme(int g) const { return extreme_of(ends(g)); }
#endif

    // fraction = number * inv of the span.
    void divide(const float* inv) {
        each([&](int s, Vec x) { return x * Vec::all(inv[s]); });
    }
    // fraction = (number - low) * inv of the span.
    void divide(const float* inv, const float* low) {
        each([&](int s, Vec x) { return (x - Vec::all(low[s])) * Vec::all(inv[s]); });
    }
    Words fractions(int k, int g) const { return load_words(words_ + batch * k + g); }

  private:
    const float* w_;
    alignas(64) float words_[pairs * batch];

    template <typename Fraction>
    void each(Fraction fraction) {
        alignas(64) float rows[batch * pairs];
#pragma GCC unroll 4  // all at once, compilers take what spans have out of registers, lane by lane
        for (int s = 0; s < batch; ++s)
            for (int k = 0; k < pairs; k += Vec::lanes) {
                const float* x = w_ + 2 * (pairs * s + k);
                store_words(round_unordered(fraction(s, Vec::load(x)), fraction(s, Vec::load(x + Vec::lanes))), rows + pairs * s + k);
            }
        to_columns(rows, pairs, words_);
    }
};

// Of bfloat16 numbers: brought into columns as they lie, and widened in registers.
class BfloatPairs {
  public:
    explicit BfloatPairs(const Bfloat* w) { to_columns(reinterpret_cast<const float*>(w), pairs, x_); }

    Ends ends(int g) const {
        Vec least = low(0, g), most = least;
        for (int k = 0; k < pairs; ++k) {
            least = min(least, min(low(k, g), high(k, g)));
            most = max(most, max(low(k, g), high(k, g)));
        }
        return {least, most};
    }

    // Bits of positive numbers order as whole numbers do, those of negative ones the other way round, above them all
    // where no sign is seen.
    Vec extreme(int g) const {
        alignas(64) float found[2 * Vec::lanes];
        Words most = load_words(x_ + g), least = most;
        for (int k = 1; k < pairs; ++k) {
            most = max(most, load_words(x_ + batch * k + g));
            least = max_unsigned(least, load_words(x_ + batch * k + g));
        }
        store_words(most, found);
        store_words(least, found + Vec::lanes);
        const Vec p = Vec::load(found), n = Vec::load(found + Vec::lanes);
        return extreme_of({min(lower_half(n), upper_half(n)), max(lower_half(p), upper_half(p))});
    }

    void divide(const float* inv) { inv_ = inv; }
    void divide(const float* inv, const float* low) {
        inv_ = inv;
        low_ = low;
    }
    Words fractions(int k, int g) const {
        const Vec inv = Vec::load(inv_ + g);
        if (!low_) return round_words(low(k, g) * inv, high(k, g) * inv);
        const Vec start = Vec::load(low_ + g);
        return round_words((low(k, g) - start) * inv, (high(k, g) - start) * inv);
    }

  private:
    alignas(64) float x_[pairs * batch];
    const float *inv_ = nullptr, *low_ = nullptr;

    Vec low(int k, int g) const { return lower_half(Vec::load(x_ + batch * k + g)); }
    Vec high(int k, int g) const { return upper_half(Vec::load(x_ + batch * k + g)); }
};

inline FloatPairs pairs_of(const float* w) { return FloatPairs(w); }
inline BfloatPairs pairs_of(const Bfloat* w) { return BfloatPairs(w); }

}  // namespace
}  // namespace fewbits
