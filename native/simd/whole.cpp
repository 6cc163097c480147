// Products of whole numbers, a tile of rows and tokens at a time in registers. A vector of a panel has the same four
// columns of all its rows, so that nothing has to be added up across it.
#include <algorithm>
#include <cstring>

#include "../engine/requantizing.h"
#include "fewbits/families.h"
#include "fewbits/whole.h"
#include "doubles.h"
#include "quads.h"
#include "unrolled.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
// The instruction multiplies 0 .. 255 by -128 .. 127.
constexpr bool signed_inputs = false;
constexpr int most_panels = 4;
constexpr int most_tokens(int panels) { return panels == 4 ? 6 : panels == 3 ? 8 : 12; }
struct Weights {
    __m512i v;
    static Weights load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
};
struct Inputs4 {
    __m512i v;
    static Inputs4 load(const uint8_t* four) { return {Quads::repeat(reinterpret_cast<const int8_t*>(four)).v}; }
};
inline Wholes plus(Wholes sum, Weights w, Inputs4 x) { return {_mm512_dpbusd_epi32(sum.v, x.v, w.v)}; }
inline void store(Wholes sum, int32_t* out) { _mm512_storeu_si512(out, sum.v); }
inline Wholes load_wholes(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline Doubles doubles_of(Wholes a) { return {_mm512_cvtepi32_pd(_mm512_castsi512_si256(a.v)), _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(a.v, 1))}; }
inline __m512d brought(__m512d a, double low, double high) {  // down to a whole number, and between two others
    return _mm512_min_pd(_mm512_max_pd(_mm512_roundscale_pd(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), _mm512_set1_pd(low)), _mm512_set1_pd(high));
}
inline void store_bytes(Doubles a, const Bounds& how, uint8_t* out) {
    const __m256i low = _mm512_cvtpd_epi32(brought(a.low, how.low, how.high)), high = _mm512_cvtpd_epi32(brought(a.high, how.low, how.high));
    const __m512i codes = _mm512_add_epi32(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), _mm512_set1_epi32(how.zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(codes));
}
#elif defined(__AVX2__)
// Products of 8 bits would saturate where they are added up in pairs, so numbers are widened to 16 bits first.
constexpr bool signed_inputs = true;
constexpr int most_panels = 2;
constexpr int most_tokens(int panels) { return panels == 2 ? 3 : 6; }
inline __m256i even_bytes(__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
struct Halves {
    __m256i even, odd;
    static Halves of(__m256i v) { return {even_bytes(v), _mm256_srai_epi16(v, 8)}; }
};
struct Weights : Halves {
    static Weights load(const uint8_t* p) { return {of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
};
struct Inputs4 : Halves {
    static Inputs4 load(const uint8_t* four) { return {of(Quads::repeat(reinterpret_cast<const int8_t*>(four)).v)}; }
};
inline Wholes plus(Wholes sum, const Weights& w, const Inputs4& x) {
    return {_mm256_add_epi32(sum.v, _mm256_add_epi32(_mm256_madd_epi16(w.even, x.even), _mm256_madd_epi16(w.odd, x.odd)))};
}
inline void store(Wholes sum, int32_t* out) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum.v); }
inline Wholes load_wholes(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
inline Doubles doubles_of(Wholes a) { return {_mm256_cvtepi32_pd(_mm256_castsi256_si128(a.v)), _mm256_cvtepi32_pd(_mm256_extracti128_si256(a.v, 1))}; }
inline void store_four(__m256d a, const Bounds& how, uint8_t* out) {
    const __m256d bounded = _mm256_min_pd(_mm256_max_pd(_mm256_floor_pd(a), _mm256_set1_pd(how.low)), _mm256_set1_pd(how.high));
    const __m128i codes = _mm_add_epi32(_mm256_cvtpd_epi32(bounded), _mm_set1_epi32(how.zero));
    const int32_t four = _mm_cvtsi128_si32(_mm_shuffle_epi8(codes, _mm_set1_epi32(0x0c080400)));
    std::memcpy(out, &four, 4);
}
inline void store_bytes(Doubles a, const Bounds& how, uint8_t* out) {
    store_four(a.low, how, out);
    store_four(a.high, how, out + 4);
}
#elif defined(__ARM_NEON)
constexpr bool signed_inputs = true;
constexpr int most_panels = 4;
constexpr int most_tokens(int panels) { return panels == 4 ? 4 : 8; }
struct Weights {
    int8x16_t v;
    static Weights load(const uint8_t* p) { return {vreinterpretq_s8_u8(vld1q_u8(p))}; }
};
struct Inputs4 {
    int8x16_t v;
    static Inputs4 load(const uint8_t* four) { return {vreinterpretq_s8_u8(Quads::repeat(reinterpret_cast<const int8_t*>(four)).v)}; }
};
inline Wholes plus(Wholes sum, Weights w, Inputs4 x) {
    const int16x8_t low = vmull_s8(vget_low_s8(w.v), vget_low_s8(x.v)), high = vmull_s8(vget_high_s8(w.v), vget_high_s8(x.v));
    return {vaddq_s32(sum.v, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))};
}
inline void store(Wholes sum, int32_t* out) { vst1q_s32(out, sum.v); }
inline Wholes load_wholes(const int32_t* p) { return {vld1q_s32(p)}; }
inline Doubles doubles_of(Wholes a) { return {vcvtq_f64_s64(vmovl_s32(vget_low_s32(a.v))), vcvtq_f64_s64(vmovl_s32(vget_high_s32(a.v)))}; }
inline int32x2_t brought(float64x2_t a, double low, double high) {  // down to a whole number, and between two others
    return vmovn_s64(vcvtq_s64_f64(vminq_f64(vmaxq_f64(vrndmq_f64(a), vdupq_n_f64(low)), vdupq_n_f64(high))));
}
inline void store_bytes(Doubles a, const Bounds& how, uint8_t* out) {
    const int32x4_t codes = vcombine_s32(brought(a.low, how.low, how.high), brought(a.high, how.low, how.high));
    const int16x4_t narrow = vmovn_s32(vaddq_s32(codes, vdupq_n_s32(how.zero)));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(narrow, narrow))), 0);
    std::memcpy(out, &four, 4);
}
#endif

int64_t quads_of(int64_t cols) { return (cols + 3) / 4; }
int64_t panel_bytes(int64_t pieces, int64_t cols) { return pieces * quads_of(cols) * quad_bytes; }

void pack(const int8_t* w, int64_t present, int64_t pieces, int64_t cols, uint8_t* panel) {
    std::memset(panel, 0, static_cast<size_t>(panel_bytes(pieces, cols)));
    for (int64_t row = 0; row < present; ++row)
        for (int64_t piece = 0; piece < pieces; ++piece)
            for (int64_t k = 0; k < cols; ++k)
                panel[(piece * quads_of(cols) + k / 4) * quad_bytes + 4 * row + k % 4] = static_cast<uint8_t>(w[(row * pieces + piece) * cols + k]);
}

void store_some(Wholes sum, int64_t rows, int32_t* out) {
    if (rows >= panel_rows) return store(sum, out);
    int32_t lanes[panel_rows];
    store(sum, lanes);
    std::memcpy(out, lanes, static_cast<size_t>(rows) * sizeof(int32_t));
}

// What all tiles of some panels have in common.
struct Task {
    const uint8_t* panels;
    int64_t present, panel;  // rows that are there, bytes of a panel
    const Pieces& pieces;
    const uint8_t* x;
    int32_t* sums;
    int64_t stride;
};

// All loops over sums are unrolled: sums have to stay in registers.
template <int panels, int tokens>
void multiply_tile(const Task& task, const int64_t* at, int64_t first) {
    Wholes sums[panels * tokens];
    unrolled<panels * tokens>([&](auto i) { sums[i] = Wholes::all(0); });
    const uint8_t* w = task.panels;
    const int64_t panel = task.panel, quads = quads_of(task.pieces.cols);
    for (int64_t piece = 0; piece < task.pieces.count; ++piece) {
        const uint8_t* x[tokens];
        unrolled<tokens>([&](auto t) { x[t] = task.x + task.pieces.at[piece] + at[t]; });
        for (int64_t k = 0; k < quads; ++k, w += quad_bytes) {
            Weights own[panels];
            unrolled<panels>([&](auto p) { own[p] = Weights::load(w + p * panel); });
            unrolled<tokens>([&](auto t) {
                const Inputs4 four = Inputs4::load(x[t] + 4 * k);
                unrolled<panels>([&](auto p) { sums[t * panels + p] = plus(sums[t * panels + p], own[p], four); });
            });
        }
    }
    unrolled<tokens>([&](auto t) {
        int32_t* out = task.sums + (first + t) * task.stride;
        unrolled<panels>([&](auto p) { store_some(sums[t * panels + p], task.present - p * panel_rows, out + p * panel_rows); });
    });
}

template <int panels, int tokens>
void multiply_rest(const Task& task, const int64_t* at, int64_t first, int64_t count) {
    if constexpr (tokens > 0) {
        if (count == tokens) multiply_tile<panels, tokens>(task, at, first);
        else multiply_rest<panels, tokens - 1>(task, at, first, count);
    }
}

template <int panels>
void multiply_panels(const Task& task, const int64_t* at, int64_t count) {
    constexpr int most = most_tokens(panels);
    int64_t first = 0;
    for (; first + most <= count; first += most) multiply_tile<panels, most>(task, at + first, first);
    multiply_rest<panels, most - 1>(task, at + first, first, count - first);
}

template <int panels>
void multiply_few(const Task& task, const int64_t* at, int64_t count) {
    if constexpr (panels > 0) {
        if (task.present > (panels - 1) * panel_rows) multiply_panels<panels>(task, at, count);
        else multiply_few<panels - 1>(task, at, count);
    }
}

void multiply(const uint8_t* panels, int64_t present, const Pieces& pieces, const uint8_t* x, const int64_t* tokens, int64_t count, int32_t* sums,
              int64_t stride) {
    const int64_t bytes = panel_bytes(pieces.count, pieces.cols), together = most_panels * panel_rows;
    for (int64_t row = 0; row < present; row += together)
        multiply_few<most_panels>({panels + row / panel_rows * bytes, std::min(together, present - row), bytes, pieces, x, sums + row, stride}, tokens, count);
}

void requantize(const int32_t* sums, int64_t positions, int64_t first, int64_t rows, const Requantization& how, uint8_t* codes, int64_t stride) {
    for (int64_t at = 0; at < positions; ++at, sums += rows, codes += stride) {
        int64_t row = 0;
        for (; row + panel_rows <= rows; row += panel_rows) {
            const Doubles whole = doubles_of(load_wholes(sums + row) + load_wholes(how.offset + first + row));
            store_bytes(whole * Doubles::load(how.factor + first + row) + Doubles::load(how.half + first + row), how.bounds, codes + row);
        }
        for (; row < rows; ++row) codes[row] = requantized(sums[row], first + row, how);
    }
}

// Codes less their zero point, times m.
inline Doubles scaled(const uint8_t* codes, const Addition& how, int side) {
    const uint8_t flip = how.is_signed[side] ? 0 : 0x80;  // as signed numbers, all of them 128 less
    uint8_t own[panel_rows];
    for (int i = 0; i < panel_rows; ++i) own[i] = codes[i] ^ flip;
    return doubles_of(Wholes::widened(own) - Wholes::all(how.zero[side] - flip)) * Doubles::all(how.m[side]);
}

void add(const uint8_t* one, const uint8_t* other, int64_t count, const Addition& how, uint8_t* codes) {
    const Doubles factor = Doubles::all(how.factor), half = Doubles::all(how.half);
    int64_t i = 0;
    for (; i + panel_rows <= count; i += panel_rows)
        store_bytes((scaled(one + i, how, 0) + scaled(other + i, how, 1)) * factor + half, how.bounds, codes + i);
    for (; i < count; ++i) codes[i] = added(one[i], other[i], how);
}

constexpr WholeKernels whole_kernels = {panel_rows, signed_inputs, panel_bytes, pack, multiply, requantize, add};

}  // namespace

FEWBITS_WHOLE(whole, whole_kernels)

}  // namespace fewbits
