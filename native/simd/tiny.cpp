// Q1_0 and Q2_0.
#include "lanes.h"
#include "spans.h"

namespace fewbits {
namespace {

constexpr int signs = 128;  // columns of a span of Q1_0

// Bit e % 8 of byte e / 8 tells whether x[e] >= 0.
void pack_signs(const float* x, uint8_t* q) {
#if defined(__AVX512F__)
    for (int e = 0; e < signs; e += 16) {
        const __mmask16 bits = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + e), _mm512_setzero_ps(), _CMP_GE_OQ);
        q[e / 8] = static_cast<uint8_t>(bits);
        q[e / 8 + 1] = static_cast<uint8_t>(bits >> 8);
    }
#elif defined(__AVX2__)
    for (int e = 0; e < signs; e += 8)
        q[e / 8] = static_cast<uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + e), _mm256_setzero_ps(), _CMP_GE_OQ)));
#else
    for (int e = 0; e < signs; e += 8) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (x[e + i] >= 0.0f) << i;
        q[e / 8] = static_cast<uint8_t>(bits);
    }
#endif
}

// Sixteen spans at a time, of which `present` are there.
template <bool weighted>
void encode_signs(const float* w, const float* weights, int present, SpanQ1_0* out) {
    LaneSums sum_x, sum_weight;
    for (int s = 0; s < present; ++s, w += signs, weights += weighted ? signs : 0) {
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec sx = Vec::all(0.0f), sw = sx;
            for (int e = part; e < signs; e += batch) {
                const Vec size = abs(Vec::load(w + e)), weight = weight_at<weighted>(weights, e);
                sx = sx + (weighted ? weight * size : size);
                if (weighted) sw = sw + weight;
            }
            sx.store(sum_x.of(s) + part);
            if (weighted) sw.store(sum_weight.of(s) + part);
        }
        pack_signs(w, out[s].q);
    }
    alignas(64) float x[batch], weight[batch];
    sum_x.totals(x);
    if (weighted) sum_weight.totals(weight);
    for (int s = 0; s < present; ++s) out[s].d = stored_half(x[s] * inverse(weighted ? weight[s] : signs));
}

void encode_q1_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanQ1_0*>(stored);
    for (int64_t s = 0; s < spans; s += batch) {
        const int present = static_cast<int>(spans - s < batch ? spans - s : batch);
        if (weights) encode_signs<true>(w + signs * s, weights + signs * s, present, out + s);
        else encode_signs<false>(w + signs * s, nullptr, present, out + s);
    }
}

// Sixteen spans of Q2_0, a span in each lane.
template <bool weighted>
class FourSteps {
  public:
    static constexpr int length = 64;

    void fit(const float* w, const float* weights) {
        to_columns(w, length, x_);
        if (weighted) to_columns(weights, length, weight_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_step(g), Vec::all(0.0f) - limit, limit), d_bits_ + g);
            const Vec inv = inverse(load_half(d_bits_ + g)), one = Vec::all(1.0f);
            for (int e = 0; e < length; ++e)
                (clamp(round_even(x(g, e) * inv), Vec::all(0.0f) - one, Vec::all(2.0f)) + one).store_codes(codes_ + batch * e + g);
        }
    }

    const uint8_t* codes() const { return codes_; }  // element e of span g at [16 * e + g]
    half_bits d(int g) const { return d_bits_[g]; }

  private:
    alignas(64) float x_[length * batch], weight_[weighted ? length * batch : 1];
    alignas(64) uint8_t codes_[length * batch];
    half_bits d_bits_[batch];

    struct Step { Vec d, gain; };

    Vec x(int g, int e) const { return Vec::load(x_ + batch * e + g); }
    Vec by_weight(int g, int e, Vec v) const { return weighted ? Vec::load(weight_ + batch * e + g) * v : v; }

    // The best steps for the codes that `d` and `-d` lead to: -1 .. 2 and, counted in d, -2 .. 1.
    void refit(int g, Vec d, Step* up, Step* down) const {
        const Vec inv = inverse(d), zero = Vec::all(0.0f), one = Vec::all(1.0f), two = Vec::all(2.0f);
        Vec slx = zero, sll = zero, other_slx = zero, other_sll = zero;
        for (int e = 0; e < length; ++e) {
            const Vec v = x(g, e), rounded = round_even(v * inv);
            const Vec l = clamp(rounded, zero - one, two), wl = by_weight(g, e, l);
            const Vec other = clamp(rounded, zero - two, one), other_wl = by_weight(g, e, other);
            slx = slx + wl * v;
            sll = sll + wl * l;
            other_slx = other_slx + other_wl * v;
            other_sll = other_sll + other_wl * other;
        }
        up->d = slx * inverse(sll);
        up->gain = up->d * slx;
        down->d = other_slx * inverse(other_sll);
        down->gain = down->d * other_slx;
        down->d = zero - down->d;
    }

    Vec best_step(int g) const {
        const Vec zero = Vec::all(0.0f);
        Vec sx = zero, sw = zero, most = zero;
        for (int e = 0; e < length; ++e) {
            const Vec size = abs(x(g, e));
            sx = sx + by_weight(g, e, size);
            sw = sw + by_weight(g, e, Vec::all(1.0f));
            most = max(most, size);
        }
        const Vec mean = sx * inverse(sw);
        Vec step = zero, best = zero;
        const auto attempt = [&](Vec first) {
            Step both[2];
            refit(g, first, &both[0], &both[1]);
            for (const Step& found : both) {
                const Mask better = found.gain > best;
                step = select(better, found.d, step);
                best = select(better, found.gain, best);
            }
        };
        for (float share : search::q2_0_of_mean) attempt(mean * Vec::all(share));
        for (float share : search::q2_0_of_largest) attempt(most * Vec::all(share));
        return refitted(g, step);
    }

    Vec refitted(int g, Vec d) const {
        const Vec inv = inverse(d), zero = Vec::all(0.0f), least = zero - Vec::all(1.0f);
        Vec slx = zero, sll = zero;
        for (int e = 0; e < length; ++e) {
            const Vec v = x(g, e), l = clamp(round_even(v * inv), least, Vec::all(2.0f)), wl = by_weight(g, e, l);
            slx = slx + wl * v;
            sll = sll + wl * l;
        }
        return slx * inverse(sll);
    }
};

template <bool weighted>
void encode_steps(const float* w, const float* weights, int64_t spans, SpanQ2_0* out) {
    constexpr int length = FourSteps<weighted>::length;
    FourSteps<weighted> fit;
    uint8_t codes[length * batch];
    for_batches<length, batch>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* weight) {
        fit.fit(x, weight);
        to_rows(fit.codes(), length, codes);
        for (int s = 0; s < present; ++s) {
            out[first + s].d = fit.d(s);
            const uint8_t* c = codes + length * s;
            for (int i = 0; i < 16; ++i)
                out[first + s].q[i] = static_cast<uint8_t>(c[4 * i] | c[4 * i + 1] << 2 | c[4 * i + 2] << 4 | c[4 * i + 3] << 6);
        }
    });
}

void encode_q2_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanQ2_0*>(stored);
    if (weights) encode_steps<true>(w, weights, spans, out);
    else encode_steps<false>(w, nullptr, spans, out);
}

void decode_q1_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ1_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += signs) {
        uint32_t numbers[signs];
        const uint32_t d = float_to_bits(half_to_float(in[s].d));
        for (int b = 0; b < 16; ++b) {
            const uint32_t cleared = static_cast<uint32_t>(in[s].q[b]) ^ 255u;
            for (uint32_t i = 0; i < 8; ++i) numbers[8 * b + i] = d ^ (cleared >> i & 1u) << 31;
        }
        std::memcpy(w, numbers, sizeof numbers);
    }
}

void decode_q2_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ2_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 64) {
        const float d = half_to_float(in[s].d);
        for (int b = 0; b < 16; ++b) {
            const int four = in[s].q[b];
            for (int i = 0; i < 4; ++i) w[4 * b + i] = d * static_cast<float>((four >> (2 * i) & 3) - 1);
        }
    }
}

constexpr Codec codecs[] = {
    {"Q1_0", signs, sizeof(SpanQ1_0), encode_q1_0, decode_q1_0, nullptr, true},
    {"Q2_0", 64, sizeof(SpanQ2_0), encode_q2_0, decode_q2_0, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(tiny, codecs)

}  // namespace fewbits
