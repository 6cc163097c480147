// Long groups that stay in the order they lie in: sixteen partial sums per group, element e in partial e % 16; then the
// partials of sixteen groups are turned on their side and folded, the upper half onto the lower one until one is left.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
// Lane i: the largest number of row i, none of them negative. Each round halves what is left of rows, two to a vector.
inline Vec largest_of_rows(const float* rows) {
    const auto larger = [](__m512i a, __m512i b) { return _mm512_max_epi32(a, b); };
    __m512i v[batch];
    for (int i = 0; i < batch; ++i) v[i] = _mm512_load_si512(rows + batch * i);
    for (int i = 0; i < 8; ++i)
        v[i] = larger(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i)
        v[i] = larger(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));
    for (int count = 2; count; count /= 2)
        for (int i = 0; i < count; ++i) {
            const __m512i even = _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0x88);
            v[i] = larger(even, _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0xdd));
        }
    return {_mm512_castsi512_ps(v[0])};
}
#endif

class LaneSums {
  public:
    LaneSums() {
        for (int i = 0; i < batch * batch; i += Vec::lanes) Vec::all(0.0f).store(lanes_ + i);
    }

    float* of(int g) { return lanes_ + batch * g; }  // the partials of group g

    void totals(float* out) const {
        folded(out, [](Vec a, Vec b) { return a + b; });
    }
    void largest(float* out) const {
#if defined(__AVX512F__)
        largest_of_rows(lanes_).store(out);
#else
        folded(out, [](Vec a, Vec b) { return max(a, b); });
#endif
    }

  private:
    alignas(64) float lanes_[batch * batch];

    template <typename Join>
    void folded(float* out, Join join) const {
#if defined(__AVX512F__)
        fold_pairs(out, join);
#else
        alignas(64) float columns[batch * batch];
        to_columns(lanes_, batch, columns);
        for (int g = 0; g < batch; g += Vec::lanes) {
            Vec lanes[batch];
            for (int lane = 0; lane < batch; ++lane) lanes[lane] = Vec::load(columns + batch * lane + g);
            for (int half = batch / 2; half; half /= 2)
                for (int lane = 0; lane < half; ++lane) lanes[lane] = join(lanes[lane], lanes[lane + half]);
            lanes[0].store(out + g);
        }
#endif
    }

#if defined(__AVX512F__)
    // Two vectors become one with the folded halves, quarters, ... of both, until all sixteen groups are in one.
    template <typename Join>
    void fold_pairs(float* out, Join join) const {
        Vec a[batch];
        for (int g = 0; g < batch; ++g) a[g] = Vec::load(lanes_ + batch * g);
        for (int g = 0; g < 8; ++g) a[g] = join(halves<0x44>(a[g], a[g + 8]), halves<0xEE>(a[g], a[g + 8]));
        for (int g = 0; g < 4; ++g) a[g] = join(halves<0x88>(a[g], a[g + 4]), halves<0xDD>(a[g], a[g + 4]));
        for (int g = 0; g < 2; ++g) a[g] = join(pairs<0x44>(a[g], a[g + 2]), pairs<0xEE>(a[g], a[g + 2]));
        const Vec all = join(pairs<0x88>(a[0], a[1]), pairs<0xDD>(a[0], a[1]));
        const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
        Vec{_mm512_permutexvar_ps(order, all.v)}.store(out);
    }
    template <int choice>
    static Vec halves(Vec a, Vec b) { return {_mm512_shuffle_f32x4(a.v, b.v, choice)}; }
    template <int choice>
    static Vec pairs(Vec a, Vec b) { return {_mm512_shuffle_ps(a.v, b.v, choice)}; }
#endif
};

// sum + x where the mask is set.
inline Vec add_where(Vec sum, Mask m, Vec x) {
#if defined(__AVX512F__)
    return {_mm512_mask_add_ps(sum.v, m.m, sum.v, x.v)};
#elif defined(__AVX2__)
    return {_mm256_add_ps(sum.v, _mm256_and_ps(m.m, x.v))};
#else
    return sum + select(m, x, Vec::all(0.0f));
#endif
}

// The weights of element e on; 1 where there are none.
template <bool weighted>
Vec weight_at(const float* weights, int e) {
    return weighted ? Vec::load(weights + e) : Vec::all(1.0f);
}

}  // namespace
}  // namespace fewbits
