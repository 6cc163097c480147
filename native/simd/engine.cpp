// The engine's kernels, fast. One token goes through panels as they lie, bound by memory; more tokens go through panels
// unpacked 256 columns at a time, so that the work of unpacking is shared and all of it stays in the first cache.
#include <algorithm>
#include <type_traits>

#include "quads.h"
// Behind the vector type that they are made for.
#include "../engine/attention.h"
#include "../engine/bfloats.h"
#include "../engine/inputs.h"
#include "../engine/rounding.h"
#include "../packed/runs.h"
#include "fewbits/engine.h"
#include "fewbits/families.h"
#include "fewbits/products.h"
#include "panels.h"
#include "peak.h"
#include "unrolled.h"

namespace fewbits {
namespace {

void write_rows(const float* sums, int64_t count, float* out) { std::memcpy(out, sums, static_cast<size_t>(count) * sizeof(float)); }

// Scales and sums of a token's groups, from the first one of a tile on.
template <typename Type>
struct Groups {
    const float* scales;
    const int32_t* sums;
    const float* lows;

    static Groups at(const Rounded& x, int64_t token, int64_t column) {
        const int64_t g = (token * x.cols + column) / 32;
        if constexpr (Panel<Type>::halves == 1) return {x.scales + g, x.pairs + g, x.low_pairs + g};
        else return {x.scales + g, x.sums + 2 * g, x.low_sums + 2 * g};
    }
    // What the run of groups that ends with g adds to the sums of the token.
    template <int run>
    Vec add(Vec sum, int64_t g, Wholes whole, Vec scale, Vec low) const {
        if constexpr (Panel<Type>::offset != 0) {
            int32_t all = sums[g];
            for (int before = 1; before < run; ++before) all += sums[g - before];
            whole = whole - Wholes::all(Panel<Type>::offset * all);
        }
        sum = plus_product(sum, scale, whole.floats() * Vec::all(scales[g / Panel<Type>::halves]));
        if constexpr (Panel<Type>::minimums) sum = less_product(sum, low, Vec::all(lows[g]));
        return sum;
    }
};

// ---- one token, or two

// How many bytes before their turn panels are asked for: on a Zen 3, what the processor's own prefetching leaves is worth a
// fifth. A Zen 4 foresees them all, and asking costs it some percent.
constexpr int64_t ahead = Vec::lanes == 16 ? 0 : 1024;
constexpr int few_tokens = 2;

template <typename Type, int half, int tokens>
void products_of_half(const uint8_t* tile, const Lookup& lookup, const int8_t* x, int64_t cols, Wholes (&wholes)[tokens]) {
    constexpr int steps = 8 / Panel<Type>::halves;
    Products<Panel<Type>::number_bits> products[tokens];
    unrolled<steps>([&](auto step) {
        constexpr int at = half * steps + decltype(step)::value;
        const Quads codes = quads_at<Type, at>(tile, lookup);
        for (int t = 0; t < tokens; ++t) products[t].template add<decltype(step)::value>(codes, Quads::repeat(x + t * cols + 4 * at));
    });
    for (int t = 0; t < tokens; ++t) wholes[t] = products[t].template total<steps>();
}

template <typename Type, int run, int tokens>
void multiply_panel(const uint8_t* panel, const Rounded& x, Vec (&sums)[tokens]) {
    using P = Panel<Type>;
    const Lookup lookup = P::lookup();
    const int8_t* codes = x.codes;
    Groups<Type> groups[tokens];
    for (int t = 0; t < tokens; ++t) groups[t] = Groups<Type>::at(x, t, 0);
    for (Vec& sum : sums) sum = Vec::all(0.0f);
    Wholes together[tokens];
    int64_t g = 0;
    for (int64_t s = 0; s < x.cols / Type::span; ++s, panel += P::span_bytes)
        for (int tile = 0; tile < P::tiles; ++tile, codes += 32) {
            const uint8_t* own = P::codes(panel, tile);
            for (int line = 0; ahead && line < P::tile_bytes; line += 64) __builtin_prefetch(own + ahead + line);
            unrolled<P::halves>([&](auto half) {
                const int in_span = tile * P::halves + decltype(half)::value;
                Wholes wholes[tokens];
                products_of_half<Type, decltype(half)::value>(own, lookup, codes, x.cols, wholes);
                for (int t = 0; t < tokens; ++t) together[t] = g % run == 0 ? wholes[t] : together[t] + wholes[t];
                if (g % run != run - 1) return void(++g);
                const Vec scale = P::scales(panel, in_span), low = P::minimums ? P::lows(panel, in_span) : scale;
                for (int t = 0; t < tokens; ++t) sums[t] = groups[t].template add<run>(sums[t], g, together[t], scale, low);
                ++g;
            });
        }
}

template <typename Type, int run, int tokens>
void multiply_few(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) {
    for (int64_t row = 0; row < present; row += panel_rows, panels += Panel<Type>::bytes(x.cols)) {
        Vec sums[tokens];
        multiply_panel<Type, run>(panels, x, sums);
        for (int t = 0; t < tokens; ++t) {
            float own[panel_rows];
            sums[t].store(own);
            write_rows(own, std::min<int64_t>(panel_rows, present - row), out + t * stride + row);
        }
    }
}

// ---- one token as two rows of bytes, by a table and by what it leaves

// Sums of the upper and the lower bytes by the table, and of the upper ones by its rest.
template <typename Type, typename Rest>
void multiply_panel_and_rest(const uint8_t* panel, const Rounded& x, Vec (&sums)[3]) {
    using P = Panel<Type>;
    static_assert(Type::span == 32 && P::halves == 1 && !P::minimums, "one scale per tile");
    const Lookup lookup = P::lookup(), rest = Panel<Rest>::lookup();
    const Groups<Type> upper = Groups<Type>::at(x, 0, 0), lower = Groups<Type>::at(x, 1, 0);
    const Groups<Rest> left = Groups<Rest>::at(x, 0, 0);
    for (Vec& sum : sums) sum = Vec::all(0.0f);
    const int8_t* bytes = x.codes;
    for (int64_t g = 0; g < x.cols / 32; ++g, panel += P::span_bytes, bytes += 32) {
        const uint8_t* own = P::codes(panel, 0);
        for (int line = 0; ahead && line < P::tile_bytes; line += 64) __builtin_prefetch(own + ahead + line);
        Products<P::number_bits> high, low;
        Products<Panel<Rest>::number_bits> remaining;
        unrolled<8>([&](auto step) {
            constexpr int at = decltype(step)::value;
            const Quads codes = codes_at<Type, at>(own), number = lookup(codes), first = Quads::repeat(bytes + 4 * at);
            high.template add<at>(number, first);
            low.template add<at>(number, Quads::repeat(bytes + x.cols + 4 * at));
            remaining.template add<at>(rest(codes), first);
        });
        const Vec scale = P::scales(panel, 0);
        sums[0] = upper.template add<1>(sums[0], g, high.template total<8>(), scale, scale);
        sums[1] = lower.template add<1>(sums[1], g, low.template total<8>(), scale, scale);
        sums[2] = left.template add<1>(sums[2], g, remaining.template total<8>(), scale, scale);
    }
}

template <typename Type, typename Rest>
void multiply_and_rest(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) {
    for (int64_t row = 0; row < present; row += panel_rows, panels += Panel<Type>::bytes(x.cols)) {
        Vec sums[3];
        multiply_panel_and_rest<Type, Rest>(panels, x, sums);
        for (int i = 0; i < 3; ++i) {
            float own[panel_rows];
            sums[i].store(own);
            write_rows(own, std::min<int64_t>(panel_rows, present - row), out + i * stride + row);
        }
    }
}

using Multiply = void (*)(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride);
template <typename Type>
constexpr Multiply with_rest() {
    using Rest = typename RestOf<Type>::Rest;
    if constexpr (std::is_void_v<Rest>) return nullptr;
    else return multiply_and_rest<Type, Rest>;
}

// ---- many tokens

constexpr int panels_at_once = 2;
constexpr int tokens_at_once = 4;    // more would leave the sums no registers
constexpr int64_t tokens_in_cache = 64, columns_in_cache = 256;

struct Unpacked {
    alignas(64) uint8_t codes[columns_in_cache / 4][panels_at_once][quad_bytes];
    alignas(64) float scales[columns_in_cache / 16][panels_at_once][panel_rows];
    alignas(64) float lows[columns_in_cache / 16][panels_at_once][panel_rows];
};

// `tiles` tiles from tile `first` of a panel on.
template <typename Type>
void unpack(const uint8_t* panel, int64_t first, int64_t tiles, int which, Unpacked& out) {
    using P = Panel<Type>;
    const Lookup lookup = P::lookup();
    for (int64_t t = 0; t < tiles; ++t) {
        const uint8_t* span = panel + (first + t) / P::tiles * P::span_bytes;
        const int tile = static_cast<int>((first + t) % P::tiles);
        unrolled<8>([&](auto step) {
            quads_at<Type, decltype(step)::value>(P::codes(span, tile), lookup).store(out.codes[8 * t + decltype(step)::value][which]);
        });
        for (int half = 0; half < P::halves; ++half) {
            const int64_t g = t * P::halves + half;
            P::scales(span, tile * P::halves + half).store(out.scales[g][which]);
            if (P::minimums) P::lows(span, tile * P::halves + half).store(out.lows[g][which]);
        }
    }
}

// `tokens` tokens by `panels` panels over unpacked tiles, whole runs of groups: sums (tokens, panels_at_once * panel_rows), added to.
template <typename Type, int run, int panels, int tokens>
void multiply_unpacked(const Unpacked& w, int64_t tiles, const Rounded& x, int64_t token, int64_t column, float* sums) {
    using P = Panel<Type>;
    constexpr int steps = 8 / P::halves;
    const int8_t* codes = x.codes + token * x.cols + column;
    Groups<Type> groups[tokens];
    for (int t = 0; t < tokens; ++t) groups[t] = Groups<Type>::at(x, token + t, column);
    Vec sum[tokens][panels];
    for (int t = 0; t < tokens; ++t)
        for (int p = 0; p < panels; ++p) sum[t][p] = Vec::load(sums + (t * panels_at_once + p) * panel_rows);
    for (int64_t g = 0; g < tiles * P::halves; g += run) {
        Wholes wholes[tokens][panels];
        for (int64_t own = g; own < g + run; ++own) {
            Products<P::number_bits> products[tokens][panels];
            unrolled<steps>([&](auto step) {
                constexpr int s = decltype(step)::value;
                Quads quads[panels];
                for (int p = 0; p < panels; ++p) quads[p] = Quads::load(w.codes[own * steps + s][p]);
                for (int t = 0; t < tokens; ++t) {
                    const Quads numbers = Quads::repeat(codes + t * x.cols + (own * steps + s) * 4);
                    for (int p = 0; p < panels; ++p) products[t][p].template add<s>(quads[p], numbers);
                }
            });
            for (int t = 0; t < tokens; ++t)
                for (int p = 0; p < panels; ++p) {
                    const Wholes more = products[t][p].template total<steps>();
                    wholes[t][p] = own == g ? more : wholes[t][p] + more;
                }
        }
        const int64_t last = g + run - 1;
        for (int t = 0; t < tokens; ++t)
            for (int p = 0; p < panels; ++p)
                sum[t][p] = groups[t].template add<run>(sum[t][p], last, wholes[t][p], Vec::load(w.scales[last][p]), Vec::load(w.lows[last][p]));
    }
    for (int t = 0; t < tokens; ++t)
        for (int p = 0; p < panels; ++p) sum[t][p].store(sums + (t * panels_at_once + p) * panel_rows);
}

template <typename Type, int run, int panels>
void multiply_tokens(const uint8_t* panel, const Rounded& x, int64_t first, int64_t count, float* sums) {
    std::fill_n(sums, count * panels_at_once * panel_rows, 0.0f);
    Unpacked unpacked;
    for (int64_t column = 0; column < x.cols; column += columns_in_cache) {
        const int64_t tiles = std::min(columns_in_cache, x.cols - column) / 32;
        for (int p = 0; p < panels; ++p) unpack<Type>(panel + p * Panel<Type>::bytes(x.cols), column / 32, tiles, p, unpacked);
        int64_t t = 0;
        for (; t + tokens_at_once <= count; t += tokens_at_once)
            multiply_unpacked<Type, run, panels, tokens_at_once>(unpacked, tiles, x, first + t, column, sums + t * panels_at_once * panel_rows);
        for (; t < count; ++t)
            multiply_unpacked<Type, run, panels, 1>(unpacked, tiles, x, first + t, column, sums + t * panels_at_once * panel_rows);
    }
}

template <typename Type, int run>
void multiply_runs(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) {
    if (x.tokens == 1) return multiply_few<Type, run, 1>(panels, present, x, out, stride);
    if (x.tokens == few_tokens) return multiply_few<Type, run, few_tokens>(panels, present, x, out, stride);
    const int64_t panel_bytes = Panel<Type>::bytes(x.cols);
    float sums[tokens_in_cache * panels_at_once * panel_rows];
    for (int64_t first = 0; first < x.tokens; first += tokens_in_cache) {
        const int64_t count = std::min(tokens_in_cache, x.tokens - first);
        const uint8_t* panel = panels;
        for (int64_t row = 0; row < present; row += panels_at_once * panel_rows, panel += panels_at_once * panel_bytes) {
            const int64_t rows = std::min<int64_t>(panels_at_once * panel_rows, present - row);
            (rows > panel_rows ? multiply_tokens<Type, run, 2> : multiply_tokens<Type, run, 1>)(panel, x, first, count, sums);
            for (int64_t t = 0; t < count; ++t) write_rows(sums + t * panels_at_once * panel_rows, rows, out + (first + t) * stride + row);
        }
    }
}

template <typename Type>
void multiply(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) {
    if constexpr (can_run<Type>()) {
        if (x.run == long_run) return multiply_runs<Type, long_run>(panels, present, x, out, stride);
        if (x.run == short_run) return multiply_runs<Type, short_run>(panels, present, x, out, stride);
    }
    multiply_runs<Type, 1>(panels, present, x, out, stride);
}

// ---- rounding

void round_numbers(const float* x, int64_t stride, const Rounded& out) {
    for (int64_t t = 0; t < out.tokens; ++t)
        for (int64_t g = 0; g < out.cols / 32; ++g) {
            const float* in = x + t * stride + 32 * g;
            int8_t* codes = out.codes + t * out.cols + 32 * g;
            Vec most = Vec::all(0.0f);
            for (int e = 0; e < 32; e += Vec::lanes) most = max(most, abs(Vec::load(in + e)));
            float lane[Vec::lanes];
            most.store(lane);
            const float largest = *std::max_element(lane, lane + Vec::lanes);
            const Vec inverse = Vec::all(largest > least_rounded ? 127.0f / largest : 0.0f);
            out.scales[t * (out.cols / 32) + g] = largest / 127.0f;
            float whole[32];
            for (int e = 0; e < 32; e += Vec::lanes) round_even(Vec::load(in + e) * inverse).store(whole + e);
            for (int e = 0; e < 32; ++e) codes[e] = static_cast<int8_t>(static_cast<int>(whole[e]));
            note_sums(out, t * (out.cols / 32) + g);
        }
}

// ---- bfloat16, by the processor's own instruction where it has one

void multiply_bfloats_here(const uint8_t* panels, int64_t present, const Bfloats& x, float* out, int64_t stride) {
    const MultiplyBfloats own = Vec::lanes == 16 ? products_of_bfloat_rows() : nullptr;
    (own ? own : multiply_bfloats<Vec>)(panels, present, x, out, stride);
}

#define FEWBITS_PACKED(Type) {Type::name, Type::span, sizeof(Type::Span), panel_rows, Panel<Type>::bytes, pack<Type>, multiply<Type>, Type::lattice, Type::rest, \
                              nullptr, finds_run<Type>(), with_rest<Type>()},
constexpr PackedType types[] = {FEWBITS_PACKED_TYPES(FEWBITS_PACKED)};
constexpr PackedType groups[] = {FEWBITS_GROUP_TYPES(FEWBITS_PACKED)};

#define FEWBITS_BFLOATS(name, kind) {name, 1, 2, bfloat_rows, bfloat_panel_bytes, pack_bfloats<kind>, nullptr, nullptr, nullptr, multiply_bfloats_here}
constexpr PackedType bfloats[] = {FEWBITS_BFLOATS("BF16", Number::bf16), FEWBITS_BFLOATS("F16", Number::f16)};

constexpr EngineKernels engine_kernels = {types,       sizeof(types) / sizeof(*types), round_numbers, multiply_floats<Vec>,
                                          rms_norm<Vec>, layer_norm<Vec>, gate<Vec>, attend<Vec>, cache_numbers, softmax<Vec>,
                                          groups,      sizeof(groups) / sizeof(*groups), multiply_registers,
                                          round_inputs<Vec>, bfloats, round_bfloats<Vec>};

}  // namespace

FEWBITS_ENGINE(engine, engine_kernels)

}  // namespace fewbits
