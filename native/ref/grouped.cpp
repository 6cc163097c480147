// Codes under one scale per group, the obvious way: one number after another.
#include "fewbits/grouped.h"

#include <cmath>
#include <vector>

#include "fewbits/families.h"

namespace fewbits {
namespace {

float inverse(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }
float limited(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// Sums over sixteen lanes, lane j taking the elements j, j + 16, ...; then the upper half is added to the lower one.
struct LaneSum {
    float lanes[16] = {};
    void add(int64_t e, float x) { lanes[e % 16] += x; }
    float total() {
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
        return lanes[0];
    }
};

// The place among the sorted numbers of the nearest one; halfway between two, of the larger one.
int nearest_place(const Grouped& f, float x) {
    int at = 0;
    while (at < f.distinct - 1 && x >= (f.sorted[at] + f.sorted[at + 1]) * 0.5f) ++at;
    return at;
}

// What a candidate makes of a group, in steps: level -> numbers.
void candidate(const Grouped& f, const std::vector<float>& y, float level, float low, float width_inverse,
               std::vector<float>& numbers, float* zero) {
    const float most = static_cast<float>(f.top - f.middle), least = static_cast<float>(f.bottom - f.middle);
    const float share = level > static_cast<float>(f.top) ? static_cast<float>(static_cast<double>(f.top) / level) : 1.0f;
    const float inv = level * width_inverse, top = static_cast<float>(f.top);
    if (f.steps == Steps::zero) *zero = limited(std::nearbyint(-low * inv * share), 0.0f, top) + 0.0f;
    for (size_t e = 0; e < y.size(); ++e) {
        if (f.steps == Steps::symmetric) numbers[e] = limited(std::nearbyint(y[e] * level), least, most);
        if (f.steps == Steps::table) numbers[e] = f.sorted[nearest_place(f, y[e] * level)];
        if (f.steps == Steps::zero) numbers[e] = limited(std::nearbyint(y[e] * inv) + *zero, 0.0f, top) - *zero;
        if (f.steps == Steps::sign) numbers[e] = y[e] < 0.0f ? -1.0f : 1.0f;
    }
}

void fit_group(const Grouped& f, const float* w, const float* weights, float* step, uint8_t* zero) {
    const auto n = static_cast<size_t>(f.group);
    std::vector<float> y(n), numbers(n);
    float size = 0.0f, low = 0.0f, high = 0.0f, best = 0.0f, found = 0.0f, at = 0.0f, best_at = 0.0f;
    for (size_t e = 0; e < n; ++e) size = std::fabs(w[e]) > size ? std::fabs(w[e]) : size;
    if (size < 0x1p-126f) size = 0.0f;
    for (size_t e = 0; e < n; ++e) {
        y[e] = w[e] * inverse(size);
        low = y[e] < low ? y[e] : low;
        high = y[e] > high ? y[e] : high;
    }
    for (int k = 0; k < (f.steps == Steps::sign ? 1 : f.level_count); ++k) {
        candidate(f, y, f.levels[k], low, inverse(high - low), numbers, &at);
        LaneSum slx, sll;
        for (size_t e = 0; e < n; ++e) {
            const float weighted = weights ? weights[e] * numbers[e] : numbers[e];
            slx.add(static_cast<int64_t>(e), weighted * y[e]);
            sll.add(static_cast<int64_t>(e), weighted * numbers[e]);
        }
        const float sx = slx.total(), fitted = sx * inverse(sll.total()), gain = fitted * sx;
        if (gain > best || f.steps == Steps::sign) {
            best = gain;
            found = fitted;
            best_at = at;
        }
    }
    *step = found * size;
    *zero = static_cast<uint8_t>(best_at);
}

void fit(const Grouped& f, const float* w, const float* weights, int64_t groups, float* steps, uint8_t* zeros) {
    for (int64_t g = 0; g < groups; ++g)
        fit_group(f, w + g * f.group, weights ? weights + g * f.group : nullptr, steps + g, zeros + g);
}

void encode(const Grouped& f, const float* w, const float* scales, const uint8_t* zeros, int64_t groups, uint8_t* codes) {
    for (int64_t i = 0; i < groups * f.group; ++i) {
        const float scale = scales[i / f.group], inv = inverse(scale);
        const float zero = f.steps == Steps::zero ? zeros[i / f.group] : static_cast<float>(f.middle);
        if (f.steps == Steps::table) {
            codes[i] = f.order[nearest_place(f, w[i] * inv)];
        } else if (f.steps == Steps::sign) {
            codes[i] = static_cast<uint8_t>(limited(std::nearbyint((w[i] + scale) * inverse(scale + scale)), 0.0f, 1.0f));
        } else {
            const float least = static_cast<float>(f.bottom) - zero, most = static_cast<float>(f.top) - zero;
            codes[i] = static_cast<uint8_t>(limited(std::nearbyint(w[i] * inv), least, most) + zero);
        }
    }
}

void decode(const Grouped& f, const uint8_t* codes, const float* scales, const uint8_t* zeros, int64_t groups, float* w) {
    for (int64_t i = 0; i < groups * f.group; ++i) {
        const float scale = scales[i / f.group], code = codes[i];
        const float zero = f.steps == Steps::zero ? zeros[i / f.group] : static_cast<float>(f.middle);
        if (f.steps == Steps::table) w[i] = scale * f.table[codes[i]];
        else if (f.steps == Steps::sign) w[i] = (scale + scale) * code - scale;
        else w[i] = scale * (code - zero);
    }
}

constexpr int powers_of_three[] = {1, 3, 9, 27, 81};

void pack(const Grouped& f, const uint8_t* codes, int64_t count, uint8_t* stored) {
    for (int64_t i = 0; i < f.packed_bytes(count); ++i) stored[i] = 0;
    for (int64_t c = 0; f.fives && c < count; ++c)
        stored[c / 5] = static_cast<uint8_t>(stored[c / 5] + codes[c] * powers_of_three[c % 5]);
    if (f.fives) return;
    for (int64_t c = 0; c < count; ++c)
        for (int b = 0; b < f.bits; ++b) {
            const int64_t at = c * f.bits + b;
            stored[at / 8] = static_cast<uint8_t>(stored[at / 8] | (((codes[c] ^ f.flip) >> b) & 1) << (at % 8));
        }
}

void unpack(const Grouped& f, const uint8_t* stored, int64_t count, uint8_t* codes) {
    for (int64_t c = 0; f.fives && c < count; ++c)
        codes[c] = static_cast<uint8_t>(stored[c / 5] / powers_of_three[c % 5] % 3);
    if (f.fives) return;
    for (int64_t c = 0; c < count; ++c) {
        int code = 0;
        for (int b = 0; b < f.bits; ++b) {
            const int64_t at = c * f.bits + b;
            code |= ((stored[at / 8] >> (at % 8)) & 1) << b;
        }
        codes[c] = static_cast<uint8_t>(code ^ f.flip);
    }
}

constexpr GroupedKernels kernels_of_groups = {fit, encode, decode, pack, unpack};

}  // namespace

FEWBITS_GROUPED(grouped, kernels_of_groups)

}  // namespace fewbits
