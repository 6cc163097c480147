// Codes under a scale and an offset of its own per group: a vector of lanes runs along the group, sixteen at a time.
#include "fewbits/lines.h"

#include <cstring>
#include <vector>

#include "batch.h"
#include "fewbits/families.h"

namespace fewbits {
namespace {

constexpr int parts = 16 / Vec::lanes;

// Sums over sixteen lanes; at last the upper half is added to the lower one until one is left.
struct LaneSum {
    Vec part[parts];
    LaneSum() {
        for (Vec& p : part) p = Vec::all(0.0f);
    }
    void add(int at, Vec x) { part[at] = part[at] + x; }
    float total() const {
        float lanes[16];
        for (int p = 0; p < parts; ++p) part[p].store(lanes + p * Vec::lanes);
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
        return lanes[0];
    }
};

// What codes mean on a line, for one vector.
struct Biased {
    Biased(StoredLine line, int top)
        : scale(Vec::all(line.scale)), inv(Vec::all(inverse(line.scale))), offset(Vec::all(line.offset)), most(Vec::all(static_cast<float>(top))) {}
    Vec scale, inv, offset, most;
    Vec code(Vec x) const { return clamp(round_even((x - offset) * inv), Vec::all(0.0f), most); }
    Vec number(Vec code) const { return scale * code + offset; }
};
struct Moved : Biased {
    using Biased::Biased;
    Vec code(Vec x) const { return clamp(round_even(x * inv + offset), Vec::all(0.0f), most); }
    Vec number(Vec code) const { return scale * (code - offset); }
};

// A group filled up to a multiple of sixteen with its first number, which weighs nothing there.
template <typename Meaning>
class Search {
  public:
    explicit Search(const Lines& f)
        : f_(f), whole_((f.group + 15) / 16 * 16), w_(static_cast<size_t>(whole_)), y_(w_), weight_(w_), codes_(w_) {}

    void begin(const float* w, const float* weights) {
        for (int64_t e = 0; e < whole_; ++e) {
            const bool there = e < f_.group;
            w_[static_cast<size_t>(e)] = there ? w[e] : w[0];
            weight_[static_cast<size_t>(e)] = !there ? 0.0f : weights ? weights[e] : 1.0f;
        }
        Vec most = Vec::all(0.0f), low = Vec::load(w_.data()), high = low;
        for (int64_t e = 0; e < whole_; e += Vec::lanes) {
            const Vec x = Vec::load(&w_[static_cast<size_t>(e)]);
            most = max(most, abs(x));
            low = min(low, x);
            high = max(high, x);
        }
        size_ = largest(most);
        size_ = size_ < 0x1p-126f ? 0.0f : size_;
        inverse_ = inverse(size_);
        high_ = largest(high) * inverse_;
        low_ = -largest(Vec::all(0.0f) - low) * inverse_;
        LaneSum mass, sum;
        over([&](int p, size_t at) {
            const Vec y = Vec::load(&w_[at]) * Vec::all(inverse_), weight = Vec::load(&weight_[at]);
            y.store(&y_[at]);
            mass.add(p, weight);
            sum.add(p, weight * y);
        });
        share_ = inverse(mass.total());
        mean_ = sum.total() * share_;
        any_ = false;
    }

    void range(float level) {
        const float middle = 0.5f * (low_ + high_), per_step = level * inverse(high_ - low_), top = static_cast<float>(f_.top);
        const Vec half = Vec::all(0.5f * top), none = Vec::all(0.0f), most = Vec::all(top);
        LaneSum sum;
        over([&](int p, size_t at) {
            const Vec y = Vec::load(&y_[at]);
            keep(p, at, clamp(round_even((y - Vec::all(middle)) * Vec::all(per_step) + half), none, most), sum);
        });
        mass_of_codes_ = sum.total();
    }

    void attempt_at_codes() {
        const float code = mass_of_codes_ * share_;
        LaneSum rise, run;
        over([&](int p, size_t at) {
            const Vec apart = Vec::load(&codes_[at]) - Vec::all(code), weighted = Vec::load(&weight_[at]) * apart;
            rise.add(p, weighted * (Vec::load(&y_[at]) - Vec::all(mean_)));
            run.add(p, weighted * apart);
        });
        attempt(stored_line(f_, rise.total() * inverse(run.total()) * size_, code, mean_ * size_));
    }

    void attempt(StoredLine line) {
        const Meaning meaning(line, f_.top);
        LaneSum sum, off_by;
        over([&](int p, size_t at) {
            const Vec found = meaning.code(Vec::load(&w_[at]));
            const Vec off = meaning.number(found) * Vec::all(inverse_) - Vec::load(&y_[at]);
            off_by.add(p, Vec::load(&weight_[at]) * off * off);
            keep(p, at, found, sum);
        });
        mass_of_codes_ = sum.total();
        const float error = off_by.total();
        if (any_ && !(error < least_)) return;
        any_ = true;
        least_ = error;
        best = line;
    }

    StoredLine best{0.0f, 0.0f};

  private:
    template <typename Body>
    void over(const Body& body) {
        for (int64_t e = 0; e < whole_; e += 16)
            for (int p = 0; p < parts; ++p) body(p, static_cast<size_t>(e + p * Vec::lanes));
    }

    void keep(int p, size_t at, Vec found, LaneSum& sum) {
        found.store(&codes_[at]);
        sum.add(p, Vec::load(&weight_[at]) * found);
    }

    static float largest(Vec x) {
        float lanes[Vec::lanes];
        x.store(lanes);
        float most = lanes[0];
        for (float each : lanes) most = each > most ? each : most;
        return most;
    }

    const Lines& f_;
    int64_t whole_;
    std::vector<float> w_, y_, weight_, codes_;
    float size_ = 0.0f, inverse_ = 0.0f, low_ = 0.0f, high_ = 0.0f, share_ = 0.0f, mean_ = 0.0f, least_ = 0.0f;
    float mass_of_codes_ = 0.0f;
    bool any_ = false;
};

template <typename Meaning>
void fit_by(const Lines& f, const float* w, const float* weights, int64_t groups, const float* steps, const uint8_t* zeros,
            float* scales, float* offsets) {
    Search<Meaning> search(f);
    for (int64_t g = 0; g < groups; ++g) {
        search.begin(w + g * f.group, weights ? weights + g * f.group : nullptr);
        search.attempt(stored_line(f, steps[g], zeros[g], 0.0f));
        for (int k = 0; k < f.level_count; ++k) {
            search.range(f.levels[k]);
            for (int r = 0; r <= f.refits; ++r) search.attempt_at_codes();
        }
        scales[g] = search.best.scale;
        offsets[g] = search.best.offset;
    }
}

void fit(const Lines& f, const float* w, const float* weights, int64_t groups, const float* steps, const uint8_t* zeros,
         float* scales, float* offsets) {
    if (f.kind == LineKind::bias) fit_by<Biased>(f, w, weights, groups, steps, zeros, scales, offsets);
    else fit_by<Moved>(f, w, weights, groups, steps, zeros, scales, offsets);
}

template <typename Meaning>
void encode_by(const Lines& f, const float* w, const float* scales, const float* offsets, int64_t groups, uint8_t* codes) {
    for (int64_t g = 0; g < groups; ++g, w += f.group, codes += f.group) {
        const Meaning meaning({scales[g], offsets[g]}, f.top);
        int64_t e = 0;
        for (; e + Vec::lanes <= f.group; e += Vec::lanes) meaning.code(Vec::load(w + e)).store_codes(codes + e);
        if (e == f.group) continue;
        float rest[Vec::lanes] = {};
        uint8_t found[Vec::lanes];
        std::memcpy(rest, w + e, static_cast<size_t>(f.group - e) * sizeof(float));
        meaning.code(Vec::load(rest)).store_codes(found);
        std::memcpy(codes + e, found, static_cast<size_t>(f.group - e));
    }
}

void encode(const Lines& f, const float* w, const float* scales, const float* offsets, int64_t groups, uint8_t* codes) {
    if (f.kind == LineKind::bias) encode_by<Biased>(f, w, scales, offsets, groups, codes);
    else encode_by<Moved>(f, w, scales, offsets, groups, codes);
}

// A loop that compilers turn into vectors by themselves.
void decode(const Lines& f, const uint8_t* codes, const float* scales, const float* offsets, int64_t groups, float* w) {
    for (int64_t g = 0; g < groups; ++g, w += f.group, codes += f.group) {
        const float scale = scales[g], offset = offsets[g];
        if (f.kind == LineKind::bias)
            for (int64_t e = 0; e < f.group; ++e) w[e] = scale * static_cast<float>(codes[e]) + offset;
        else
            for (int64_t e = 0; e < f.group; ++e) w[e] = scale * (static_cast<float>(codes[e]) - offset);
    }
}

constexpr LineKernels kernels_of_lines = {fit, encode, decode};

}  // namespace

FEWBITS_LINES(lines, kernels_of_lines)

}  // namespace fewbits
