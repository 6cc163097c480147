// TQ1_0 and TQ2_0: sixteen spans of 256 at a time.
#include "integers.h"
#include "lanes.h"
#include "measured.h"

namespace fewbits {
namespace {

constexpr int length = 256;

template <bool weighted>
class TernarySpans {
  public:
    void fit(const float* w, const float* weights) { fit_all(w, weights); }
    template <typename Number>
    void fit(const Number* w) { fit_all(w, nullptr); }

    const float* largest() const { return largest_; }

  protected:
    alignas(64) float d_[batch], inv_[batch];
    half_bits d_bits_[batch];

  private:
    static constexpr int thresholds = 2;
    LaneSums x_[thresholds], weight_[weighted ? thresholds : 1], most_;
    alignas(64) float threshold_[thresholds][batch], above_[thresholds][batch], largest_[batch];

    template <typename Number>
    void fit_all(const Number* w, const float* weights) {
        for (int s = 0; s < batch; ++s) measure(s, w + length * s, weights + (weighted ? length * s : 0));
        set_thresholds();
        for (int s = 0; s < batch; ++s) add_above(s, w + length * s, weights + (weighted ? length * s : 0));
        choose();
    }

    // The sums of weighted magnitudes in x_[0], of weighted squares in x_[1], and the largest magnitudes.
    template <typename Number>
    void measure(int s, const Number* w, const float* weights) {
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec sx = Vec::all(0.0f), sxx = sx, most = sx;
            for (int e = part; e < length; e += batch) {
                const Vec size = abs(load_numbers(w + e)), x = weighted ? weight_at<weighted>(weights, e) * size : size;
                sx = sx + x;
                sxx = sxx + x * size;
                most = max(most, size);
            }
            sx.store(x_[0].of(s) + part);
            sxx.store(x_[1].of(s) + part);
            most.store(most_.of(s) + part);
        }
    }

    void set_thresholds() {
        alignas(64) float sx[batch], sxx[batch];
        x_[0].totals(sx);
        x_[1].totals(sxx);
        most_.largest(largest_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec mean = Vec::load(sxx + g) * inverse(Vec::load(sx + g));
            (mean * Vec::all(search::ternary_of_mean)).store(threshold_[0] + g);
            (Vec::load(largest_ + g) * Vec::all(search::ternary_of_largest)).store(threshold_[1] + g);
        }
    }

    // The sums of weighted magnitudes above each threshold, and of their weights; even weights are counted.
    template <typename Number>
    void add_above(int s, const Number* w, const float* weights) {
        int counts[thresholds] = {};
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec sx[thresholds], sw[thresholds];
            for (int i = 0; i < thresholds; ++i) sx[i] = sw[i] = Vec::all(0.0f);
            for (int e = part; e < length; e += batch) {
                const Vec size = abs(load_numbers(w + e)), weight = weight_at<weighted>(weights, e);
                const Vec x = weighted ? weight * size : size;
                for (int i = 0; i < thresholds; ++i) {
                    const Mask chosen = size > Vec::all(threshold_[i][s]);
                    sx[i] = add_where(sx[i], chosen, x);
                    if (weighted) sw[i] = add_where(sw[i], chosen, weight);
                    else counts[i] += count(chosen);
                }
            }
            for (int i = 0; i < thresholds; ++i) {
                sx[i].store(x_[i].of(s) + part);
                if (weighted) sw[i].store(weight_[weighted ? i : 0].of(s) + part);
            }
        }
        for (int i = 0; i < thresholds; ++i) above_[i][s] = static_cast<float>(counts[i]);
    }

    // The best d for each threshold is the mean of what is above; the one that removes most energy wins.
    void choose() {
        Vec best[batch / Vec::lanes], scale[batch / Vec::lanes];
        for (int p = 0; p < batch / Vec::lanes; ++p) best[p] = scale[p] = Vec::all(0.0f);
        for (int i = 0; i < thresholds; ++i) {
            alignas(64) float sx[batch];
            x_[i].totals(sx);
            if (weighted) weight_[weighted ? i : 0].totals(above_[i]);
            for (int p = 0; p < batch / Vec::lanes; ++p) {
                const Vec sum = Vec::load(sx + Vec::lanes * p), d = sum * inverse(Vec::load(above_[i] + Vec::lanes * p));
                const Vec gain = d * sum;
                const Mask better = gain > best[p];
                scale[p] = select(better, d, scale[p]);
                best[p] = select(better, gain, best[p]);
            }
        }
        for (int p = 0; p < batch / Vec::lanes; ++p) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(scale[p], Vec::all(0.0f) - limit, limit), d_bits_ + Vec::lanes * p);
            const Vec d = load_half(d_bits_ + Vec::lanes * p);
            d.store(d_ + Vec::lanes * p);
            inverse(d).store(inv_ + Vec::lanes * p);
        }
    }
};

// The same, coded and measured span by span; pack(codes, span) stores them.
template <typename SpanType, bool weighted, void (*decode_spans)(const uint8_t*, int64_t, float*), void (*pack)(const uint8_t*, SpanType*)>
class CodedTernary : public TernarySpans<weighted> {
  public:
    using Span = SpanType;
    static constexpr auto decode = decode_spans;

    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, Span* span) const {
        const Vec d = Vec::all(this->d_[s]), inv = Vec::all(this->inv_[s]), one = Vec::all(1.0f), none = Vec::all(0.0f) - one;
        alignas(64) uint8_t codes[length];
        for (int e = 0; e < length; e += 4 * Vec::lanes) {
            Vec steps[4];
            for (int i = 0; i < 4; ++i) {
                const Vec x = load_numbers(w + e + Vec::lanes * i);
                steps[i] = round_even(clamp(x * inv, none, one));
                sums->add_rest(i, x, less_product(x, d, steps[i]));  // the product is exact
            }
            store_rounded(steps, 1, codes + e);
        }
        span->d = this->d_bits_[s];
        pack(codes, span);
    }
};

// Numbers of five (four) base-3 digits that lie `count` columns apart, a byte each: none reaches 256, so that the sums of
// a word make several.
template <typename Word, int count, int digits>
void join_digits(const uint8_t* codes, uint8_t* numbers) {
    for (int i = 0; i < count; i += static_cast<int>(sizeof(Word))) {
        Word number = 0, digit;
        for (int n = 0; n < digits; ++n) {
            std::memcpy(&digit, codes + count * n + i, sizeof digit);
            number = number + (number << 1) + digit;
        }
        if (digits < 5) number = number + (number << 1);
        std::memcpy(numbers + i, &number, sizeof number);
    }
}

void pack_tq1_0(const uint8_t* codes, SpanTQ1_0* out) {
    uint8_t numbers[64] = {};
    join_digits<uint64_t, 32, 5>(codes, numbers);
    join_digits<uint64_t, 16, 5>(codes + 160, numbers + 32);
    join_digits<uint32_t, 4, 4>(codes + 240, numbers + 48);
    // ceil(256 / 243 * number) = number + ceil(13 / 243 * number), whose quotient by 243 is a product by 270 / 2^16 for
    // every number there is.
    for (uint8_t& each : numbers) {
        const uint16_t number = each, dividend = static_cast<uint16_t>(13 * number + 242);
        each = static_cast<uint8_t>(number + (static_cast<uint32_t>(dividend) * 270 >> 16));
    }
    std::memcpy(out->q, numbers, sizeof out->q);
    std::memcpy(out->rest, numbers + 48, sizeof out->rest);
}

void pack_tq2_0(const uint8_t* codes, SpanTQ2_0* out) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t* c = codes + 128 * h + i;
            out->q[32 * h + i] = static_cast<uint8_t>(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
}

// Digit after digit: three times the fraction, whose whole part is the digit.
template <int count, int digits>
void unpack_digits(const uint8_t* q, const FourNumbers& number, float* w) {
    for (int i = 0; i < count; i += Vec::lanes) {
        Integers fraction = load_bytes_apart(q + i);
        for (int n = 0; n < digits; ++n) {
            fraction = fraction + raised<1>(fraction);
            number(lowered<8>(fraction)).store(w + count * n + i);
            fraction = fraction & all_integers(255);
        }
    }
}

// The last four bytes, of four digits each.
void unpack_rest(const uint8_t* q, const FourNumbers& number, float* w) {
    uint8_t digits[batch];
    for (int i = 0; i < 4; ++i) {
        int fraction = q[i];
        for (int n = 0; n < 4; ++n) {
            fraction *= 3;
            digits[4 * n + i] = static_cast<uint8_t>(fraction >> 8);
            fraction &= 255;
        }
    }
    for (int e = 0; e < batch; e += Vec::lanes) number(load_bytes_apart(digits + e)).store(w + e);
}

void decode_tq1_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanTQ1_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += length) {
        const FourNumbers number(half_to_float(in[s].d));
        unpack_digits<32, 5>(in[s].q, number, w);
        unpack_digits<16, 5>(in[s].q + 32, number, w + 160);
        unpack_rest(in[s].rest, number, w + 240);
    }
}

void decode_tq2_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanTQ2_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += length) {
        const FourNumbers number(half_to_float(in[s].d));
        for (int h = 0; h < 2; ++h)
            for (int i = 0; i < 32; i += Vec::lanes) {
                const Integers four = load_bytes_apart(in[s].q + 32 * h + i);
                float* out = w + 128 * h + i;
                number(four).store(out);
                number(lowered<2>(four)).store(out + 32);
                number(lowered<4>(four)).store(out + 64);
                number(lowered<6>(four)).store(out + 96);
            }
    }
}

template <bool weighted>
using CodedTQ1_0 = CodedTernary<SpanTQ1_0, weighted, decode_tq1_0, pack_tq1_0>;
template <bool weighted>
using CodedTQ2_0 = CodedTernary<SpanTQ2_0, weighted, decode_tq2_0, pack_tq2_0>;

template <template <bool> class Coded>
void encode(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (weights) encode_weighted<Coded<true>, length>(w, weights, spans, stored);
    else encode_evenly<Coded<false>, length>(w, spans, stored);
}

constexpr Codec codecs[] = {
    {"TQ1_0", length, sizeof(SpanTQ1_0), encode<CodedTQ1_0>, decode_tq1_0, nullptr, true, nullptr,
     encode_measured<CodedTQ1_0<false>, length>, encode_weighted_measured<CodedTQ1_0<true>, length>},
    {"TQ2_0", length, sizeof(SpanTQ2_0), encode<CodedTQ2_0>, decode_tq2_0, nullptr, true, nullptr,
     encode_measured<CodedTQ2_0<false>, length>, encode_weighted_measured<CodedTQ2_0<true>, length>},
};

}  // namespace

FEWBITS_FAMILY(ternary, codecs)

}  // namespace fewbits
