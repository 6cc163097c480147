// Error feedback over vectors of columns with a row in each lane.
#pragma once
#include "feeding.h"
#include "lattice_choice.h"
#include "shifted_lattice.h"

namespace fewbits {
namespace {

// A vector of every lane: number e of lane r at [batch * e + r], as the lattices' searches take them; what it became.
struct LaneVectors {
    alignas(64) float x[8 * batch], weight[8 * batch], value[8 * batch];
    int32_t code[lanes];
};

template <int width, int levels, int parts, bool even>
class SignedPoints {
  public:
    explicit SignedPoints(const PointLadder& ladder) : lattice_(*lattice(ladder.lattice)) {}

    void operator()(LaneVectors* v, Vec step, Vec) {
        for (int e = 0; e < columns; ++e) {
            const Vec magnitude = abs(Vec::load(v->x + batch * e));
            magnitude.store(magnitude_ + batch * e);
            (Vec::all(0.0f) - magnitude).store(opposite_ + batch * e);
        }
        for (int part = 0; part < parts; ++part) {
            const int at = batch * width * part;
            choices_[part].measure(lattice_, magnitude_ + at, v->weight + at, step);
            if (even) choices_[part].measure_flipped(lattice_, opposite_ + at, v->weight + at, step);
        }
        float steps[lanes];
        step.store(steps);
        for (int lane = 0; lane < lanes; ++lane) choose(v, lane, steps[lane]);
    }

  private:
    static constexpr int columns = width * parts;
    const Lattice& lattice_;
    LatticeChoice<width, levels> choices_[parts];
    alignas(64) float magnitude_[columns * batch], opposite_[columns * batch];

    void choose(LaneVectors* v, int lane, float step) const {
        int signs = 0, flip = -1, all = 1, code = 0;
        for (int e = 0; e < columns; ++e) signs |= static_cast<int>(float_to_bits(v->x[batch * e + lane]) >> 31) << e;
        if (even && __builtin_parity(static_cast<unsigned>(signs))) {
            const auto &first = choices_[0], &last = choices_[parts - 1];
            flip = parts == 1 || first.least_flipped[lane] + last.least[lane] <= first.least[lane] + last.least_flipped[lane] ? 0 : 1;
        }
        for (int part = 0; part < parts; ++part, all *= lattice_.shape.count) {
            int place = 0;
            const int point = part == flip ? choices_[part].flipped_point(lattice_, lane, &place) : choices_[part].point(lattice_, lane);
            if (part == flip) signs ^= 1 << (width * part + place);
            code += point * all;
            for (int e = 0; e < width; ++e)
                v->value[batch * (width * part + e) + lane] = static_cast<float>(lattice_.points[width * point + e]);
        }
        for (int e = 0; e < columns; ++e) {
            float& value = v->value[batch * e + lane];
            value = step * (signs >> e & 1 ? -value : value);
        }
        v->code[lane] = code + signs * all;
    }
};

class TernaryPoints {
  public:
    explicit TernaryPoints(const PointLadder& ladder) : both_(ladder.both), lattice_(*lattice("IQ1_S")), search_(lattice_) {}

    void operator()(LaneVectors* v, Vec step, Vec shift) {
        if (both_) shift = Vec::all(search::iq1_shift);
        int up[lanes], down[lanes];
        const Vec error = nearest(*v, step, shift, up);
        Vec lower = Vec::all(0.0f);
        if (both_) lower = select(nearest(*v, step, Vec::all(0.0f) - shift, down) < error, Vec::all(1.0f), lower);
        float lowers[lanes], steps[lanes], shifts[lanes];
        lower.store(lowers);
        step.store(steps);
        shift.store(shifts);
        for (int lane = 0; lane < lanes; ++lane) {
            const bool is_down = lowers[lane] > 0.0f;
            const int point = is_down ? down[lane] : up[lane];
            const float own = is_down ? -shifts[lane] : shifts[lane];
            v->code[lane] = is_down ? point + lattice_.shape.count : point;
            for (int e = 0; e < 8; ++e)
                v->value[batch * e + lane] = steps[lane] * (static_cast<float>(lattice_.points[8 * point + e]) + own);
        }
    }

  private:
    bool both_;
    const Lattice& lattice_;
    TernarySearch search_;

    // The nearest levels where they are a point, else the best of all points.
    Vec nearest(const LaneVectors& v, Vec step, Vec shift, int* points) {
        const TernaryVectors vectors{v.x, v.weight, batch, step, shift};
        Vec number;
        float digits[lanes], errors[lanes], searched[lanes];
        int found[lanes];
        vectors.nearest_levels(&number).store(errors);
        number.store(digits);
        bool missing = false;
        for (int lane = 0; lane < lanes; ++lane) {
            points[lane] = lattice_.of_halves[static_cast<int>(digits[lane])];
            missing |= points[lane] < 0;
        }
        if (!missing) return Vec::load(errors);
        search_.nearest(vectors, found).store(searched);
        for (int lane = 0; lane < lanes; ++lane) {
            if (points[lane] >= 0) continue;
            points[lane] = found[lane];
            errors[lane] = searched[lane];
        }
        return Vec::load(errors);
    }
};

template <typename Rounder>
class VectorBatch {
  public:
    VectorBatch(const PointLadder& ladder, const Vectors& vectors)
        : c_(vectors), width_(ladder.columns()), columns_(vectors.vectors * width_), round_(ladder), w_(size(columns_)),
          step_(size(c_.vectors)), shift_(step_), target_(size(columns_)), errors_(size(columns_)), codes_(size(c_.vectors)) {}

    // Rounds `present` rows from `row` on.
    void operator()(int64_t row, int64_t present) {
        gather(c_.w.from(row), present, columns_, &w_);
        gather(c_.step.from(row), present, c_.vectors, &step_);
        gather(c_.shift.from(row), present, c_.vectors, &shift_);
        gather(c_.target.from(row), present, columns_, &target_);
        for (int64_t v = 0; v < c_.vectors; ++v) take(v);
        scatter_to(c_.codes.from(row), present, c_.vectors, codes_);
        scatter_to(c_.errors.from(row), present, columns_, errors_);
        scatter_to(c_.target.from(row), present, columns_, target_);
    }

  private:
    const Vectors& c_;
    int width_;
    int64_t columns_;
    Rounder round_;
    LaneVectors own_;
    std::vector<float> w_, step_, shift_;
    std::vector<double> target_, errors_;
    std::vector<int32_t> codes_;

    static size_t size(int64_t count) { return static_cast<size_t>(lanes * count); }

    void take(int64_t v) {
        const int64_t k = v * width_;
        Doubles target[8];
        for (int e = 0; e < width_; ++e) target[e] = Doubles::load(&target_[size(k + e)]);
        for (int e = 0; e < width_; e += 4) feed<4>(errors_.data(), c_.upper, k, k + e, target + e);
        for (int e = 0; e < width_; ++e) {
            target[e].narrow().store(own_.x + batch * e);
            Vec::all(c_.weight[k + e]).store(own_.weight + batch * e);
        }
        round_(&own_, Vec::load(&step_[size(v)]), Vec::load(&shift_[size(v)]));
        std::memcpy(&codes_[size(v)], own_.code, sizeof own_.code);
        for (int e = 0; e < width_; ++e) {
            const Doubles value = Doubles::of(Vec::load(own_.value + batch * e));
            (Doubles::of(Vec::load(&w_[size(k + e)])) - value).store(&errors_[size(k + e)]);
            (target[e] - value).store(&target_[size(k + e)]);
        }
    }
};

template <typename Rounder>
void round_vector_rows(const PointLadder& ladder, const Vectors& vectors) {
    VectorBatch<Rounder> batch_of_rows(ladder, vectors);
    for (int64_t row = 0; row < vectors.rows; row += lanes)
        batch_of_rows(row, vectors.rows - row < lanes ? vectors.rows - row : lanes);
}

inline void round_vectors(const PointLadder& ladder, const Vectors& vectors) {
    if (ladder.ternary) return round_vector_rows<TernaryPoints>(ladder, vectors);
    if (ladder.width == 8 && ladder.even) return round_vector_rows<SignedPoints<8, 3, 1, true>>(ladder, vectors);
    if (ladder.width == 8) return round_vector_rows<SignedPoints<8, 3, 1, false>>(ladder, vectors);
    if (ladder.parts == 2) return round_vector_rows<SignedPoints<4, 8, 2, true>>(ladder, vectors);
    return round_vector_rows<SignedPoints<4, 8, 1, false>>(ladder, vectors);
}

}  // namespace
}  // namespace fewbits
