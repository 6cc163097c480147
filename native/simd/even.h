// Q4_0, evenly weighted: sixteen spans of 32 side by side, searched in whole numbers. Numbers become sixteen-bit
// fractions of the span's largest; then codes and both sums of least squares are exact, two elements to a lane.
#pragma once
#include "batch.h"
#include "words.h"

namespace fewbits {
namespace {

constexpr int pairs = 16;  // of a span of 32

// Elements 2k and 2k + 1 of sixteen spans of floats.
class FloatPairs {
  public:
    explicit FloatPairs(const float* w) { to_columns(w, 2 * pairs, x_); }
    Vec low(int k, int g) const { return Vec::load(x_ + batch * (2 * k) + g); }
    Vec high(int k, int g) const { return Vec::load(x_ + batch * (2 * k + 1) + g); }

  private:
    alignas(64) float x_[2 * pairs * batch];
};

// The same of bfloat16 numbers: they are brought into columns by pairs, as they lie, and widened in registers.
class BfloatPairs {
  public:
    explicit BfloatPairs(const uint16_t* w) { to_columns(reinterpret_cast<const float*>(w), pairs, x_); }
    Vec low(int k, int g) const { return lower_half(Vec::load(x_ + batch * k + g)); }
    Vec high(int k, int g) const { return upper_half(Vec::load(x_ + batch * k + g)); }

  private:
    alignas(64) float x_[pairs * batch];
};

// Bytes of sixteen spans from four columns of lanes; lane j of a span holds its bytes 4j, 4j + 2, 4j + 1, 4j + 3.
inline void bytes_in_order(const uint32_t* columns, uint8_t* q) {
#if defined(__SSE2__)
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    const auto* in = reinterpret_cast<const float*>(columns);
    for (int s = 0; s < batch; s += 4) {
        __m128 a = _mm_load_ps(in + s), b = _mm_load_ps(in + batch + s);
        __m128 c = _mm_load_ps(in + 2 * batch + s), d = _mm_load_ps(in + 3 * batch + s);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        const __m128 rows[] = {a, b, c, d};
        for (int i = 0; i < 4; ++i)
            _mm_store_si128(reinterpret_cast<__m128i*>(q + 16 * (s + i)), _mm_shuffle_epi8(_mm_castps_si128(rows[i]), order));
    }
#else
    for (int s = 0; s < batch; ++s)
        for (int j = 0; j < 4; ++j)
            for (int i = 0; i < 4; ++i) {
                const int from = i == 1 ? 2 : i == 2 ? 1 : i;
                q[16 * s + 4 * j + i] = static_cast<uint8_t>(columns[batch * j + s] >> 8 * from);
            }
#endif
}

class EvenNibbles {
  public:
    template <typename Pairs>
    void fit(const Pairs& x) {
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_scale(x, g), Vec::all(0.0f) - limit, limit), d_ + g);
            store_codes(x, g);
        }
    }

    void store(SpanQ4_0* spans, int present) const {
        alignas(16) uint8_t q[batch * 16];
        bytes_in_order(bytes_, q);
        for (int s = 0; s < present; ++s) {
            spans[s].d = d_[s];
            std::memcpy(spans[s].q, q + 16 * s, 16);
        }
    }

  private:
    alignas(64) uint32_t bytes_[4 * batch];
    half_bits d_[batch];

    template <typename Pairs>
    static Vec best_scale(const Pairs& x, int g) {
        const Vec zero = Vec::all(0.0f);
        Vec least = zero, most = zero;
        for (int k = 0; k < pairs; ++k) {
            const Vec low = x.low(k, g), high = x.high(k, g);
            least = min(least, min(low, high));
            most = max(most, max(low, high));
        }
        const Vec extreme = select((zero - least) > most, least, most);
        const Vec inv = select(abs(extreme) > Vec::all(search::smallest_extreme),
                               Vec::all(-search::q4_0_whole) / extreme, zero);
        constexpr int count = sizeof(search::q4_0_steps) / sizeof(*search::q4_0_steps);
        Sums sqx[count], sqq[count];
        for (int i = 0; i < count; ++i) sqx[i] = sqq[i] = no_sums();
        const Words highest = all_words(7);
        for (int k = 0; k < pairs; ++k) {
            const Words fraction = round_words(x.low(k, g) * inv, x.high(k, g) * inv);
            for (int i = 0; i < count; ++i) {
                const Words q = min(scaled(fraction, all_words(search::q4_0_steps[i])), highest);
                sqx[i] = add_products(sqx[i], q, fraction);
                sqq[i] = add_products(sqq[i], q, q);
            }
        }
        Vec best = zero, scale = zero;
        for (int i = 0; i < count; ++i) {
            const Vec sum = to_floats(sqx[i]), candidate = sum * inverse(to_floats(sqq[i])), gain = candidate * sum;
            const Mask better = gain > best;
            best = select(better, gain, best);
            scale = select(better, candidate, scale);
        }
        return scale * (extreme * Vec::all(-1.0f / search::q4_0_whole)) + zero;  // never -0
    }

    template <typename Pairs>
    void store_codes(const Pairs& x, int g) {
        const Vec inv = inverse(load_half(d_ + g));
        const Vec lowest = Vec::all(-8.0f), highest = Vec::all(7.0f);
        const Words zero = all_words(8);
        const auto code = [&](Vec v) { return clamp(v * inv, lowest, highest); };
        const auto codes = [&](int k) { return round_words(code(x.low(k, g)), code(x.high(k, g))) + zero; };
        const auto bytes = [&](int k) { return codes(k) | shifted<4>(codes(k + pairs / 2)); };
        for (int j = 0; j < 4; ++j)
            fewbits::store(bytes(2 * j) | shifted<8>(bytes(2 * j + 1)), bytes_ + batch * j + g);
    }
};

}  // namespace
}  // namespace fewbits
