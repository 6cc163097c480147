// MXFP4 and NVFP4: sixteen groups at a time, a group in each lane. Numbers are counted in steps of the scale, where they
// are 0, 1, 2, 3, 4, 6, 8 and 12.
#include "fewbits/micro.h"

#include "halves.h"
#include "spans.h"

namespace fewbits {
namespace {

// The nearest number to y >= 0, halfway the even code. Added to 3/2 of 2^23 units of its last place, a number loses what
// is below that place, rounded to even.
inline Vec nearest(Vec y) {
    const Vec within = min(y, Vec::all(12.0f)), fine = Vec::all(0x1.8p23f);
    const Vec coarse = select(Vec::all(8.0f) > within, Vec::all(0x1.8p24f), Vec::all(0x1.8p25f));
    const Vec places = select(Vec::all(4.0f) > within, fine, coarse);
    return (within + places) - places;
}

// Codes of the numbers `size` with the signs of x: lines through 0 .. 4, through 4 .. 8 and through 8 and 12.
inline Vec codes_of(Vec size, Vec x) {
    const Vec half = size * Vec::all(0.5f) + Vec::all(2.0f), quarter = size * Vec::all(0.25f) + Vec::all(4.0f);
    const Vec code = min(min(size, half), quarter), zero = Vec::all(0.0f);
    return code + select((zero > x) & (size > zero), Vec::all(8.0f), zero);
}

template <int length, bool weighted>
class E2M1Groups {
  public:
    alignas(64) uint8_t scale[batch];

    // `codes`: `length` codes of each of sixteen groups, in the order of the numbers.
    template <typename Search>
    void fit(const float* w, const float* weights, uint8_t* codes, Search search) {
        to_columns(w, length, x_);
        if (weighted) to_columns(weights, length, weight_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec most = Vec::all(0.0f);
            for (int e = 0; e < length; ++e) most = max(most, size(g, e));
            most.store(most_ + g);
        }
        search(*this);
        to_rows(codes_, length, codes);
    }

    // The power of two that brings the largest magnitude between 8 and 16 steps, or the next one.
    void search_powers() {
        int first[batch];
        alignas(64) float inverse_step[batch];
        for (int g = 0; g < batch; ++g) {
            const int exponent = static_cast<int>(float_to_bits(most_[g]) >> 23) - 2;
            first[g] = exponent < search::mxfp4_lowest    ? search::mxfp4_lowest
                       : exponent > search::mxfp4_highest ? search::mxfp4_highest
                                                          : exponent;
            inverse_step[g] = bits_to_float(static_cast<uint32_t>(255 - first[g]) << 23);
        }
        alignas(64) float once[batch], twice[batch];
        for (int g = 0; g < batch; g += Vec::lanes) power_errors(g, Vec::load(inverse_step + g), once + g, twice + g);
        for (int g = 0; g < batch; ++g) {
            const bool next = (twice[g] < once[g]) & (first[g] < search::mxfp4_highest);
            scale[g] = static_cast<uint8_t>(most_[g] > 0.0f ? first[g] + next : 0);
            inverse_step[g] = next ? 0.5f * inverse_step[g] : inverse_step[g];
        }
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec inv = Vec::load(inverse_step + g);
            for (int e = 0; e < length; ++e) codes_of(nearest(size(g, e) * inv), x(g, e)).store_codes(codes_ + batch * e + g);
        }
    }

    // The best of the scales around a sixth of the largest magnitude.
    void search_neighbours() {
        int first[batch];
        alignas(64) float best[batch], steps[batch], inverse_steps[batch], errors[batch];
        for (int g = 0; g < batch; ++g) {
            const int code = to_mini(e4m3, most_[g] / 6.0f);
            first[g] = code > 1 ? code : 1;
            scale[g] = static_cast<uint8_t>(first[g]);
            best[g] = bits_to_float(0x7f800000u);
        }
        for (int neighbour : search::nvfp4_neighbours) {
            uint8_t near[batch];
            for (int g = 0; g < batch; ++g) {
                const int code = first[g] + neighbour < 126 ? first[g] + neighbour : 126;
                near[g] = static_cast<uint8_t>(code < 8 && code < first[g] ? first[g] : code);
                steps[g] = nvfp4_step(near[g]);
                inverse_steps[g] = 1.0f / steps[g];
            }
            for (int g = 0; g < batch; g += Vec::lanes) step_error(g, Vec::load(steps + g), Vec::load(inverse_steps + g)).store(errors + g);
            for (int g = 0; g < batch; ++g) {
                scale[g] = errors[g] < best[g] ? near[g] : scale[g];
                best[g] = errors[g] < best[g] ? errors[g] : best[g];
            }
        }
        for (int g = 0; g < batch; ++g) {
            scale[g] = most_[g] > 0.0f ? scale[g] : 0;
            steps[g] = scale[g] ? nvfp4_step(scale[g]) : 1.0f;
        }
        for (int g = 0; g < batch; g += Vec::lanes) {
            const Vec d = Vec::load(steps + g);
            for (int e = 0; e < length; ++e) codes_of(nearest(size(g, e) / d), x(g, e)).store_codes(codes_ + batch * e + g);
        }
    }

  private:
    alignas(64) float x_[length * batch], weight_[weighted ? length * batch : 1], most_[batch];
    alignas(64) uint8_t codes_[length * batch];

    Vec x(int g, int e) const { return Vec::load(x_ + batch * e + g); }
    Vec size(int g, int e) const { return abs(x(g, e)); }
    Vec square(int g, int e, Vec r) const { return (weighted ? Vec::load(weight_ + batch * e + g) * r : r) * r; }

    void power_errors(int g, Vec inv, float* once, float* twice) const {
        Vec first = Vec::all(0.0f), second = first;
        for (int e = 0; e < length; ++e) {
            const Vec y = size(g, e) * inv, next = nearest(y * Vec::all(0.5f));
            first = first + square(g, e, nearest(y) - y);
            second = second + square(g, e, (next + next) - y);
        }
        first.store(once);
        second.store(twice);
    }

    Vec step_error(int g, Vec d, Vec inv) const {
        Vec error = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec y = size(g, e);
            error = error + square(g, e, d * nearest(y * inv) - y);
        }
        return error;
    }
};

template <bool weighted>
void encode_mxfp4_weighted(const float* w, const float* weights, int64_t spans, SpanMXFP4* out) {
    E2M1Groups<32, weighted> groups;
    uint8_t codes[32 * batch];
    for_batches<32, batch>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* weight) {
        groups.fit(x, weight, codes, [](auto& fit) { fit.search_powers(); });
        for (int s = 0; s < present; ++s) {
            out[first + s].scale = groups.scale[s];
            pack_halves<16>(codes + 32 * s, codes + 32 * s + 16, out[first + s].q);
        }
    });
}

template <bool weighted>
void encode_nvfp4_weighted(const float* w, const float* weights, int64_t spans, SpanNVFP4* out) {
    E2M1Groups<16, weighted> groups;
    uint8_t codes[16 * batch];
    for_batches<64, batch / 4>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* weight) {
        groups.fit(x, weight, codes, [](auto& fit) { fit.search_neighbours(); });
        for (int s = 0; s < present; ++s) {
            std::memcpy(out[first + s].scales, groups.scale + 4 * s, 4);
            for (int g = 0; g < 4; ++g) {
                const uint8_t* c = codes + 64 * s + 16 * g;
                pack_halves<8>(c, c + 8, out[first + s].q + 8 * g);
            }
        }
    });
}

void encode_mxfp4(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanMXFP4*>(stored);
    if (weights) encode_mxfp4_weighted<true>(w, weights, spans, out);
    else encode_mxfp4_weighted<false>(w, nullptr, spans, out);
}

void encode_nvfp4(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanNVFP4*>(stored);
    if (weights) encode_nvfp4_weighted<true>(w, weights, spans, out);
    else encode_nvfp4_weighted<false>(w, nullptr, spans, out);
}

// What sixteen codes mean, times d.
inline void store_numbers(Codes16 codes, Vec d, float* w) {
    Vec numbers[16 / Vec::lanes];
    look_up(codes, twice_e2m1, numbers);
    for (int e = 0; e < 16; e += Vec::lanes) (d * numbers[e / Vec::lanes]).store(w + e);
}

void decode_mxfp4(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanMXFP4*>(stored);
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        const Vec d = Vec::all(mxfp4_step(in[s].scale));
        const Codes16 both = load_codes(in[s].q);
        store_numbers(low_halves(both), d, w);
        store_numbers(high_halves(both), d, w + 16);
    }
}

void decode_nvfp4(const uint8_t* stored, int64_t spans, float* w) {
    const auto* in = reinterpret_cast<const SpanNVFP4*>(stored);
    for (int64_t s = 0; s < spans; ++s)
        for (int g = 0; g < 4; ++g, w += 16)
            store_numbers(low_then_high(in[s].q + 8 * g), Vec::all(nvfp4_step(in[s].scales[g])), w);
}

constexpr Codec codecs[] = {
    {"MXFP4", 32, sizeof(SpanMXFP4), encode_mxfp4, decode_mxfp4, nullptr, true},
    {"NVFP4", 64, sizeof(SpanNVFP4), encode_nvfp4, decode_nvfp4, nullptr, true},
};

}  // namespace

FEWBITS_FAMILY(micro, codecs)

}  // namespace fewbits
