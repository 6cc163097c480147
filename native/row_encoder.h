// Rows of a checkpoint through a codec: widened where it wants that, weighted by importance, encoded and measured.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "arguments.h"

namespace fewbits {
namespace {

// Rows of a checkpoint as single precision: where they lie, or widened into a buffer.
class Widened {
  public:
    Widened(const KernelTable& table, Number kind, int64_t most) : table_(table), kind_(kind), most_(most) {}
    const float* operator()(const uint8_t* in, int64_t count) {
        const bool lies_well = reinterpret_cast<uintptr_t>(in) % alignof(float) == 0;
        if (kind_ == Number::f32 && lies_well) return reinterpret_cast<const float*>(in);
        buffer_.resize(static_cast<size_t>(most_));
        table_.widen(kind_, in, count, buffer_.data());
        return buffer_.data();
    }

  private:
    const KernelTable& table_;
    Number kind_;
    int64_t most_;
    std::vector<float> buffer_;
};

// The weights of squared errors of up to `together` rows, from the importance of their columns.
class Weights {
  public:
    Weights(const Codec& codec, const Floats& importance, int64_t cols, int64_t together)
        : codec_(codec), importance_(importance.data()), cols_(cols), weights_(static_cast<size_t>(cols * together)) {
        for (int64_t row = 0; row < together; ++row)
            std::copy(importance_, importance_ + cols, weights_.data() + row * cols);
    }
    const float* operator()(const float* w, int64_t rows) {
        if (codec_.weigh) codec_.weigh(w, importance_, rows, cols_, weights_.data());
        return weights_.data();
    }

  private:
    const Codec& codec_;
    const float* importance_;
    int64_t cols_;
    std::vector<float> weights_;
};

// Encodes rows and measures what comes back of each: in one pass where the codec can, and numbers are as it reads them.
class RowEncoder {
  public:
    RowEncoder(const KernelTable& table, const Codec& codec, Number kind, int64_t cols, const std::optional<Floats>& importance)
        : table_(table), codec_(codec), kind_(kind), cols_(cols), spans_(cols / codec.columns),
          by_weights_(importance && codec.weighted),
          at_once_(by_weights_ ? codec.encode_weighted_measured != nullptr : codec.encode_measured != nullptr),
          widened_(table, kind, cols * together()) {
        if (!at_once_) back_.resize(static_cast<size_t>(cols * together()));
        if (by_weights_) weights_.emplace(codec, *importance, cols, together());
    }

    // Several rows are encoded together, so that batches are full; rows never share parameters.
    int64_t together() const {
        const int64_t numbers = !at_once_ ? 1 << 11 : by_weights_ ? 1 << 14 : 1 << 16;
        return std::max<int64_t>(1, numbers / std::max<int64_t>(cols_, 1));
    }

    void operator()(const uint8_t* in, int64_t rows, uint8_t* out, Deviation* deviations) {
        if (at_once_) return encode_measured(in, rows, out, deviations);
        const float* w = widened_(in, rows * cols_);
        codec_.encode(w, weights_ ? (*weights_)(w, rows) : nullptr, rows * spans_, out);
        codec_.decode(out, rows * spans_, back_.data());
        for (int64_t r = 0; r < rows; ++r)
            deviations[r] = table_.deviation(kind_, in + r * cols_ * width_of(kind_), back_.data() + r * cols_, cols_);
    }

  private:
    void encode_measured(const uint8_t* in, int64_t rows, uint8_t* out, Deviation* deviations) {
        const float largest = encode_at_once(in, rows, out, deviations);
        const bool finite = std::all_of(deviations, deviations + rows, [](const Deviation& d) { return std::isfinite(d.squared); });
        for (int64_t r = 0; r < rows; ++r) deviations[r].largest = finite ? largest : INFINITY;
    }

    float encode_at_once(const uint8_t* in, int64_t rows, uint8_t* out, Deviation* deviations) {
        if (kind_ == Number::bf16 && !by_weights_) return codec_.encode_measured(kind_, in, rows, cols_, out, deviations);
        const float* w = widened_(in, rows * cols_);
        if (by_weights_) return codec_.encode_weighted_measured(w, (*weights_)(w, rows), rows, cols_, out, deviations);
        return codec_.encode_measured(Number::f32, w, rows, cols_, out, deviations);
    }

    const KernelTable& table_;
    const Codec& codec_;
    Number kind_;
    int64_t cols_, spans_;
    bool by_weights_, at_once_;
    Widened widened_;
    std::optional<Weights> weights_;
    std::vector<float> back_;
};

}  // namespace
}  // namespace fewbits
