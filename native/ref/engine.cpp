// The engine's kernels, scalar. A panel is one row: its codes, one in a byte, behind the scales and minimums of all groups
// as floats.
#include <cmath>
#include <cstring>

#include "one.h"
// Behind the vector type that they are made for.
#include "../engine/attention.h"
#include "../engine/bfloats.h"
#include "../engine/inputs.h"
#include "../engine/rounding.h"
#include "../packed/runs.h"
#include "fewbits/engine.h"
#include "fewbits/families.h"

namespace fewbits {
namespace {

template <typename Type>
int64_t panel_bytes(int64_t cols) {
    return cols + cols / Type::group * 8;
}

template <typename Type>
void pack(const uint8_t* stored, int64_t, int64_t, int64_t cols, uint8_t* panel) {
    auto* scales = reinterpret_cast<float*>(panel);
    float* minimums = scales + cols / Type::group;
    uint8_t* codes = panel + cols / Type::group * 8;
    for (int64_t s = 0; s < cols / Type::span; ++s) {
        Parts parts;
        typename Type::Span span;
        std::memcpy(&span, stored + s * static_cast<int64_t>(sizeof span), sizeof span);
        Type::read(span, codes + s * Type::span, parts);
        for (int g = 0; g < Type::span / Type::group; ++g) {
            *scales++ = scale_of<Type>(parts, g);
            *minimums++ = minimum_of<Type>(parts, g);
        }
    }
}

template <typename Type>
float product(const uint8_t* panel, const Rounded& x, int64_t token) {
    const auto* scales = reinterpret_cast<const float*>(panel);
    const float* minimums = scales + x.cols / Type::group;
    const uint8_t* codes = panel + x.cols / Type::group * 8;
    const int run = can_run<Type>() ? x.run : 1;
    float sum = 0.0f;
    int whole = 0;
    for (int64_t g = 0; g < x.cols / Type::group; ++g) {
        int all = 0;
        for (int64_t c = g * Type::group; c < (g + 1) * Type::group; ++c) {
            whole += number_of<Type>(codes[c]) * x.codes[token * x.cols + c];
            all += x.codes[token * x.cols + c];
        }
        if (g % run != run - 1) continue;
        const float d = x.scales[token * (x.cols / 32) + g * Type::group / 32];
        sum = std::fma(scales[g], static_cast<float>(whole) * d, sum);
        if (has_minimums<Type>()) sum = std::fma(-minimums[g], static_cast<float>(all) * d, sum);
        whole = 0;
    }
    return sum;
}

template <typename Type>
void multiply(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) {
    for (int64_t t = 0; t < x.tokens; ++t)
        for (int64_t r = 0; r < present; ++r) out[t * stride + r] = product<Type>(panels + r * panel_bytes<Type>(x.cols), x, t);
}

void round_numbers(const float* x, int64_t stride, const Rounded& out) {
    for (int64_t t = 0; t < out.tokens; ++t)
        for (int64_t g = 0; g < out.cols / 32; ++g) {
            const float* in = x + t * stride + 32 * g;
            int8_t* codes = out.codes + t * out.cols + 32 * g;
            const float largest = largest_magnitude(in, 32), inverse = largest > least_rounded ? 127.0f / largest : 0.0f;
            out.scales[t * (out.cols / 32) + g] = largest / 127.0f;
            for (int e = 0; e < 32; ++e) codes[e] = static_cast<int8_t>(std::nearbyint(in[e] * inverse));
            note_sums(out, t * (out.cols / 32) + g);
        }
}

int64_t multiply_registers(int64_t rounds, const uint8_t* codes, const int8_t* x, int64_t* total) {
    *total = 0;
    for (int64_t round = 0; round < rounds; ++round)
        for (int e = 0; e < 64; ++e) *total += codes[e] * x[e % 4];
    return rounds * 64;
}

#define FEWBITS_PACKED(Type) {Type::name, Type::span, sizeof(Type::Span), 1, panel_bytes<Type>, pack<Type>, multiply<Type>, Type::lattice, Type::rest, \
                              nullptr, finds_run<Type>()},
constexpr PackedType types[] = {FEWBITS_PACKED_TYPES(FEWBITS_PACKED)};
constexpr PackedType groups[] = {FEWBITS_GROUP_TYPES(FEWBITS_PACKED)};

#define FEWBITS_BFLOATS(name, kind) {name, 1, 2, bfloat_rows, bfloat_panel_bytes, pack_bfloats<kind>, nullptr, nullptr, nullptr, multiply_bfloats<One>}
constexpr PackedType bfloats[] = {FEWBITS_BFLOATS("BF16", Number::bf16), FEWBITS_BFLOATS("F16", Number::f16)};

constexpr EngineKernels engine_kernels = {types,       sizeof(types) / sizeof(*types), round_numbers, multiply_floats<One>,
                                          rms_norm<One>, layer_norm<One>, gate<One>, attend<One>, cache_numbers, softmax<One>,
                                          groups,      sizeof(groups) / sizeof(*groups), multiply_registers,
                                          round_inputs<One>, bfloats, round_bfloats<One>};

}  // namespace

FEWBITS_ENGINE(engine, engine_kernels)

}  // namespace fewbits
