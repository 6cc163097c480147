// Codes under a scale and an offset of its own per group, the obvious way: one number after another.
#include "fewbits/lines.h"

#include <cmath>
#include <vector>

#include "fewbits/families.h"

namespace fewbits {
namespace {

float inverse(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }
float limited(float x, float high) { return x < 0.0f ? 0.0f : x > high ? high : x; }

// Sums over sixteen lanes, lane j taking the elements j, j + 16, ...; then the upper half is added to the lower one.
struct LaneSum {
    float lanes[16] = {};
    void add(size_t e, float x) { lanes[e % 16] += x; }
    float total() {
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
        return lanes[0];
    }
};

float code_of(const Lines& f, StoredLine line, float x) {
    const float inv = inverse(line.scale), top = static_cast<float>(f.top);
    const float steps = f.kind == LineKind::bias ? (x - line.offset) * inv : x * inv + line.offset;
    return limited(std::nearbyint(steps), top);
}

float number_of(const Lines& f, StoredLine line, float code) {
    return f.kind == LineKind::bias ? line.scale * code + line.offset : line.scale * (code - line.offset);
}

// One group and the nearest line so far.
struct Search {
    const Lines& f;
    const float* w;
    std::vector<float> y, weight, codes;
    float size = 0.0f, share = 0.0f, mean = 0.0f, least = 0.0f;
    bool any = false;
    StoredLine best{0.0f, 0.0f};

    Search(const Lines& format, const float* numbers, const float* weights)
        : f(format), w(numbers), y(static_cast<size_t>(format.group)), weight(y.size(), 1.0f), codes(y.size()) {
        for (size_t e = 0; e < y.size(); ++e) size = std::fabs(w[e]) > size ? std::fabs(w[e]) : size;
        if (size < 0x1p-126f) size = 0.0f;
        LaneSum mass, sum;
        for (size_t e = 0; e < y.size(); ++e) {
            y[e] = w[e] * inverse(size);
            if (weights) weight[e] = weights[e];
            mass.add(e, weight[e]);
            sum.add(e, weight[e] * y[e]);
        }
        share = inverse(mass.total());
        mean = sum.total() * share;
    }

    void range(float level) {
        float low = y[0], high = y[0];
        for (float x : y) {
            low = x < low ? x : low;
            high = x > high ? x : high;
        }
        const float middle = 0.5f * (low + high), per_step = level * inverse(high - low), top = static_cast<float>(f.top);
        for (size_t e = 0; e < y.size(); ++e) codes[e] = limited(std::nearbyint((y[e] - middle) * per_step + 0.5f * top), top);
    }

    void attempt_at_codes() {
        LaneSum sum, rise, run;
        for (size_t e = 0; e < y.size(); ++e) sum.add(e, weight[e] * codes[e]);
        const float code = sum.total() * share;
        for (size_t e = 0; e < y.size(); ++e) {
            const float apart = codes[e] - code, weighted = weight[e] * apart;
            rise.add(e, weighted * (y[e] - mean));
            run.add(e, weighted * apart);
        }
        const float step = rise.total() * inverse(run.total());
        attempt(stored_line(f, step * size, code, mean * size));
    }

    void attempt(StoredLine line) {
        LaneSum sum;
        for (size_t e = 0; e < y.size(); ++e) {
            codes[e] = code_of(f, line, w[e]);
            const float off = number_of(f, line, codes[e]) * inverse(size) - y[e];
            sum.add(e, weight[e] * off * off);
        }
        const float error = sum.total();
        if (any && !(error < least)) return;
        any = true;
        least = error;
        best = line;
    }
};

void fit(const Lines& f, const float* w, const float* weights, int64_t groups, const float* steps, const uint8_t* zeros,
         float* scales, float* offsets) {
    for (int64_t g = 0; g < groups; ++g) {
        Search search(f, w + g * f.group, weights ? weights + g * f.group : nullptr);
        search.attempt(stored_line(f, steps[g], zeros[g], 0.0f));
        for (int k = 0; k < f.level_count; ++k) {
            search.range(f.levels[k]);
            for (int r = 0; r <= f.refits; ++r) search.attempt_at_codes();
        }
        scales[g] = search.best.scale;
        offsets[g] = search.best.offset;
    }
}

void encode(const Lines& f, const float* w, const float* scales, const float* offsets, int64_t groups, uint8_t* codes) {
    for (int64_t i = 0; i < groups * f.group; ++i)
        codes[i] = static_cast<uint8_t>(code_of(f, {scales[i / f.group], offsets[i / f.group]}, w[i]));
}

void decode(const Lines& f, const uint8_t* codes, const float* scales, const float* offsets, int64_t groups, float* w) {
    for (int64_t i = 0; i < groups * f.group; ++i) w[i] = number_of(f, {scales[i / f.group], offsets[i / f.group]}, codes[i]);
}

constexpr LineKernels kernels_of_lines = {fit, encode, decode};

}  // namespace

FEWBITS_LINES(lines, kernels_of_lines)

}  // namespace fewbits
