#include "layer.h"

#include <algorithm>
#include <memory>

#include "fewbits/engine.h"
#include "machine.h"
#include "team.h"

namespace fewbits {
namespace {

constexpr int64_t unit_rows = 64;         // whole pairs of panels
constexpr int64_t most_tokens = 256;      // rounded at a time
constexpr int64_t few_products = 1 << 20;  // are not worth waking a thread for

int64_t units_of(int64_t rows) { return (rows + unit_rows - 1) / unit_rows; }

struct Result {
    const float* bias;
    float* out;
    int64_t stride;
};

// Sums of one unit, scratch to results.
struct UnitSums {
    const float* whole;  // (rows of Rounded, unit_rows)
    const float* rest;   // of the upper bytes by the rest's table, or nullptr
};

void write_unit(Inputs how, const UnitSums& sums, const Rounded& x, const float* zeros, const float* row_sums, int64_t first,
                int64_t present, const Result& to) {
    const int64_t tokens = x.tokens / rows_per_token(how);
    for (int64_t t = 0; t < tokens; ++t) {
        float* out = to.out + t * to.stride + first;
        const float *upper = sums.whole + t * unit_rows, *lower = sums.whole + (tokens + t) * unit_rows;
        const float scale = x.scales[t * (x.cols / 32)];
        for (int64_t r = 0; r < present; ++r) {
            float y = upper[r];
            if (how == Inputs::group16) {
                y = upper_step * y + lower[r];
                if (sums.rest) y += upper_step / rest_steps * sums.rest[t * unit_rows + r];
            }
            if (how == Inputs::token8_zero) y -= scale * zeros[t] * row_sums[first + r];
            out[r] = to.bias ? y + to.bias[first + r] : y;
        }
    }
}

// Rounded rows and what is known of them, without anything written at first.
struct Room {
    std::unique_ptr<uint8_t[]> bytes;
    std::unique_ptr<float[]> zeros;
    Rounded rounded;
    Room(Inputs how, int64_t tokens, int64_t cols)
        : bytes(new uint8_t[static_cast<size_t>(Rounded::bytes(rows_per_token(how) * tokens, cols))]),
          zeros(new float[static_cast<size_t>(tokens)]),
          rounded(Rounded::in(bytes.get(), rows_per_token(how) * tokens, cols)) {}
};

int threads_for(int threads, int64_t tokens, int64_t rows, int64_t cols) {
    return tokens * rows * cols < few_products || units_of(rows) == 1 ? 1 : threads;
}

}  // namespace

PackedLayer::PackedLayer(const KernelTable& table, const PackedType& type, int64_t rows, int64_t cols, const uint8_t* stored, int threads)
    : kernels_(engine_kernels_of(table)), type_(type), rest_(type.rest ? packed_type_of(kernels_, type.rest) : nullptr),
      run_(type.run ? type.run(stored, rows, cols) : 1), rows_(rows),
      cols_(cols), panel_bytes_(type.panel_bytes(cols)),
      panels_(static_cast<size_t>((rows + type.rows - 1) / type.rows * panel_bytes_)),
      row_sums_(static_cast<size_t>(rows) * sizeof(float)) {
    const int64_t row_bytes = cols / type.span * type.span_bytes, count = (rows + type.rows - 1) / type.rows;
    run_in_team(threads_for(threads, 1, rows, cols), [&](ThreadPool& pool, int thread) {
        const Share share = share_of(count, thread, pool.count());
        for (int64_t i = share.begin; i < share.end; ++i) {
            const int64_t row = i * type.rows;
            type.pack(stored + row * row_bytes, row_bytes, std::min<int64_t>(type.rows, rows - row), cols, panels_.data() + i * panel_bytes_);
        }
    });
    add_rows();
}

// What a zero point of 1 takes from every output.
void PackedLayer::add_rows() {
    Room room(Inputs::token8, 1, cols_);
    Rounded& ones = room.rounded;
    std::fill_n(ones.codes, cols_, int8_t{1});
    std::fill_n(ones.scales, cols_ / 32, 1.0f);
    std::fill_n(ones.sums, cols_ / 16, 16);
    std::fill_n(ones.pairs, cols_ / 32, 32);
    std::fill_n(ones.low_sums, cols_ / 16, 16.0f);
    std::fill_n(ones.low_pairs, cols_ / 32, 32.0f);
    type_.multiply(panels_.data(), rows_, ones, reinterpret_cast<float*>(row_sums_.data()), rows_);
}

void PackedLayer::multiply(Inputs how, const float* x, int64_t tokens, const float* bias, float* out, int threads) const {
    for (int64_t first = 0; first < tokens; first += most_tokens) {
        const int64_t count = std::min(most_tokens, tokens - first);
        multiply_some(how, x + first * cols_, count, bias, out + first * rows_, threads_for(threads, count, rows_, cols_));
    }
}

void PackedLayer::multiply_some(Inputs how, const float* x, int64_t tokens, const float* bias, float* out, int threads) const {
    Room room(how, tokens, cols_);
    if (how == Inputs::token8 || how == Inputs::token8_zero) room.rounded.run = run_;
    const PackedType* rest = how == Inputs::group16 ? rest_ : nullptr;
    const int64_t sums = room.rounded.tokens * unit_rows;
    run_in_team(threads, [&](ThreadPool& pool, int thread) {
        const std::unique_ptr<float[]> scratch(new float[static_cast<size_t>(rest ? 2 * sums : sums)]);
        const Share share = share_of(tokens, thread, pool.count());
        kernels_.round_inputs(how, x, cols_, share.begin, share.end, room.rounded, room.zeros.get());
        pool.barrier();
        for (int64_t unit = pool.take(); unit < units_of(rows_); unit = pool.take()) {
            const int64_t first = unit * unit_rows, present = std::min(unit_rows, rows_ - first);
            const uint8_t* panels = panels_.data() + first / type_.rows * panel_bytes_;
            if (rest && tokens == 1 && type_.multiply_with_rest) {
                type_.multiply_with_rest(panels, present, room.rounded, scratch.get(), unit_rows);
            } else {
                type_.multiply(panels, present, room.rounded, scratch.get(), unit_rows);
                if (rest) rest->multiply(panels, present, room.rounded.token(0, tokens), scratch.get() + sums, unit_rows);
            }
            write_unit(how, {scratch.get(), rest ? scratch.get() + sums : nullptr}, room.rounded, room.zeros.get(),
                       reinterpret_cast<const float*>(row_sums_.data()), first, present, {bias, out, rows_});
        }
    });
}

void multiply_plain_rows(const EngineKernels& kernels, Number kind, const uint8_t* w, int64_t rows, int64_t cols, const float* x,
                         int64_t tokens, const float* bias, float* out, int threads) {
    const int64_t row_bytes = cols * (kind == Number::f32 ? 4 : 2);
    run_in_team(threads_for(threads, tokens, rows, cols), [&](ThreadPool& pool, int thread) {
        (void)thread;
        for (int64_t unit = pool.take(); unit < units_of(rows); unit = pool.take()) {
            const int64_t first = unit * unit_rows, present = std::min(unit_rows, rows - first);
            kernels.multiply(kind, w + first * row_bytes, present, cols, x, cols, tokens, out + first, rows);
            for (int64_t t = 0; bias && t < tokens; ++t)
                for (int64_t r = first; r < first + present; ++r) out[t * rows + r] += bias[r];
        }
    });
}

}  // namespace fewbits
