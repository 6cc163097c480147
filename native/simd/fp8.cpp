// Small floats with floating-point scales.
#include "fields.h"
#include "sixteen.h"

namespace fewbits {
namespace {

// The scale that removes most of the weighted energy of `count` numbers.
template <typename Type, bool weighted>
float best_scale(const float* x, const float* weights, int64_t count) {
    const float least = smallest_normal * Type::largest, found = largest_of(x, count), size = found < least ? least : found;
    const Vec inv = Vec::all(inverse_of(size));
    const Rounding<Type> rounded;
    float best = 0.0f, scale = 1.0f / Type::largest;
    for (int l = 0; l < Type::levels.count; ++l) {
        const Vec level = Vec::all(Type::levels.levels[l]);
        LaneSum yv, vv;
        for_lanes<weighted>(x, weights, count, [&](int p, Vec number, Vec weight) {
            const Vec y = number * inv, v = rounded(y * level), product = weigh<weighted>(weight, v);
            yv.part[p] = yv.part[p] + product * y;
            vv.part[p] = vv.part[p] + product * v;
        });
        const float a = yv.total(), b = vv.total(), own = a * inverse_of(b), lowest = 1.0f / Type::levels.reach;
        const float candidate = own < lowest ? lowest : own, gain = candidate * ((a + a) - candidate * b);
        if (!(gain > best)) continue;
        best = gain;
        scale = candidate;
    }
    return scale * size;
}

// The same for sixteen short spans, of which `present` are there.
template <typename Type, bool weighted>
void best_scales(const float* x, const float* weights, int64_t span, int present, float* scales) {
    alignas(64) float size[batch] = {}, inv[batch], a[batch], b[batch], best[batch] = {}, y[longest_short * batch];
    const float least = smallest_normal * Type::largest;
    const Rounding<Type> rounded;
    LaneSums yv, vv;
    largest_along(x, span, present, size);
    for (int s = 0; s < batch; ++s) {
        size[s] = size[s] < least ? least : size[s];
        inv[s] = inverse_of(size[s]);
        scales[s] = 1.0f / Type::largest;
    }
    for (int s = 0; s < present; ++s)
        for (int64_t e = span * s; e < span * (s + 1); e += Vec::lanes) (Vec::load(x + e) * Vec::all(inv[s])).store(y + e);
    for (int l = 0; l < Type::levels.count; ++l) {
        const Vec level = Vec::all(Type::levels.levels[l]), lowest = Vec::all(1.0f / Type::levels.reach);
        add_along<weighted>(y, weights, span, present, {&yv, &vv}, [&](int, Vec number, Vec weight, Vec* sums) {
            const Vec v = rounded(number * level), product = weigh<weighted>(weight, v);
            sums[0] = sums[0] + product * number;
            sums[1] = sums[1] + product * v;
        });
        yv.totals(a);
        vv.totals(b);
        for (int s = 0; s < batch; s += Vec::lanes) {
            const Vec sum = Vec::load(a + s), squares = Vec::load(b + s), own = sum * inverse(squares);
            const Vec candidate = select(own < lowest, lowest, own), gain = candidate * ((sum + sum) - candidate * squares);
            const Mask better = gain > Vec::load(best + s);
            select(better, gain, Vec::load(best + s)).store(best + s);
            select(better, candidate, Vec::load(scales + s)).store(scales + s);
        }
    }
    for (int s = 0; s < present; ++s) scales[s] = scales[s] * size[s];
}

template <typename Type, bool weighted>
void fit_short(const Slab& slab, const float* w, const float* weights) {
    const int64_t span = slab.span();
    for_sixteens(slab.rows * slab.cols / span, [&](int64_t first, int present) {
        alignas(64) float scales[batch];
        best_scales<Type, weighted>(w + span * first, weighted ? weights + span * first : nullptr, span, present, scales);
        for (int s = 0; s < present; ++s) store_scale(slab, first + s, scales[s] < smallest_normal ? smallest_normal : scales[s]);
    });
}

// Numbers of a scope one after another: where they lie, or copied together if rows are apart.
inline const float* gathered(const Slab& slab, const float* w, int64_t row, int64_t rows, int64_t col, std::vector<float>* copy) {
    const int64_t span = slab.span();
    if (slab.scope_rows == 1) return w + row * slab.cols + col;
    copy->resize(static_cast<size_t>(rows * span));
    for (int64_t r = 0; r < rows; ++r)
        std::memcpy(copy->data() + r * span, w + (row + r) * slab.cols + col, static_cast<size_t>(span) * sizeof(float));
    return copy->data();
}

template <typename Type, bool weighted>
void fit(const Slab& slab, const float* w, const float* weights) {
    if (slab.scope_rows == 1 && is_short(slab.span())) return fit_short<Type, weighted>(slab, w, weights);
    std::vector<float> numbers, own;
    int64_t scale = 0;
    for (int64_t row = 0; row < slab.rows; row += slab.scope_rows) {
        const int64_t rows = slab.rows - row < slab.scope_rows ? slab.rows - row : slab.scope_rows;
        for (int64_t col = 0; col < slab.cols; col += slab.span()) {
            const float* x = gathered(slab, w, row, rows, col, &numbers);
            const float* weight = weighted ? gathered(slab, weights, row, rows, col, &own) : nullptr;
            const float found = best_scale<Type, weighted>(x, weight, rows * slab.span());
            store_scale(slab, scale++, found < smallest_normal ? smallest_normal : found);
        }
    }
}

template <typename Type>
void encode(const Slab& slab, const float* w, const float* weights) {
    if (slab.scope_rows && weights) fit<Type, true>(slab, w, weights);
    else if (slab.scope_rows) fit<Type, false>(slab, w, weights);
    encode_rows<Type>(slab, w);
}

constexpr FieldCodec codecs[] = {
    {"fp8_e4m3", 8, encode<E4M3>, decode_rows<E4M3>},
    {"fp8_e5m2", 8, encode<E5M2>, decode_rows<E5M2>},
    {"fp6_e3m2", 6, encode<E3M2>, decode_rows<E3M2>},
    {"fp6_e2m3", 6, encode<E2M3>, decode_rows<E2M3>},
    {"fp4_e2m1", 4, encode<E2M1>, decode_rows<E2M1>},
};

}  // namespace

FEWBITS_FIELD_FAMILY(fp8, codecs)

}  // namespace fewbits
