// Error feedback with a row in each lane. Columns are taken four at a time: what the columns before them left to do is
// summed for all four with each error read once, then they are rounded one after another.
#include "fewbits/feedback.h"

#include <vector>

#include "double_products.h"
#include "elements.h"
#include "feeding.h"
#include "feedback_vectors.h"
#include "fewbits/families.h"
#include "table256.h"

namespace fewbits {
namespace {

struct Rounded {
    Vec code, value;
};

struct EvenSteps {
    explicit EvenSteps(const Ladder& s) : bottom(Vec::all(static_cast<float>(s.bottom))), top(Vec::all(static_cast<float>(s.top))) {}
    Vec bottom, top;
    Rounded operator()(Vec x, Vec scale, Vec offset, Vec zero) const {
        const Vec steps = round_even((x + offset) * inverse(scale));
        const Vec code = clamp(steps, bottom - zero, top - zero) + zero;
        return {code, scale * (code - zero) - offset};
    }
};

struct MovedSteps {
    explicit MovedSteps(const Ladder& s) : bottom(Vec::all(static_cast<float>(s.bottom))), top(Vec::all(static_cast<float>(s.top))) {}
    Vec bottom, top;
    Rounded operator()(Vec x, Vec scale, Vec, Vec zero) const {
        const Vec code = clamp(round_even(x * inverse(scale) + zero), bottom, top);
        return {code, scale * (code - zero)};
    }
};

struct TwiceSteps {
    explicit TwiceSteps(const Ladder& s) : bottom(Vec::all(static_cast<float>(s.bottom))), top(Vec::all(static_cast<float>(s.top))) {}
    Vec bottom, top;
    Rounded operator()(Vec x, Vec scale, Vec unit, Vec zero) const {
        const Vec code = clamp(round_even(x * inverse(scale * unit)), bottom - zero, top - zero) + zero;
        return {code, (scale * (code - zero)) * unit};
    }
};

struct SignSteps {
    explicit SignSteps(const Ladder&) {}
    Rounded operator()(Vec x, Vec, Vec offset, Vec) const {
        const Vec none = Vec::all(0.0f), one = Vec::all(1.0f);
        const Vec positive = select(x < none, none, one), upwards = select(offset < none, none, one);
        const Mask other = abs(positive - upwards) > none;
        return {select(other, none, one), select(other, none - offset, offset)};
    }
};

struct TableSteps {
    explicit TableSteps(const Ladder& s) : ladder(s), times(Vec::all(s.times)), mirror(Vec::all(static_cast<float>(s.mirror))) {
        while (2 * first < s.count) first *= 2;
    }
    const Ladder& ladder;
    Vec times, mirror;
    int first = 1;  // half of the places, rounded up to a power of two
    Rounded operator()(Vec x, Vec scale, Vec, Vec) const {
        const Vec none = Vec::all(0.0f);
        const Mask some = abs(scale) > none;
        const Vec y = ladder.times == 0.0f ? x * inverse(scale) : times * select(some, x / scale, none * x);
        const Vec looked_up = ladder.mirror ? abs(y) : y;
        Places at = no_places();
        for (int step = first; step; step /= 2) at = moved(at, step, looked_up, ladder.starts);
        const Vec code = look_up(ladder.codes, at), number = look_up(ladder.numbers, at);
        if (!ladder.mirror) return {code, scale * number};
        const Mask turned = with_sign(Vec::all(1.0f), y) < none;
        return {select(turned, code + mirror, code), scale * with_sign(number, y)};
    }
};

constexpr int together = 4;

template <typename Rounder>
class Batch {
  public:
    Batch(const Ladder& ladder, const Columns& columns)
        : c_(columns), round_(ladder), w_(size()), scale_(size()), offset_(size()), zero_(size()), target_(size()),
          errors_(size()), codes_(size()) {}

    // Rounds `present` rows from `row` on.
    void operator()(int64_t row, int64_t present) {
        gather(c_.w.from(row), present, c_.columns, &w_);
        gather(c_.scale.from(row), present, c_.columns, &scale_);
        gather(c_.offset.from(row), present, c_.columns, &offset_);
        gather(c_.zero.from(row), present, c_.columns, &zero_);
        gather(c_.target.from(row), present, c_.columns, &target_);
        const int64_t whole = c_.columns / together * together;
        for (int64_t k = 0; k < whole; k += together) take<together>(k);
        for (int64_t k = whole; k < c_.columns; ++k) take<1>(k);
        scatter(row, present);
    }

  private:
    const Columns& c_;
    Rounder round_;
    std::vector<float> w_, scale_, offset_, zero_;
    std::vector<double> target_, errors_;
    std::vector<uint8_t> codes_;

    size_t size() const { return static_cast<size_t>(lanes * c_.columns); }

    template <int count>
    void take(int64_t k) {
        Doubles target[count];
        for (int t = 0; t < count; ++t) target[t] = Doubles::load(&target_[at(k + t)]);
        feed<count>(errors_.data(), c_.upper, k, k, target);
        for (int t = 0; t < count; ++t) {
            for (int i = 0; i < t; ++i)
                target[t] = target[t] + Doubles::load(&errors_[at(k + i)]) * Doubles::all(c_.upper(k + i, k + t));
            round(k + t, target[t]);
        }
    }

    void round(int64_t k, Doubles target) {
        const size_t here = at(k);
        const Rounded found = round_(target.narrow(), Vec::load(&scale_[here]), Vec::load(&offset_[here]), Vec::load(&zero_[here]));
        const Doubles value = Doubles::of(found.value);
        found.code.store_codes(&codes_[here]);
        (Doubles::of(Vec::load(&w_[here])) - value).store(&errors_[here]);
        (target - value).store(&target_[here]);
    }

    void scatter(int64_t row, int64_t present) {
        scatter_to(c_.codes.from(row), present, c_.columns, codes_);
        scatter_to(c_.errors.from(row), present, c_.columns, errors_);
        scatter_to(c_.target.from(row), present, c_.columns, target_);
    }

    static size_t at(int64_t k) { return static_cast<size_t>(lanes * k); }
};

template <typename Rounder>
void round_rows(const Ladder& ladder, const Columns& columns) {
    Batch<Rounder> batch(ladder, columns);
    for (int64_t row = 0; row < columns.rows; row += lanes) batch(row, columns.rows - row < lanes ? columns.rows - row : lanes);
}

void round_columns(const Ladder& ladder, const Columns& columns) {
    if (ladder.kind == LadderKind::even) round_rows<EvenSteps>(ladder, columns);
    if (ladder.kind == LadderKind::table) round_rows<TableSteps>(ladder, columns);
    if (ladder.kind == LadderKind::sign) round_rows<SignSteps>(ladder, columns);
    if (ladder.kind == LadderKind::moved) round_rows<MovedSteps>(ladder, columns);
    if (ladder.kind == LadderKind::twice) round_rows<TwiceSteps>(ladder, columns);
}

constexpr FeedbackKernels kernels_of_feedback = {round_columns, round_vectors, add_product};

}  // namespace

FEWBITS_FEEDBACK(feedback, kernels_of_feedback)

}  // namespace fewbits
