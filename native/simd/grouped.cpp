// Codes under one scale per group: a vector of lanes runs along the group, sixteen numbers at a time.
#include "fewbits/grouped.h"

#include <vector>

#include "fewbits/families.h"
#include "packing.h"
#include "short_groups.h"
#include "table256.h"

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
        for (int j = 0; j < 8; ++j) lanes[j] += lanes[j + 8];
        for (int j = 0; j < 4; ++j) lanes[j] += lanes[j + 4];
        return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    }
};

inline void extremes(Vec low, Vec high, float* least, float* most) {
    float a[Vec::lanes], b[Vec::lanes];
    low.store(a);
    high.store(b);
    for (int j = 0; j < Vec::lanes; ++j) {
        *least = a[j] < *least ? a[j] : *least;
        *most = b[j] > *most ? b[j] : *most;
    }
}

// What numbers become on the way to codes: x in steps -> the nearest number that has a code.
struct Whole {
    Vec least, most;
    Vec operator()(Vec x) const { return clamp(round_even(x), least, most); }
};
struct Zeroed {
    Vec zero, top;
    Vec operator()(Vec x) const { return clamp(round_even(x) + zero, Vec::all(0.0f), top) - zero; }
};
template <typename Table>
struct Tabled {
    const Table& table;
    Vec operator()(Vec x) const { return table.nearest(x); }
};

// A group in units of its largest magnitude, filled up with zeros to a multiple of sixteen, and the best candidate.
class Search {
  public:
    explicit Search(int64_t group) : group_(group), whole_((group + 15) / 16 * 16), y_(static_cast<size_t>(whole_)) {}

    void begin(const float* w, const float* weights) {
        weights_ = weights;
        std::memcpy(y_.data(), w, static_cast<size_t>(group_) * sizeof(float));
        if (weights && whole_ != group_) {
            padded_.assign(static_cast<size_t>(whole_), 0.0f);
            std::memcpy(padded_.data(), weights, static_cast<size_t>(group_) * sizeof(float));
            weights_ = padded_.data();
        }
        low = high = best = step = 0.0f;
        Vec least = Vec::all(0.0f), most = Vec::all(0.0f);
        for (int64_t e = 0; e < whole_; e += Vec::lanes) {
            const Vec x = Vec::load(&y_[static_cast<size_t>(e)]);
            least = min(least, x);
            most = max(most, x);
        }
        extremes(least, most, &low, &high);
        size = -low > high ? -low : high;
        size = size < 0x1p-126f ? 0.0f : size;
        const float inv = inverse(size);
        low = low * inv;
        high = high * inv;
        const Vec by = Vec::all(inv);
        for (int64_t e = 0; e < whole_; e += Vec::lanes) (Vec::load(&y_[static_cast<size_t>(e)]) * by).store(&y_[static_cast<size_t>(e)]);
    }

    template <typename Nearest>
    bool attempt(float level, const Nearest& nearest) {
        return weights_ ? attempt<true>(level, nearest) : attempt<false>(level, nearest);
    }

    // The mean magnitude; zeros that fill up the group count nothing.
    void signs() {
        LaneSum sum, mass;
        float one[16];
        for (int64_t e = 0; e < whole_; e += 16) {
            for (int j = 0; j < 16; ++j) one[j] = e + j < group_ ? 1.0f : 0.0f;
            for (int p = 0; p < parts; ++p) {
                const int64_t at = e + p * Vec::lanes;
                const Vec weight = weights_ ? Vec::load(weights_ + at) : Vec::load(one + p * Vec::lanes);
                sum.add(p, weight * abs(Vec::load(y_.data() + at)));
                mass.add(p, weight);
            }
        }
        step = sum.total() * inverse(mass.total());
    }

    float size, low, high, best, step;

  private:
    template <bool weighted, typename Nearest>
    bool attempt(float level, const Nearest& nearest) {
        LaneSum slx, sll;
        const Vec by = Vec::all(level);
        for (int64_t e = 0; e < whole_; e += 16)
            for (int p = 0; p < parts; ++p) {
                const int64_t at = e + p * Vec::lanes;
                const Vec y = Vec::load(y_.data() + at), number = nearest(y * by);
                const Vec counted = weighted ? Vec::load(weights_ + at) * number : number;
                slx.add(p, counted * y);
                sll.add(p, counted * number);
            }
        const float sx = slx.total(), fitted = sx * inverse(sll.total()), gain = fitted * sx;
        if (!(gain > best)) return false;
        best = gain;
        step = fitted;
        return true;
    }

    int64_t group_, whole_;
    std::vector<float> y_, padded_;
    const float* weights_ = nullptr;
};

// The zero point of a candidate, where numbers reach `below` zero.
inline float zero_point(const Grouped& f, float level, float below, float width_inverse) {
    const float top = static_cast<float>(f.top), inv = level * width_inverse;
    const float share = level > top ? static_cast<float>(static_cast<double>(f.top) / level) : 1.0f;
    const float zero = __builtin_nearbyintf(below * inv * share);
    return (zero < 0.0f ? 0.0f : zero > top ? top : zero) + 0.0f;
}

uint8_t fit_zero(const Grouped& f, Search& search) {
    const float width_inverse = inverse(search.high - search.low), top = static_cast<float>(f.top);
    float best = 0.0f;
    for (int k = 0; k < f.level_count; ++k) {
        const float zero = zero_point(f, f.levels[k], -search.low, width_inverse);
        if (search.attempt(f.levels[k] * width_inverse, Zeroed{Vec::all(zero), Vec::all(top)})) best = zero;
    }
    return static_cast<uint8_t>(best);
}

// One candidate of sixteen short groups.
template <typename Search, typename Table>
void try_level(Search& search, const Table& table, const Grouped& f, float level) {
    const Vec by = Vec::all(level), least = Vec::all(static_cast<float>(f.bottom - f.middle));
    const Vec most = Vec::all(static_cast<float>(f.top - f.middle)), top = Vec::all(static_cast<float>(f.top));
    float inverses[batch];
    if (f.steps == Steps::symmetric) search.attempt([&](int, Vec y) { return Whole{least, most}(y * by); });
    if (f.steps == Steps::table) search.attempt([&](int, Vec y) { return table.nearest(y * by); });
    if (f.steps != Steps::zero) return;
    for (int g = 0; g < batch; ++g) {
        const float width_inverse = inverse(search.high[g] + search.low[g]);
        search.tried_zero[g] = zero_point(f, level, search.low[g], width_inverse);
        inverses[g] = level * width_inverse;
    }
    search.attempt([&](int g, Vec y) { return Zeroed{Vec::all(search.tried_zero[g]), top}(y * Vec::all(inverses[g])); });
}

template <bool weighted, typename Table>
void fit_short(const Table& table, const Grouped& f, const float* w, const float* weights, int64_t groups, float* steps,
               uint8_t* zeros) {
    ShortSearch<weighted> search(f.group);
    for_sixteens(groups, [&](int64_t first, int present) {
        search.begin(w + first * f.group, weighted ? weights + first * f.group : nullptr, present);
        for (int k = 0; k < f.level_count; ++k) try_level(search, table, f, f.levels[k]);
        for (int g = 0; g < present; ++g) {
            steps[first + g] = search.step[g] * search.size[g];
            zeros[first + g] = static_cast<uint8_t>(search.zero[g]);
        }
    });
}

// `table` is that of the format.
template <typename Table>
void fit_by(const Table& table, const Grouped& f, const float* w, const float* weights, int64_t groups, float* steps, uint8_t* zeros) {
    if (is_short(f.group) && f.steps != Steps::sign)
        return weights ? fit_short<true>(table, f, w, weights, groups, steps, zeros)
                       : fit_short<false>(table, f, w, weights, groups, steps, zeros);
    Search search(f.group);
    const Whole whole{Vec::all(static_cast<float>(f.bottom - f.middle)), Vec::all(static_cast<float>(f.top - f.middle))};
    for (int64_t g = 0; g < groups; ++g) {
        search.begin(w + g * f.group, weights ? weights + g * f.group : nullptr);
        zeros[g] = 0;
        if (f.steps == Steps::sign) search.signs();
        if (f.steps == Steps::zero) zeros[g] = fit_zero(f, search);
        if (f.steps == Steps::symmetric)
            for (int k = 0; k < f.level_count; ++k) search.attempt(f.levels[k], whole);
        if (f.steps == Steps::table)
            for (int k = 0; k < f.level_count; ++k) search.attempt(f.levels[k], Tabled<Table>{table});
        steps[g] = search.step * search.size;
    }
}

// Calls body(table), with the kind of table that the format needs.
template <typename Body>
void with_table(const Grouped& f, Body body) {
    if (f.distinct > 16) body(Table256(f));
    else body(Table16(f.sorted));
}

void fit(const Grouped& f, const float* w, const float* weights, int64_t groups, float* steps, uint8_t* zeros) {
    with_table(f, [&](const auto& table) { fit_by(table, f, w, weights, groups, steps, zeros); });
}

// Runs `code`, numbers to codes, along a group; the end of one that is no multiple of the lanes goes through a copy.
template <typename Code>
void store_group(const float* w, int64_t count, uint8_t* codes, const Code& code) {
    int64_t e = 0;
    for (; e + Vec::lanes <= count; e += Vec::lanes) code(Vec::load(w + e)).store_codes(codes + e);
    if (e == count) return;
    float rest[Vec::lanes] = {};
    uint8_t found[Vec::lanes];
    std::memcpy(rest, w + e, static_cast<size_t>(count - e) * sizeof(float));
    code(Vec::load(rest)).store_codes(found);
    std::memcpy(codes + e, found, static_cast<size_t>(count - e));
}

template <typename Table>
void encode_by(const Table& table, const Grouped& f, const float* w, const float* scales, const uint8_t* zeros, int64_t groups,
               uint8_t* codes) {
    for (int64_t g = 0; g < groups; ++g, w += f.group, codes += f.group) {
        const Vec scale = Vec::all(scales[g]), inv = Vec::all(inverse(scales[g]));
        if (f.steps == Steps::table) {
            store_group(w, f.group, codes, [&](Vec x) { return table.code(x * inv); });
            for (int64_t e = 0; e < f.group; ++e) codes[e] = f.order[codes[e]];
        } else if (f.steps == Steps::sign) {
            const Vec half = Vec::all(inverse(scales[g] + scales[g])), one = Vec::all(1.0f);
            store_group(w, f.group, codes, [&](Vec x) { return clamp(round_even((x + scale) * half), Vec::all(0.0f), one); });
        } else {
            const float at = f.steps == Steps::zero ? zeros[g] : static_cast<float>(f.middle);
            const Vec zero = Vec::all(at), least = Vec::all(static_cast<float>(f.bottom) - at);
            const Vec most = Vec::all(static_cast<float>(f.top) - at);
            store_group(w, f.group, codes, [&](Vec x) { return clamp(round_even(x * inv), least, most) + zero; });
        }
    }
}

void encode(const Grouped& f, const float* w, const float* scales, const uint8_t* zeros, int64_t groups, uint8_t* codes) {
    with_table(f, [&](const auto& table) { encode_by(table, f, w, scales, zeros, groups, codes); });
}

// Sixteen codes as numbers.
inline void numbers_of(const uint8_t* codes, Vec* out) {
#if defined(__AVX2__) || defined(__AVX512F__)
    widen_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), out);
#else
    widen_bytes(vld1q_u8(codes), out);
#endif
}

// Sixteen numbers of a table of sixteen.
inline void look_up(const uint8_t* codes, const float* table, Vec* out) {
#if defined(__AVX512F__)
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    out[0] = {_mm512_permutexvar_ps(index, _mm512_loadu_ps(table))};
#elif defined(__AVX2__)
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    for (int p = 0; p < 2; ++p) {
        const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8 * p)));
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // the fourth bit is the sign
        out[p] = {_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), upper)};
    }
#else
    for (int p = 0; p < parts; ++p) {
        float some[Vec::lanes];
        for (int j = 0; j < Vec::lanes; ++j) some[j] = table[codes[p * Vec::lanes + j]];
        out[p] = Vec::load(some);
    }
#endif
}

// Runs `number`, sixteen codes to sixteen numbers, along a group; the last codes may lie before the end of theirs.
template <typename Number>
void load_group(const uint8_t* codes, int64_t count, float* w, const Number& number) {
    Vec found[parts];
    int64_t e = 0;
    for (; e + 16 <= count; e += 16) {
        number(codes + e, found);
        for (int p = 0; p < parts; ++p) found[p].store(w + e + p * Vec::lanes);
    }
    if (e == count) return;
    uint8_t rest[16] = {};
    float out[16];
    std::memcpy(rest, codes + e, static_cast<size_t>(count - e));
    number(rest, found);
    for (int p = 0; p < parts; ++p) found[p].store(out + p * Vec::lanes);
    std::memcpy(w + e, out, static_cast<size_t>(count - e) * sizeof(float));
}

void decode(const Grouped& f, const uint8_t* codes, const float* scales, const uint8_t* zeros, int64_t groups, float* w) {
    if (f.steps == Steps::table && f.bits > 4) return decoding_256[f.bits - 5](f, codes, scales, groups, w);
    for (int64_t g = 0; g < groups; ++g, w += f.group, codes += f.group) {
        const Vec scale = Vec::all(scales[g]);
        if (f.steps == Steps::table) {
            load_group(codes, f.group, w, [&](const uint8_t* c, Vec* out) {
                look_up(c, f.table, out);
                for (int p = 0; p < parts; ++p) out[p] = scale * out[p];
            });
        } else if (f.steps == Steps::sign) {
            load_group(codes, f.group, w, [&](const uint8_t* c, Vec* out) {
                numbers_of(c, out);
                for (int p = 0; p < parts; ++p) out[p] = (scale + scale) * out[p] - scale;
            });
        } else {
            const Vec zero = Vec::all(f.steps == Steps::zero ? zeros[g] : static_cast<float>(f.middle));
            load_group(codes, f.group, w, [&](const uint8_t* c, Vec* out) {
                numbers_of(c, out);
                for (int p = 0; p < parts; ++p) out[p] = scale * (out[p] - zero);
            });
        }
    }
}

constexpr GroupedKernels kernels_of_groups = {fit, encode, decode, pack, unpack};

}  // namespace

FEWBITS_GROUPED(grouped, kernels_of_groups)

}  // namespace fewbits
