// Rows encoded and measured in one pass, for formats with 32 numbers to a span, or more. Sixteen spans are fitted side by side;
// then span after span is coded where it lies, and what comes back of it is summed up at once, in the order that
// kernels.h states.
#pragma once
#include "deviation.h"
#include "spans.h"

namespace fewbits {
namespace {

constexpr int span_columns = 32, span_vectors = span_columns / Vec::lanes;

// Sums of the tile in work.
struct SpanSums {
    Vec errors[vectors], squares[vectors];
    SpanSums() {
        for (int v = 0; v < vectors; ++v) errors[v] = squares[v] = Vec::all(0.0f);
    }
    // Vector v of a span: its numbers, and what comes back of them.
    void add(int v, Vec x, Vec back) {
        add_rest(v, x, x - back);
    }
    // The same by what is left of the numbers.
    void add_rest(int v, Vec x, Vec r) {
        errors[v % vectors] = plus_product(errors[v % vectors], r, r);
        squares[v % vectors] = plus_product(squares[v % vectors], x, x);
    }
};

// `Fit` finds the parameters of sixteen spans (fit, of numbers or of numbers and weights), codes one of them (code), and
// knows the largest magnitude of each.
template <typename Fit, typename Number, int columns>
class MeasuredRows {
    using Span = typename Fit::Span;
    static constexpr int tile_spans = tile / columns;
    // The batch that is fitted next lies two batches behind the one that is coded.
    static constexpr int64_t next = 2 * batch * columns * static_cast<int64_t>(sizeof(Number)), distance = next > ahead ? next : ahead;

  public:
    MeasuredRows(const Number* w, int64_t cols, uint8_t* stored, Deviation* rows)
        : w_(w), spans_(reinterpret_cast<Span*>(stored)), row_spans_(cols / columns), next_row_(rows) {}

    // A batch is coded after the next one was fitted: so the long chain of operations at the end of a fit is not waited for.
    // Returns the largest magnitude.
    float encode(int64_t spans) {
        for_batches<columns, batch>(w_, spans, [&](int64_t first, int present, const Number* numbers) {
            next_fit()->fit(numbers);
            follow(first, present);
        });
        return finish();
    }
    float encode(const float* weights, int64_t spans) {
        for_batches<columns, batch>(w_, weights, spans, [&](int64_t first, int present, const float* x, const float* given) {
            next_fit()->fit(x, given);
            follow(first, present);
        });
        return finish();
    }

  private:
    struct Coming {
        int64_t first;
        int present;
        Fit* fit;
        int not_small, too_large;  // a bit for each span: what its largest magnitude is
    };

    Fit* next_fit() { return last_.fit == fits_ ? fits_ + 1 : fits_; }

    // A batch was fitted: codes the one before.
    void follow(int64_t first, int present) {
        Coming next{first, present, next_fit(), 0, 0};
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec largest = Vec::load(next.fit->largest() + g);
            next.not_small |= bits_of(largest > Vec::all(squares_from)) << g;
            next.too_large |= bits_of(largest > Vec::all(squares_to)) << g;
            largest_ = max(largest_, largest);
        }
        code(last_);
        last_ = next;
    }

    float finish() {
        code(last_);
        alignas(64) float found[Vec::lanes], largest = 0.0f;
        largest_.store(found);
        for (float lane : found) largest = lane > largest ? lane : largest;
        return largest;
    }

    const Number* w_;
    Span* spans_;
    int64_t row_spans_, of_row_ = 0;  // spans of a row, and how many of them are done
    Deviation* next_row_;
    Fit fits_[2];
    Coming last_{0, 0, fits_, 0, 0};
    SpanSums sums_;
    Lanes lanes_;
    Vec largest_ = Vec::all(0.0f);
    bool vanishing_ = true, overflowing_ = false;  // squares of the tile in work, in single precision

    void code(const Coming& spans) {
        for (int s = 0; s < spans.present;) s += code_in_tile(spans, s);
    }

    // Codes spans from s on, as many as lie in one tile; returns how many.
    int code_in_tile(const Coming& spans, int s) {
        const Fit& fit = *spans.fit;
        const int64_t first = spans.first;
        const int64_t row_end = row_spans_ - of_row_, tile_end = tile_spans - of_row_ % tile_spans;
        const int64_t left = row_end < tile_end ? row_end : tile_end;
        const int count = static_cast<int>(left < spans.present - s ? left : spans.present - s);
        SpanSums sums;
        if (of_row_ % tile_spans) sums = sums_;
        const int own = (1 << (s + count)) - (1 << s);
        vanishing_ = vanishing_ && !(spans.not_small & own);
        overflowing_ = overflowing_ || (spans.too_large & own);
        const Number* x = w_ + (first + s) * columns;
        Span* span = spans_ + first + s;
        for (int i = s; i < s + count; ++i, x += columns, ++span) {
            fit.code(x, i, &sums, span);
            for (size_t line = 0; line < columns * sizeof(Number); line += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(x) + distance + static_cast<int64_t>(line));
        }
        of_row_ += count;
        if (count == left)
            close_tile(sums, first + s + count);
        else
            sums_ = sums;
        if (of_row_ == row_spans_) close_row();
        return count;
    }

    void close_tile(const SpanSums& sums, int64_t end) {
        if (!vanishing_ && !overflowing_)
            for (int v = 0; v < vectors; ++v) {
                add_widened(sums.errors[v], lanes_.errors + Vec::lanes * v);
                add_widened(sums.squares[v], lanes_.squares + Vec::lanes * v);
            }
        else
            add_in_double(end);
        vanishing_ = true;
        overflowing_ = false;
    }

    // The tile that ends before span `end` once more: its squares do not fit single precision.
    void add_in_double(int64_t end) {
        const int64_t count = (of_row_ - 1) % tile_spans + 1, first = end - count;
        Number numbers[tile] = {};
        float back[tile] = {};
        std::memcpy(numbers, w_ + first * columns, static_cast<size_t>(count) * columns * sizeof(Number));
        Fit::decode(reinterpret_cast<const uint8_t*>(spans_ + first), count, back);
        add_tile_in_double(numbers, back, &lanes_);
    }

    void close_row() {
        *next_row_++ = total(lanes_);
        lanes_ = Lanes();
        of_row_ = 0;
    }
};

// Encodes rows with `Fit`, which has to offer both kinds of numbers.
template <typename Fit, int columns = span_columns>
float encode_measured(Number kind, const void* numbers, int64_t rows, int64_t cols, uint8_t* stored, Deviation* deviations) {
    const int64_t spans = rows * (cols / columns);
    if (kind == Number::bf16)
        return MeasuredRows<Fit, Bfloat, columns>(static_cast<const Bfloat*>(numbers), cols, stored, deviations).encode(spans);
    return MeasuredRows<Fit, float, columns>(static_cast<const float*>(numbers), cols, stored, deviations).encode(spans);
}

// The same by importance, which single precision alone is searched by.
template <typename Fit, int columns = span_columns>
float encode_weighted_measured(const float* w, const float* weights, int64_t rows, int64_t cols, uint8_t* stored, Deviation* deviations) {
    return MeasuredRows<Fit, float, columns>(w, cols, stored, deviations).encode(weights, rows * (cols / columns));
}

template <typename Fit, int columns = span_columns>
void encode_weighted(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    Deviation unused;
    encode_weighted_measured<Fit, columns>(w, weights, 1, spans * columns, stored, &unused);
}

// The same numbers, unmeasured.
template <typename Fit, int columns = span_columns>
void encode_evenly(const float* w, int64_t spans, uint8_t* stored) {
    Deviation unused;
    encode_measured<Fit, columns>(Number::f32, w, 1, spans * columns, stored, &unused);
}

}  // namespace
}  // namespace fewbits
