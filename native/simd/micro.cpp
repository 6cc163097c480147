// MXFP4 and NVFP4: sixteen groups at a time. Numbers are counted in steps of the scale, where they are 0, 1, 2, 3, 4, 6,
// 8 and 12.
#include "fewbits/micro.h"

#include "halves.h"
#include "lanes.h"
#include "spans.h"

namespace fewbits {
namespace {

// Added to 3/2 of 2^23 units of its last place, a number loses what is below that place, rounded to even.
constexpr float by_one = 0x1.8p23f, by_two = 0x1.8p24f, by_four = 0x1.8p25f;

// y >= 0 at most 12, rounded to the places where numbers of its size lie; the constants say where the sum begins.
inline Vec rounded_sum(Vec y, float ones, float twos, float fours, Vec* places) {
    *places = select(Vec::all(4.0f) > y, Vec::all(ones), select(Vec::all(8.0f) > y, Vec::all(twos), Vec::all(fours)));
    return y + *places;
}

// The nearest number to y >= 0, halfway the even code.
inline Vec nearest(Vec y) {
    Vec places;
    const Vec sum = rounded_sum(min(y, Vec::all(12.0f)), by_one, by_two, by_four, &places);
    return sum - places;
}

// Codes of sixteen numbers x, of size y in steps: with the codes of 4 and 8 less their steps added, the lowest bits of
// the sum are the code.
inline void store_codes_of(const float* x, Vec per_step, bool divide, uint8_t* codes) {
    for (int e = 0; e < 16; e += Vec::lanes) {
        const Vec own = Vec::load(x + e), y = divide ? abs(own) / per_step : abs(own) * per_step;
        Vec places;
        const Vec sum = rounded_sum(min(y, Vec::all(12.0f)), by_one, by_two + 4.0f, by_four + 16.0f, &places);
        store_with_sign(sum, own, codes + e);
    }
}

// Sixteen groups side by side, for searches among scales.
template <bool weighted>
class E2M1Groups {
  public:
    static constexpr int length = 16;
    alignas(64) uint8_t scale[batch];

    void load(const float* w, const float* weights) {
        to_columns(w, length, x_);
        if (weighted) to_columns(weights, length, weight_);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec most = Vec::all(0.0f);
            for (int e = 0; e < length; ++e) most = max(most, size(g, e));
            most.store(most_ + g);
        }
    }

    // The best of the scales around a sixth of the largest magnitude.
    void search_neighbours() {
        int first[batch], near[batch];
        alignas(64) float steps[batch], codes[batch], best[batch], found[batch];
        for (int g = 0; g < batch; ++g) {
            const int code = to_mini(e4m3, most_[g] / 6.0f);
            first[g] = code > 1 ? code : 1;
            found[g] = static_cast<float>(first[g]);
            best[g] = bits_to_float(0x7f800000u);
        }
        for (int neighbour : search::nvfp4_neighbours) {
            for (int g = 0; g < batch; ++g) {
                const int code = first[g] + neighbour, held = code < 126 ? code : 126;
                near[g] = (held < 8) & (held < first[g]) ? first[g] : held;
                codes[g] = static_cast<float>(near[g]);
                steps[g] = bits_to_float(static_cast<uint32_t>(near[g]) << 20) * bits_to_float(power_bits(119));
            }
            for (int g = 0; g < batch; g += Vec::lanes) {
                const Vec d = Vec::load(steps + g), error = step_error(g, d, Vec::all(1.0f) / d), least = Vec::load(best + g);
                const Mask better = error < least;
                select(better, error, least).store(best + g);
                select(better, Vec::load(codes + g), Vec::load(found + g)).store(found + g);
            }
        }
        for (int g = 0; g < batch; ++g) scale[g] = static_cast<uint8_t>(most_[g] > 0.0f ? found[g] : 0.0f);
    }

  private:
    alignas(64) float x_[length * batch], weight_[weighted ? length * batch : 1], most_[batch];

    Vec size(int g, int e) const { return abs(Vec::load(x_ + batch * e + g)); }
    Vec square(int g, int e, Vec r) const { return (weighted ? Vec::load(weight_ + batch * e + g) * r : r) * r; }

    Vec step_error(int g, Vec d, Vec inv) const {
        Vec error = Vec::all(0.0f);
        for (int e = 0; e < length; ++e) {
            const Vec y = size(g, e);
            error = error + square(g, e, d * nearest(y * inv) - y);
        }
        return error;
    }
};

// The scales of MXFP4 for sixteen groups: powers of two.
class Powers {
  public:
    // Evenly weighted: the next power of two where the largest magnitude is above 14.5 steps.
    void choose(const float* w, int present, uint8_t* scale) {
        alignas(64) float most[batch];
        measure(w, present, most);
        for (int g = 0; g < present; ++g) scale[g] = stored(most[g], code_of(most[g], search::mxfp4_round_up));
    }

    // The power of two that brings the largest magnitude between 8 and 16 steps, or the next one where that is nearer.
    // Up to 14 steps it never is: all its numbers that far are numbers of the first one, and 14 is as near to 12 as to 16.
    void choose(const float* w, const float* weights, int present, uint8_t* scale) {
        alignas(64) float most[batch], once[batch] = {}, twice[batch] = {};
        measure(w, present, most);
        int first[batch], beyond[batch], any_beyond = 0;
        for (int g = 0; g < present; ++g) {
            first[g] = code_of(most[g], 0);
            beyond[g] = (most[g] * per_step(first[g]) > 14.0f) & (first[g] < search::mxfp4_highest);
            any_beyond |= beyond[g];
        }
        if (any_beyond) {
            for (int g = 0; g < present; ++g)
                if (beyond[g]) add_errors(g, w + 32 * g, weights + 32 * g, Vec::all(per_step(first[g])));
            once_.totals(once);
            twice_.totals(twice);
        }
        for (int g = 0; g < present; ++g)
            scale[g] = stored(most[g], first[g] + (beyond[g] & static_cast<int>(twice[g] < once[g])));
    }

  private:
    LaneSums sizes_, once_, twice_;

    static int code_of(float most, uint32_t round_up) {
        const int code = static_cast<int>((float_to_bits(most) + round_up) >> 23) - 2;
        return code < search::mxfp4_lowest ? search::mxfp4_lowest : code > search::mxfp4_highest ? search::mxfp4_highest : code;
    }
    static float per_step(int code) { return bits_to_float(static_cast<uint32_t>(255 - code) << 23); }
    static uint8_t stored(float most, int code) { return static_cast<uint8_t>(most > 0.0f ? code : 0); }

    void measure(const float* w, int present, float* most) {
        for (int g = 0; g < present; ++g)
            for (int part = 0; part < batch; part += Vec::lanes)
                max(abs(Vec::load(w + 32 * g + part)), abs(Vec::load(w + 32 * g + batch + part))).store(sizes_.of(g) + part);
        sizes_.largest(most);
    }

    // Weighted squares of the errors in steps, under the first power and the next one.
    void add_errors(int g, const float* w, const float* weights, Vec per_step) {
        for (int part = 0; part < batch; part += Vec::lanes) {
            Vec first = Vec::all(0.0f), second = first;
            for (int e = part; e < 32; e += batch) {
                const Vec y = abs(Vec::load(w + e)) * per_step, next = nearest(y * Vec::all(0.5f)), weight = Vec::load(weights + e);
                const Vec r = nearest(y) - y, r2 = (next + next) - y;
                first = first + (weight * r) * r;
                second = second + (weight * r2) * r2;
            }
            first.store(once_.of(g) + part);
            second.store(twice_.of(g) + part);
        }
    }
};

void store_mxfp4(const float* x, uint8_t scale, SpanMXFP4* out) {
    uint8_t codes[32];
    const Vec inv = Vec::all(bits_to_float(static_cast<uint32_t>(255 - (scale ? scale : 1)) << 23));
    store_codes_of(x, inv, false, codes);
    store_codes_of(x + 16, inv, false, codes + 16);
    out->scale = scale;
    pack_halves<16>(codes, codes + 16, out->q);
}

void encode_mxfp4(const float* w, const float* weights, int64_t spans, uint8_t* stored) {
    auto* out = reinterpret_cast<SpanMXFP4*>(stored);
    Powers powers;
    for (int64_t first = 0; first < spans; first += batch) {
        const int present = static_cast<int>(spans - first < batch ? spans - first : batch);
        uint8_t scale[batch];
        const float* x = w + 32 * first;
        weights ? powers.choose(x, weights + 32 * first, present, scale) : powers.choose(x, present, scale);
        for (int s = 0; s < present; ++s) store_mxfp4(x + 32 * s, scale[s], out + first + s);
    }
}

void store_nvfp4(const float* x, const uint8_t* scales, SpanNVFP4* out) {
    std::memcpy(out->scales, scales, 4);
    for (int g = 0; g < 4; ++g) {
        uint8_t codes[16];
        store_codes_of(x + 16 * g, Vec::all(scales[g] ? nvfp4_step(scales[g]) : 1.0f), true, codes);
        pack_halves<8>(codes, codes + 8, out->q + 8 * g);
    }
}

template <bool weighted>
void encode_nvfp4_weighted(const float* w, const float* weights, int64_t spans, SpanNVFP4* out) {
    E2M1Groups<weighted> groups;
    for_batches<64, batch / 4>(w, weights, spans, [&](int64_t first, int present, const float* x, const float* weight) {
        groups.load(x, weight);
        groups.search_neighbours();
        for (int s = 0; s < present; ++s) store_nvfp4(x + 64 * s, groups.scale + 4 * s, out + first + s);
    });
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
