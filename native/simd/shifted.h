// Q5_1: w = d * q + m, sixteen spans of 32 at once, evenly weighted. The best least-squares line through the codes of
// several candidate ranges, or the plain line from smallest to largest where that one, as stored, is nearer.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

class ShiftedSpan {
  public:
    static constexpr int length = 32;

    void fit(const float* w) {
        to_columns(w, length, x_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec low = Vec::load(x_ + g), high = low;
            for (int e = 1; e < length; ++e) {
                low = min(low, Vec::load(x_ + batch * e + g));
                high = max(high, Vec::load(x_ + batch * e + g));
            }
            low = low + Vec::all(0.0f);  // which zero is the smallest depends on the machine; this makes it +0
            const Vec range = (high - low) + Vec::all(0.0f);
            fit_line(g, low, range);
            Line line{store(g, d_, d_bits_), store(g, m_, m_bits_)};
            half_bits line_d[Vec::lanes], line_m[Vec::lanes];
            std::memcpy(line_d, d_bits_ + g, sizeof line_d);
            std::memcpy(line_m, m_bits_ + g, sizeof line_m);
            (range / Vec::all(31.0f)).store(d_ + g);
            low.store(m_ + g);
            Line plain{store(g, d_, d_bits_), store(g, m_, m_bits_)};
            float lane_error[Vec::lanes], plain_error[Vec::lanes];
            error(g, line).store(lane_error);
            error(g, plain).store(plain_error);
            for (int lane = 0; lane < Vec::lanes; ++lane)
                if (lane_error[lane] < plain_error[lane]) {
                    d_bits_[g + lane] = line_d[lane];
                    m_bits_[g + lane] = line_m[lane];
                }
            store_codes(g, Line{widened(d_bits_ + g), widened(m_bits_ + g)});
        }
    }

    const uint8_t* codes() const { return codes_; }  // element e of span g at [16 * e + g]
    half_bits d(int g) const { return d_bits_[g]; }
    half_bits m(int g) const { return m_bits_[g]; }

  private:
    alignas(64) float x_[length * batch], y_[length * batch], d_[batch], m_[batch];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch], m_bits_[batch];

    struct Line {
        Vec d, m, inv;
        Line(Vec d_, Vec m_) : d(d_), m(m_), inv(inverse(d_)) {}
        Vec code(Vec x) const { return clamp(round_even((x - m) * inv), Vec::all(0.0f), Vec::all(31.0f)); }
    };

    // Rounds numbers g .. to binary16 into `bits`, and returns what they are then.
    static Vec store(int g, const float* numbers, half_bits* bits) {
        for (int lane = g; lane < g + Vec::lanes; ++lane) bits[lane] = stored_half(numbers[lane]);
        return widened(bits + g);
    }

    static Vec widened(const half_bits* bits) {
        float numbers[Vec::lanes];
        for (int lane = 0; lane < Vec::lanes; ++lane) numbers[lane] = half_to_float(bits[lane]);
        return Vec::load(numbers);
    }

    void fit_line(int g, Vec low, Vec range) {
        const Vec zero = Vec::all(0.0f), two = Vec::all(2.0f), highest = Vec::all(31.0f), n = Vec::all(length);
        Vec sy = zero, syy = zero;
        for (int e = 0; e < length; ++e) {
            const Vec y = Vec::load(x_ + batch * e + g) - low;
            y.store(y_ + batch * e + g);
            sy = sy + y;
            syy = syy + y * y;
        }
        Vec best = Vec::all(bits_to_float(0x7f800000u)), scale = zero, start = zero;
        for (const float level : search::q5_1_levels) {
            const Vec inv = Vec::all(level) / max(range - start, Vec::all(search::narrowest));
            Vec sl = zero, sll = zero, sly = zero;
            for (int e = 0; e < length; ++e) {
                const Vec y = Vec::load(y_ + batch * e + g), l = clamp(round_even((y - start) * inv), zero, highest);
                sl = sl + l;
                sll = sll + l * l;
                sly = sly + l * y;
            }
            const Vec product = n * sll, det = product - sl * sl;
            const Vec a = (n * sly - sy * sl) / det, b = (sll * sy - sl * sly) / det;
            const Vec off = (syy + a * ((a * sll - two * sly) + (two * b) * sl)) + b * (b * n - two * sy);
            const Mask better = (det > Vec::all(search::singular) * product) & (off < best);
            best = select(better, off, best);
            scale = select(better, a, scale);
            start = select(better, b, start);
        }
        scale.store(d_ + g);
        (low + start).store(m_ + g);
    }

    Vec error(int g, const Line& line) const {
        Vec sum = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec x = Vec::load(x_ + batch * e + g), r = (line.d * line.code(x) + line.m) - x;
            sum = sum + r * r;
        }
        return sum;
    }

    void store_codes(int g, const Line& line) {
        for (int e = 0; e < length; ++e) line.code(Vec::load(x_ + batch * e + g)).store_codes(codes_ + batch * e + g);
    }
};

}  // namespace
}  // namespace fewbits
