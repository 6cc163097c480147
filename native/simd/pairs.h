// Sixteen spans of 32 numbers brought into columns, elements 2k and 2k + 1 of all spans together.
#pragma once
#include "batch.h"
#include "deviation.h"
#include "words.h"

namespace fewbits {
namespace {

constexpr int pairs = 16;  // of a span of 32

// The largest and the smallest number of each span; 0 where there is none of that sign.
struct Ends {
    Vec least, most;
};

class FloatPairs {
  public:
    explicit FloatPairs(const float* w) { to_columns(w, 2 * pairs, x_); }
    Vec low(int k, int g) const { return Vec::load(x_ + batch * (2 * k) + g); }
    Vec high(int k, int g) const { return Vec::load(x_ + batch * (2 * k + 1) + g); }

    Ends ends(int g) const {
        const Vec zero = Vec::all(0.0f);
        Ends found{zero, zero};
        for (int e = 0; e < 2 * pairs; ++e) {
            found.least = min(found.least, Vec::load(x_ + batch * e + g));
            found.most = max(found.most, Vec::load(x_ + batch * e + g));
        }
        return found;
    }

  private:
    alignas(64) float x_[2 * pairs * batch];
};

// Of bfloat16 numbers: brought into columns as they lie, and widened in registers.
class BfloatPairs {
  public:
    explicit BfloatPairs(const Bfloat* w) { to_columns(reinterpret_cast<const float*>(w), pairs, x_); }
    Vec low(int k, int g) const { return lower_half(Vec::load(x_ + batch * k + g)); }
    Vec high(int k, int g) const { return upper_half(Vec::load(x_ + batch * k + g)); }

    // Bits of positive numbers order as whole numbers do, those of negative ones the other way round, above them all
    // where no sign is seen.
    Ends ends(int g) const {
        const Vec zero = Vec::all(0.0f);
        alignas(64) float found[2 * Vec::lanes];
        Words most = load_words(x_ + g), least = most;
        for (int k = 1; k < pairs; ++k) {
            most = max(most, load_words(x_ + batch * k + g));
            least = max_unsigned(least, load_words(x_ + batch * k + g));
        }
        store_words(most, found);
        store_words(least, found + Vec::lanes);
        const Vec p = Vec::load(found), n = Vec::load(found + Vec::lanes);
        return {min(zero, min(lower_half(n), upper_half(n))), max(zero, max(lower_half(p), upper_half(p)))};
    }

  private:
    alignas(64) float x_[pairs * batch];
};

inline FloatPairs pairs_of(const float* w) { return FloatPairs(w); }
inline BfloatPairs pairs_of(const Bfloat* w) { return BfloatPairs(w); }

}  // namespace
}  // namespace fewbits
