// Q1_0 and Q2_0.
#include "integers.h"
#include "lanes.h"
#include "measured.h"

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

// The weights of three choices among the elements of each lane's span.
template <bool weighted>
class Weights {
  public:
    void add(Mask first, Mask second, Mask third, Vec weight) {
        sums_[0] = add_where(sums_[0], first, weight);
        sums_[1] = add_where(sums_[1], second, weight);
        sums_[2] = add_where(sums_[2], third, weight);
    }
    Vec total(int i) const { return sums_[i]; }

  private:
    Vec sums_[3] = {Vec::all(0.0f), Vec::all(0.0f), Vec::all(0.0f)};
};

// Where all weigh the same they are counted.
template <>
class Weights<false> {
  public:
    void add(Mask first, Mask second, Mask third, Vec) {
        counts_[0] = add_where(counts_[0], first, all_integers(1));
        counts_[1] = add_where(counts_[1], second, all_integers(1));
        counts_[2] = add_where(counts_[2], third, all_integers(1));
    }
    Vec total(int i) const { return to_floats(counts_[i]); }

  private:
    Integers counts_[3] = {all_integers(0), all_integers(0), all_integers(0)};
};

void decode_q2_0(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanQ2_0*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 64) {
        const FourNumbers number(half_to_float(in[s].d));
        for (int e = 0; e < 64; e += Vec::lanes) number(load_pairs_apart(in[s].q + e / 4)).store(w + e);
    }
}

// Code e of 64, 0 to 3, into the bits 2 e and up.
void pack_pairs(const uint8_t* codes, uint8_t* q) {
#if defined(__AVX512F__)
    const __m512i by_four = _mm512_maddubs_epi16(_mm512_loadu_si512(codes), _mm512_set1_epi16(0x0401));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_madd_epi16(by_four, _mm512_set1_epi32(0x00100001))));
#elif defined(__AVX2__)
    __m256i four[2];
    for (int i = 0; i < 2; ++i) {
        const __m256i codes_of_half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * i));
        four[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(codes_of_half, _mm256_set1_epi16(0x0401)), _mm256_set1_epi32(0x00100001));
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(four[0], four[1]), 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
#else
    for (int i = 0; i < 16; ++i, codes += 4)
        q[i] = static_cast<uint8_t>(codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6);
#endif
}

// Sixteen spans of Q2_0, a span in each lane.
template <bool weighted>
class FourSteps {
  public:
    using Span = SpanQ2_0;
    static constexpr int length = 64;
    static constexpr auto decode = decode_q2_0;

    template <typename Number>
    void fit(const Number* w) {
        static_assert(!weighted, "weights are wanted");
        if constexpr (sizeof(Number) == sizeof(float)) {
            to_columns(w, length, x_);
        } else {
            alignas(64) float rows[length * batch];
            for (int i = 0; i < length * batch; i += Vec::lanes) load_numbers(w + i).store(rows + i);
            to_columns(rows, length, x_);
        }
        fit_columns();
    }
    void fit(const float* w, const float* weights) {
        to_columns(w, length, x_);
        to_columns(weights, length, weight_);
        fit_columns();
    }
    const float* largest() const { return largest_; }

    // Codes span `s`, whose numbers are w, and measures it.
    template <typename Number>
    void code(const Number* w, int s, SpanSums* sums, SpanQ2_0* span) const {
        const Vec d = Vec::all(d_[s]), inv = Vec::all(inv_[s]), least = Vec::all(-1.0f), most = Vec::all(2.0f);
        alignas(64) uint8_t codes[length];
        Vec nearest[length / Vec::lanes];
        for (int v = 0; v < length / Vec::lanes; ++v) {
            const Vec x = load_numbers(w + Vec::lanes * v);
            nearest[v] = round_even(clamp(x * inv, least, most));
            sums->add_rest(v, x, less_product(x, d, nearest[v]));  // the product is exact
        }
        for (int v = 0; v < length / Vec::lanes; v += 4) store_rounded(nearest + v, 1, codes + Vec::lanes * v);
        span->d = d_bits_[s];
        pack_pairs(codes, span->q);
    }

  private:
    alignas(64) float x_[length * batch], weight_[weighted ? length * batch : 1];
    alignas(64) float d_[batch], inv_[batch], largest_[batch];
    half_bits d_bits_[batch];

    Vec x(int g, int e) const { return Vec::load(x_ + batch * e + g); }
    Vec weight(int g, int e) const { return weighted ? Vec::load(weight_ + batch * e + g) : Vec::all(1.0f); }

    void fit_columns() {
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec limit = Vec::all(search::half_max);
            store_half(clamp(best_step(g), Vec::all(0.0f) - limit, limit), d_bits_ + g);
            const Vec d = load_half(d_bits_ + g);
            d.store(d_ + g);
            inverse(d).store(inv_ + g);
        }
    }

    // The step whose codes are tried: of both means of magnitudes.
    Vec first_step(int g) {
        Vec sx = Vec::all(0.0f), sxx = sx, sxxx = sx, largest = sx;
        for (int e = 0; e < length; ++e) {
            const Vec size = abs(x(g, e)), first = weighted ? weight(g, e) * size : size, second = first * size;
            sx = sx + first;
            sxx = sxx + second;
            sxxx = sxxx + second * size;
            largest = max(largest, size);
        }
        largest.store(largest_ + g);
        const Vec mean = sxx * inverse(sx), cubic_mean = sxxx * inverse(sxx);
        return mean * Vec::all(search::q2_0_of_mean) + cubic_mean * Vec::all(search::q2_0_of_cubic_mean);
    }

    // The best step for the codes -1 .. 2 or, where that removes more energy, the negative one for -2 .. 1: sums over
    // magnitudes above half of the first step and, on either side, above 3/2 of it, which are coded by two steps.
    Vec best_step(int g) {
        const Vec zero = Vec::all(0.0f), three = Vec::all(3.0f), first = first_step(g);
        const Vec half = first * Vec::all(0.5f), most = first * Vec::all(1.5f), least = zero - most;
        Vec sx = zero, above_x = zero, below_x = zero;
        Weights<weighted> weights;
        for (int e = 0; e < length; ++e) {
            const Vec v = x(g, e), size = abs(v), own = weight(g, e), weighted_size = weighted ? own * size : size;
            const Mask coded = size > half, above = v > most, below = least > v;
            sx = add_where(sx, coded, weighted_size);
            above_x = add_where(above_x, above, weighted_size);
            below_x = add_where(below_x, below, weighted_size);
            weights.add(coded, above, below, own);
        }
        const Vec up = sx + above_x, d = up * inverse(weights.total(0) + three * weights.total(1));
        const Vec down = sx + below_x, other = down * inverse(weights.total(0) + three * weights.total(2));
        return select(other * down > d * up, zero - other, d);
    }
};

void encode_q2_0(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    if (weights) encode_weighted<FourSteps<true>, 64>(w, weights, spans, stored);
    else encode_evenly<FourSteps<false>, 64>(w, spans, stored);
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

constexpr Codec codecs[] = {
    {"Q1_0", signs, sizeof(SpanQ1_0), encode_q1_0, decode_q1_0, nullptr, true},
    {"Q2_0", 64, sizeof(SpanQ2_0), encode_q2_0, decode_q2_0, nullptr, true, nullptr,
     encode_measured<FourSteps<false>, 64>, encode_weighted_measured<FourSteps<true>, 64>},
};

}  // namespace

FEWBITS_FAMILY(tiny, codecs)

}  // namespace fewbits
