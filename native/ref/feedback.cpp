// Error feedback the obvious way: one row after another, one column after another.
#include "fewbits/feedback.h"

#include <cmath>

#include "fewbits/families.h"
#include "feedback_vectors.h"

namespace fewbits {
namespace {

float limited(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

struct Rounded {
    float code, value;
};

Rounded look_up(const Ladder& s, float x, float scale) {
    const float y = s.times == 0.0f ? x * inverse(scale) : s.times * (scale != 0.0f ? x / scale : 0.0f * x);
    const bool turned = s.mirror && std::signbit(y);
    int at = 0;
    while (at + 1 < s.count && (turned ? -y : y) >= s.starts[at + 1]) ++at;
    return {s.codes[at] + static_cast<float>(turned ? s.mirror : 0), scale * (turned ? -s.numbers[at] : s.numbers[at])};
}

Rounded rounded(const Ladder& s, float x, float scale, float offset, float zero) {
    if (s.kind == LadderKind::table) return look_up(s, x, scale);
    if (s.kind == LadderKind::sign) {
        const bool kept = (x >= 0.0f) == (offset >= 0.0f);
        return {kept ? 1.0f : 0.0f, kept ? offset : -offset};
    }
    if (s.kind == LadderKind::moved) {
        const float steps = std::nearbyint(x * inverse(scale) + zero);
        const float code = limited(steps, static_cast<float>(s.bottom), static_cast<float>(s.top));
        return {code, scale * (code - zero)};
    }
    if (s.kind == LadderKind::twice) {
        const float steps = std::nearbyint(x * inverse(scale * offset));
        const float code = limited(steps, static_cast<float>(s.bottom) - zero, static_cast<float>(s.top) - zero) + zero;
        return {code, (scale * (code - zero)) * offset};
    }
    const float steps = std::nearbyint((x + offset) * inverse(scale));
    const float code = limited(steps, static_cast<float>(s.bottom) - zero, static_cast<float>(s.top) - zero) + zero;
    return {code, scale * (code - zero) - offset};
}

void round_columns(const Ladder& ladder, const Columns& c) {
    for (int64_t row = 0; row < c.rows; ++row)
        for (int64_t k = 0; k < c.columns; ++k) {
            double& target = c.target(row, k);
            for (int64_t i = 0; i < k; ++i) target += c.errors(row, i) * c.upper(i, k);
            const Rounded found = rounded(ladder, static_cast<float>(target), c.scale(row, k), c.offset(row, k), c.zero(row, k));
            c.codes(row, k) = static_cast<uint8_t>(found.code);
            c.errors(row, k) = static_cast<double>(c.w(row, k)) - static_cast<double>(found.value);
            target -= static_cast<double>(found.value);
        }
}

void add_product(const Product& p) {
    for (int64_t i = 0; i < p.rows; ++i)
        for (int64_t j = 0; j < p.columns; ++j)
            for (int64_t start = 0; start < p.terms; start += product_stretch) {
                double sum = 0.0;
                for (int64_t k = start; k < p.terms && k < start + product_stretch; ++k) sum = std::fma(p.left(i, k), p.right(k, j), sum);
                p.sum(i, j) = p.minus ? p.sum(i, j) - sum : p.sum(i, j) + sum;
            }
}

constexpr FeedbackKernels kernels_of_feedback = {round_columns, round_vectors, add_product};

}  // namespace

FEWBITS_FEEDBACK(feedback, kernels_of_feedback)

}  // namespace fewbits
