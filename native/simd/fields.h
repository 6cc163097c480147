// What codecs with several fields share: sums over sixteen lanes, rows of numbers and their codes.
#pragma once
#include <vector>

#include "decoders.h"
#include "fewbits/families.h"
#include "fewbits/scales.h"
#include "numbers.h"

namespace fewbits {
namespace {

constexpr int lanes = 16, vectors = lanes / Vec::lanes;

// Lane j takes elements j, j + 16, ...; in the end the upper half of the lanes is added to the lower one, four times.
struct LaneSum {
    Vec part[vectors];
    LaneSum() {
        for (Vec& p : part) p = Vec::all(0.0f);
    }
    float total() const {
        alignas(64) float sum[lanes];
        for (int p = 0; p < vectors; ++p) part[p].store(sum + Vec::lanes * p);
        for (int i = 0; i < 8; ++i) sum[i] += sum[i + 8];
        for (int i = 0; i < 4; ++i) sum[i] += sum[i + 4];
        return (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
};

// Calls body(part, sixteen / parts numbers, their weights) for `count` numbers, filled up with zeros; no weights are ones.
template <bool weighted, typename Body>
void for_lanes(const float* x, const float* weights, int64_t count, Body body) {
    const Vec one = Vec::all(1.0f);
    const auto sixteen = [&](const float* numbers, const float* own) {
        for (int p = 0; p < vectors; ++p)
            body(p, Vec::load(numbers + Vec::lanes * p), weighted ? Vec::load(own + Vec::lanes * p) : one);
    };
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) sixteen(x + i, weights + (weighted ? i : 0));
    if (i == count) return;
    float rest[lanes] = {}, rest_weights[lanes] = {};
    std::memcpy(rest, x + i, static_cast<size_t>(count - i) * sizeof(float));
    if (weighted) std::memcpy(rest_weights, weights + i, static_cast<size_t>(count - i) * sizeof(float));
    sixteen(rest, rest_weights);
}

template <bool weighted>
Vec weigh(Vec weight, Vec x) { return weighted ? weight * x : x; }

inline float largest_of(const float* x, int64_t count) {
    Vec most[vectors];
    for (Vec& m : most) m = Vec::all(0.0f);
    for_lanes<false>(x, nullptr, count, [&](int p, Vec v, Vec) { most[p] = max(most[p], abs(v)); });
    alignas(64) float found[lanes];
    for (int p = 0; p < vectors; ++p) most[p].store(found + Vec::lanes * p);
    float largest = 0.0f;
    for (const float lane : found) largest = lane > largest ? lane : largest;
    return largest;
}

// Codes of one row, from numbers that are divided by their scales already, or from numbers and their scales.
template <typename Type>
class Row {
  public:
    explicit Row(int64_t cols) : cols_(cols), halves_(static_cast<size_t>(cols + lanes)) {}

    // Numbers from `first` on, all under one scale.
    void encode(const float* x, int64_t first, int64_t count, float inverse) {
        const Vec inv = Vec::all(inverse), to_half = Vec::all(Type::to_half);
        const Rounding<Type> rounded;
        uint16_t* out = halves_.data() + first;
        int64_t i = 0;
        for (; i + Vec::lanes <= count; i += Vec::lanes) store_half(rounded(Vec::load(x + i) * inv) * to_half, out + i);
        if (i == count) return;
        float rest[Vec::lanes] = {};
        uint16_t found[Vec::lanes];
        std::memcpy(rest, x + i, static_cast<size_t>(count - i) * sizeof(float));
        store_half(rounded(Vec::load(rest) * inv) * to_half, found);
        std::memcpy(out + i, found, static_cast<size_t>(count - i) * 2);
    }
    void store(uint8_t* codes) {
        std::memset(halves_.data() + cols_, 0, halves_beyond * 2);
        from_halves<Type>(halves_.data(), cols_, codes);
    }

    void load(const uint8_t* codes) { to_halves<Type>(codes, cols_, halves_.data()); }
    void decode(int64_t first, int64_t count, float scale, float* w) const {
        const Vec s = Vec::all(scale), from_half = Vec::all(Type::from_half);
        const uint16_t* in = halves_.data() + first;
        int64_t i = 0;
        for (; i + Vec::lanes <= count; i += Vec::lanes) (s * (load_half(in + i) * from_half)).store(w + i);
        if (i == count) return;
        float rest[Vec::lanes];
        (s * (load_half(in + i) * from_half)).store(rest);
        std::memcpy(w + i, rest, static_cast<size_t>(count - i) * sizeof(float));
    }

  private:
    int64_t cols_;
    std::vector<uint16_t> halves_;
};

// Whole bytes in two's complement need no binary16.
template <>
class Row<Sixtyfourths> {
  public:
    explicit Row(int64_t cols) : cols_(cols), codes_(static_cast<size_t>(cols + lanes)) {}

    void encode(const float* x, int64_t first, int64_t count, float inverse) {
        const Vec inv = Vec::all(inverse), steps = Vec::all(64.0f), middle = Vec::all(128.0f);
        const Rounding<Sixtyfourths> rounded;
        for (int64_t i = 0; i < count; i += Vec::lanes)
            (rounded(Vec::load(x + i) * inv) * steps + middle).store_codes(codes_.data() + first + i);
    }
    void store(uint8_t* codes) {
        for (int64_t i = 0; i < cols_; ++i) codes[i] = static_cast<uint8_t>(codes_[static_cast<size_t>(i)] ^ 128);
    }

    void load(const uint8_t* codes) { std::memcpy(codes_.data(), codes, static_cast<size_t>(cols_)); }
    void decode(int64_t first, int64_t count, float scale, float* w) const {
        const uint8_t* in = codes_.data() + first;
        for (int64_t i = 0; i < count; ++i)
            w[i] = scale * (static_cast<float>(static_cast<int8_t>(in[i])) * 0x1p-6f);
    }

  private:
    int64_t cols_;
    std::vector<uint8_t> codes_;
};

inline int64_t code_row_bytes(int64_t cols, int bits) { return (cols * bits + 7) / 8; }

inline int64_t line_of(const Slab& slab, int64_t row) { return slab.scope_rows ? row / slab.scope_rows : 0; }

// Rows under the scales that are stored.
template <typename Type>
void encode_rows(const Slab& slab, const float* w) {
    const int64_t span = slab.span(), per_line = slab.scales_per_line();
    Row<Type> row(slab.cols);
    for (int64_t r = 0; r < slab.rows; ++r) {
        for (int64_t g = 0; g < per_line; ++g) {
            const float scale = load_scale(slab, line_of(slab, r) * per_line + g);
            row.encode(w + r * slab.cols + g * span, g * span, span, inverse_of(scale));
        }
        row.store(slab.codes + r * code_row_bytes(slab.cols, Type::bits));
    }
}

// The scales of one line, all at once.
inline void load_line(const Slab& slab, int64_t line, int64_t count, float* scales) {
    const uint8_t* p = slab.scales + scale_bytes(slab.type) * line * count;
    switch (slab.type) {
        case ScaleType::e8m0:
            for (int64_t i = 0; i < count; ++i) {
                const uint32_t normal = static_cast<uint32_t>(p[i]) << 23, power = p[i] ? normal : 0x00400000u;
                scales[i] = bits_to_float(p[i] == 255 ? 0x7fc00000u : power);
            }
            return;
        case ScaleType::e4m3:
            for (int64_t i = 0; i < count; ++i) scales[i] = slab.tensor_scale * from_mini(e4m3, p[i]);
            return;
        case ScaleType::e4m3_divided:
            for (int64_t i = 0; i < count; ++i) scales[i] = from_mini(e4m3, p[i]) / slab.tensor_scale;
            return;
        case ScaleType::f16:
        case ScaleType::bf16: return widen(slab.type == ScaleType::f16 ? Number::f16 : Number::bf16, p, count, scales);
        case ScaleType::f32: std::memcpy(scales, p, static_cast<size_t>(count) * sizeof(float));
    }
}

// How many numbers at the start of each scope are decoded in registers.
template <typename Type>
int64_t in_registers(const Slab& slab) {
    const int64_t span = slab.span();
    if (!Decoder<Type>::read || (span % lanes && slab.scales_per_line() > 1)) return 0;
    return span / lanes * lanes;
}

// `count` numbers under one scale, sixteen at a time; where a row is the `last` one, nothing may be read behind it.
template <typename Type>
void decode_sixteens(const Decoder<Type>& sixteen, const uint8_t* codes, int64_t count, bool last, float scale, float* w) {
    using Fast = Decoder<Type>;
    const bool tight = last && count && Fast::read > Fast::bytes;
    const Vec by = Vec::all(scale);
    int64_t i = 0;
    for (; i < count - (tight ? lanes : 0); i += lanes) sixteen(codes + i / 8 * Type::bits, by, w + i);
    if (!tight) return;
    uint8_t rest[Fast::bytes + 16] = {};
    std::memcpy(rest, codes + i / 8 * Type::bits, Fast::bytes);
    sixteen(rest, by, w + i);
}

template <typename Type>
void decode_rows(const Slab& slab, float* w) {
    const int64_t span = slab.span(), per_line = slab.scales_per_line(), row_bytes = code_row_bytes(slab.cols, Type::bits);
    const int64_t fast = in_registers<Type>(slab);
    const Decoder<Type> sixteen;
    std::vector<float> scales(static_cast<size_t>(per_line));
    Row<Type> row(slab.cols);
    for (int64_t r = 0; r < slab.rows; ++r, w += slab.cols) {
        const uint8_t* codes = slab.codes + r * row_bytes;
        if (r == 0 || line_of(slab, r) != line_of(slab, r - 1)) load_line(slab, line_of(slab, r), per_line, scales.data());
        for (int64_t g = 0; g < per_line; ++g) {
            const bool last = r == slab.rows - 1 && g == per_line - 1;
            decode_sixteens(sixteen, codes + g * span / 8 * Type::bits, fast, last, scales[static_cast<size_t>(g)], w + g * span);
        }
        if (fast == span) continue;
        row.load(codes);
        for (int64_t g = 0; g < per_line; ++g)
            row.decode(g * span + fast, span - fast, scales[static_cast<size_t>(g)], w + g * span + fast);
    }
}

}  // namespace
}  // namespace fewbits
