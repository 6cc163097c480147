// TQ1_0 and TQ2_0: sixteen spans of 256 at a time.
#include "lanes.h"
#include "spans.h"

namespace fewbits {
namespace {

constexpr int length = 256;

template <bool weighted>
class TernarySpans {
  public:
    // Fits `present` spans at w; at least one, at most sixteen.
    void fit(const float* w, const float* weights, int present) {
        for (int s = 0; s < present; ++s) measure(s, w + length * s, weights + (weighted ? length * s : 0));
        first_thresholds();
        search<thresholds>(w, weights, present);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec scale = Vec::all(0.0f), best = scale;
            for (int i = 0; i < thresholds; ++i) {
                const Vec d = Vec::load(d_[i] + g), gain = d * Vec::load(sum_x_[i] + g);
                const Mask better = gain > best;
                scale = select(better, d, scale);
                best = select(better, gain, best);
            }
            (scale * Vec::all(0.5f)).store(threshold_[0] + g);
        }
        search<1>(w, weights, present);
        for (int g = 0; g < batch; ++g) d_bits_[g] = stored_half(d_[0][g]);
    }

    half_bits d(int s) const { return d_bits_[s]; }

  private:
    static constexpr int of_mean = length_of(search::ternary_of_mean), of_largest = length_of(search::ternary_of_largest);
    static constexpr int thresholds = of_mean + of_largest;
    LaneSums x_[thresholds], weight_[thresholds];
    alignas(64) float threshold_[thresholds][batch], d_[thresholds][batch], sum_x_[thresholds][batch], sum_weight_[batch];
    half_bits d_bits_[batch];

    // The sums of weighted magnitudes and of weights in x_[0] and weight_[0], the largest magnitudes in x_[1].
    void measure(int s, const float* w, const float* weights) {
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec sx = Vec::all(0.0f), sw = sx, most = sx;
            for (int e = part; e < length; e += batch) {
                const Vec size = abs(Vec::load(w + e)), weight = weight_at<weighted>(weights, e);
                sx = sx + (weighted ? weight * size : size);
                if (weighted) sw = sw + weight;
                most = max(most, size);
            }
            sx.store(x_[0].of(s) + part);
            most.store(x_[1].of(s) + part);
            if (weighted) sw.store(weight_[0].of(s) + part);
        }
    }

    void first_thresholds() {
        alignas(64) float sx[batch], most[batch];
        x_[0].totals(sx);
        x_[1].largest(most);
        if (weighted) weight_[0].totals(sum_weight_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec sw = weighted ? Vec::load(sum_weight_ + g) : Vec::all(length), mean = Vec::load(sx + g) * inverse(sw);
            for (int i = 0; i < of_mean; ++i) (mean * Vec::all(search::ternary_of_mean[i])).store(threshold_[i] + g);
            for (int i = 0; i < of_largest; ++i)
                (Vec::load(most + g) * Vec::all(search::ternary_of_largest[i])).store(threshold_[of_mean + i] + g);
        }
    }

    // The best d for each of the first `count` thresholds, and the sums of the weighted magnitudes above.
    template <int count>
    void search(const float* w, const float* weights, int present) {
        for (int s = 0; s < present; ++s) add_above<count>(s, w + length * s, weights + (weighted ? length * s : 0));
        for (int i = 0; i < count; ++i) {
            x_[i].totals(sum_x_[i]);
            weight_[i].totals(sum_weight_);
            for (int g = 0; g < batch; g += Vec::lanes)
                (Vec::load(sum_x_[i] + g) * inverse(Vec::load(sum_weight_ + g))).store(d_[i] + g);
        }
    }

    template <int count>
    void add_above(int s, const float* w, const float* weights) {
        Vec above[count];
        for (int i = 0; i < count; ++i) above[i] = Vec::all(threshold_[i][s]);
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec sx[count], sw[count];
            for (int i = 0; i < count; ++i) sx[i] = sw[i] = Vec::all(0.0f);
            for (int e = part; e < length; e += batch) {
                const Vec size = abs(Vec::load(w + e)), weight = weight_at<weighted>(weights, e);
                const Vec x = weighted ? weight * size : size;
                for (int i = 0; i < count; ++i) {
                    const Mask chosen = size > above[i];
                    sx[i] = add_where(sx[i], chosen, x);
                    sw[i] = add_where(sw[i], chosen, weight);
                }
            }
            for (int i = 0; i < count; ++i) {
                sx[i].store(x_[i].of(s) + part);
                sw[i].store(weight_[i].of(s) + part);
            }
        }
    }
};

void codes_of(const float* w, half_bits d, uint8_t* codes) {
    const Vec inv = Vec::all(inverse(half_to_float(d))), one = Vec::all(1.0f), none = Vec::all(0.0f) - one;
    for (int e = 0; e < length; e += Vec::lanes)
        (clamp(round_even(Vec::load(w + e) * inv), none, one) + one).store_codes(codes + e);
}

template <bool weighted, typename Span, typename Pack>
void encode_weighted(const float* w, const float* weights, int64_t spans, Span* out, Pack pack) {
    TernarySpans<weighted> fit;
    uint8_t codes[length];
    for (int64_t first = 0; first < spans; first += batch) {
        const int present = static_cast<int>(spans - first < batch ? spans - first : batch);
        fit.fit(w + length * first, weighted ? weights + length * first : nullptr, present);
        for (int s = 0; s < present; ++s) {
            out[first + s].d = fit.d(s);
            codes_of(w + length * (first + s), fit.d(s), codes);
            pack(codes, out[first + s]);
        }
    }
}

template <typename Span, typename Pack>
void encode(const float* w, const float* weights, int64_t spans, uint8_t* stored, Pack pack) {
    auto* out = reinterpret_cast<Span*>(stored);
    if (weights) return encode_weighted<true>(w, weights, spans, out, pack);
    encode_weighted<false>(w, nullptr, spans, out, pack);
}

// Bytes of five (four) base-3 digits that lie `count` columns apart: ceil(256 / 243 * number) = number + ceil(13 / 243 *
// number), whose quotient by 243 is a product by 270 / 2^16 for every number there is.
template <int count, int digits>
void pack_digits(const uint8_t* codes, uint8_t* q) {
    for (int i = 0; i < count; ++i) {
        uint16_t number = 0;
        for (int n = 0; n < 5; ++n) number = static_cast<uint16_t>(3 * number + (n < digits ? codes[i + count * n] : 0));
        const uint32_t dividend = static_cast<uint16_t>(13 * number + 242);
        q[i] = static_cast<uint8_t>(number + (dividend * 270 >> 16));
    }
}

void encode_tq1_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode<SpanTQ1_0>(w, weights, spans, stored, [](const uint8_t* codes, SpanTQ1_0& out) {
        pack_digits<32, 5>(codes, out.q);
        pack_digits<16, 5>(codes + 160, out.q + 32);
        pack_digits<4, 4>(codes + 240, out.rest);
    });
}

void encode_tq2_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    encode<SpanTQ2_0>(w, weights, spans, stored, [](const uint8_t* codes, SpanTQ2_0& out) {
        for (int h = 0; h < 2; ++h)
            for (int i = 0; i < 32; ++i) {
                const uint8_t* c = codes + 128 * h + i;
                out.q[32 * h + i] = static_cast<uint8_t>(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
            }
    });
}

// Digit after digit: three times the fraction, whose whole part is the digit.
template <int count, int digits>
void unpack_digits(const uint8_t* q, float d, float* w) {
    uint8_t fraction[count];
    std::memcpy(fraction, q, count);
    for (int n = 0; n < digits; ++n)
        for (int i = 0; i < count; ++i) {
            const uint16_t tripled = static_cast<uint16_t>(3 * fraction[i]);
            fraction[i] = static_cast<uint8_t>(tripled);
            w[count * n + i] = d * static_cast<float>(static_cast<int>(tripled >> 8) - 1);
        }
}

void decode_tq1_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanTQ1_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += length) {
        const float d = half_to_float(in[s].d);
        unpack_digits<32, 5>(in[s].q, d, w);
        unpack_digits<16, 5>(in[s].q + 32, d, w + 160);
        unpack_digits<4, 4>(in[s].rest, d, w + 240);
    }
}

void decode_tq2_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanTQ2_0*>(stored);
    for (int64_t s = 0; s < spans; ++s) {
        const float d = half_to_float(in[s].d);
        for (int h = 0; h < 2; ++h)
            for (int n = 0; n < 4; ++n, w += 32)
                for (int i = 0; i < 32; ++i)
                    w[i] = d * static_cast<float>(static_cast<int>(in[s].q[32 * h + i] >> (2 * n) & 3) - 1);
    }
}

constexpr Codec codecs[] = {
    {"TQ1_0", length, sizeof(SpanTQ1_0), encode_tq1_0, decode_tq1_0, nullptr, true},
    {"TQ2_0", length, sizeof(SpanTQ2_0), encode_tq2_0, decode_tq2_0, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(ternary, codecs)

}  // namespace fewbits
