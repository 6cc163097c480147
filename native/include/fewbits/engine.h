// What the engine computes with: products of packed weights and rounded numbers, products of floats, and attention.
// Every number that comes out is summed up in an order that neither the instruction set nor the number of tokens or
// threads changes, so that scalar and fast kernels are equal in every bit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fewbits {

enum class Number : int;

constexpr int64_t rounded_group = 32;
constexpr float least_rounded = 0x1p-100f;

// Rows of numbers, one per token, rounded to 8 bits in groups of 32: x ~ scale * code with scale = the largest
// magnitude / 127. Codes are 0 in groups where that is no larger than `least_rounded`. `cols` is a multiple of 32.
struct Rounded {
    int64_t tokens, cols;
    int8_t* codes;    // (tokens, cols)
    float* scales;    // (tokens, cols / 32)
    int32_t* sums;    // (tokens, cols / 16): sums of 16 codes
    int32_t* pairs;   // (tokens, cols / 32): sums of 32 codes
    float* low_sums;  // the same as numbers: sum * scale
    float* low_pairs;
    // Groups that have one scale, here and in the weights: their products are added up as whole numbers (packed/runs.h).
    int run = 1;

    static constexpr int64_t bytes(int64_t tokens, int64_t cols) { return tokens * (cols + cols / 32 * 28); }
    // In `room` of that many bytes.
    static Rounded in(void* room, int64_t tokens, int64_t cols) {
        Rounded r{tokens, cols, nullptr, static_cast<float*>(room), nullptr, nullptr, nullptr, nullptr, 1};
        const int64_t groups = tokens * (cols / 32);
        r.low_pairs = r.scales + groups;
        r.low_sums = r.low_pairs + groups;
        r.pairs = reinterpret_cast<int32_t*>(r.low_sums + 2 * groups);
        r.sums = r.pairs + groups;
        r.codes = reinterpret_cast<int8_t*>(r.sums + 2 * groups);
        return r;
    }
    Rounded token(int64_t t, int64_t count) const {
        const int64_t groups = t * (cols / 32);
        return {count,          cols, codes + t * cols, scales + groups, sums + 2 * groups, pairs + groups, low_sums + 2 * groups,
                low_pairs + groups, run};
    }
};

// How numbers become whole ones before a product:
//   group8       8 bits in groups of 32: scale = largest magnitude / 127, and 0 where that is no normal number, code = x
//                times the scale's inverse
//   group16      16 bits in groups of 32: scale = largest magnitude / 32512, code = 255 * upper + lower, both of them in
//                -127 .. 127. Rows of Rounded are the upper bytes of all tokens, then the lower ones
//   token8       the same with one scale per token
//   token8_zero  8 bits, scale = (largest - smallest number, or 0) / 254 and a whole zero point per token
enum class Inputs : int { group8 = 0, group16 = 1, token8 = 2, token8_zero = 3 };
constexpr float upper_step = 255.0f;

constexpr int64_t rows_per_token(Inputs how) { return how == Inputs::group16 ? 2 : 1; }

// Rows of numbers in bfloat16, one per token; `cols` is a multiple of 32.
struct Bfloats {
    int64_t tokens, cols;
    const uint16_t* numbers;
};

// A type of weights, repacked for one instruction set: `rows` rows of a matrix together make a panel.
//
// With codes c, a group's scale s and minimum m (w = s * (c - offset) - m), and numbers x ~ d * q, a product is, group by
// group of columns (or run of groups) and in single precision, fused where it says so:
//     whole = sum (c - offset) * q                      exact
//     sum   = fused(sum + s * (whole * d))
//     sum   = fused(sum - m * (d * sum of q))           where there are minimums
struct PackedType {
    const char* name;  // of the format
    int span;          // columns are a multiple of it
    int span_bytes;    // as stored
    int rows;          // of a panel
    int64_t (*panel_bytes)(int64_t cols);
    // Up to `rows` stored rows as a panel; rows that are not there are zero.
    void (*pack)(const uint8_t* stored, int64_t row_bytes, int64_t present, int64_t cols, uint8_t* panel);
    // out[token * stride + row] of all tokens and of `present` rows in consecutive panels.
    void (*multiply)(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride);
    const char* lattice = nullptr;  // the table of points that must be given first (fewbits/lattices.h)
    // The type that multiplies the same panels by what this one's table leaves out, times `rest_steps`; nullptr: nothing.
    const char* rest = nullptr;
    // Instead of `multiply`, where numbers are rounded to bfloat16.
    void (*multiply_bfloats)(const uint8_t* panels, int64_t present, const Bfloats& x, float* out, int64_t stride) = nullptr;
    int (*run)(const uint8_t* stored, int64_t rows, int64_t cols) = nullptr;  // the longest that stored rows allow
    // Of one token's upper and lower bytes, two rows of Rounded: their products, and those of the upper ones by `rest`; nullptr:
    // nothing does all three at once.
    void (*multiply_with_rest)(const uint8_t* panels, int64_t present, const Rounded& x, float* out, int64_t stride) = nullptr;
};
constexpr float rest_steps = 256.0f;

enum class CacheType : int { f32 = 0, f16 = 1, q8_0 = 2, q4_0 = 3 };

// Queries of `tokens` consecutive positions, `heads` of them each, over the keys and values of the one head that they
// share. Sums over columns take sixteen lanes, the softmax runs over tiles of `attention_tile` keys counted from key 0,
// values are added in the order of keys.
struct Attention {
    int64_t tokens, heads, width, value_width;
    int64_t position;    // of the first token, which sees keys up to its own
    int64_t window;      // how many keys a token sees at most, itself included; 0: all
    int64_t everything;  // 0, or how many keys every token sees, whatever its position (encoders)
    const float* query;  // (tokens, heads, width), a token every `query_stride`
    int64_t query_stride;
    const uint8_t* keys;  // (positions, width) as cached
    const uint8_t* values;
    CacheType type;
    float scale, softcap;  // scores are scale * q k, then softcap * tanh(scores / softcap) unless softcap is 0
    const float* sinks;    // a score per head that takes part in the sum alone; nullptr: none
    float* out;            // (tokens, heads, value_width), a token every `out_stride`
    int64_t out_stride;
};
constexpr int64_t attention_tile = 32;

// silu_limited: of gpt-oss, (up + 1) * gate * sigmoid(1.702 gate), with gate at most 7 and up within -7 and 7.
enum class Activation : int { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3, silu_limited = 4 };

struct EngineKernels {
    const PackedType* types;
    size_t type_count;
    // As Rounded says; numbers beyond `cols` of a group that is not full count as 0.
    void (*round)(const float* x, int64_t stride, const Rounded& out);
    // out[token * stride + row] = x[token] . w[row] for `rows` rows of plain numbers (engine/floats.h says in which order).
    void (*multiply)(Number kind, const void* w, int64_t rows, int64_t cols, const float* x, int64_t x_stride, int64_t tokens, float* out,
                     int64_t out_stride);
    void (*rms_norm)(const float* x, const float* gain, float epsilon, int64_t count, float* out);
    void (*layer_norm)(const float* x, const float* gain, const float* bias, float epsilon, int64_t count, float* out);
    void (*gate)(Activation kind, const float* gate, const float* up, int64_t count, float* out);  // up == nullptr: act(gate)
    void (*attend)(const Attention& task, float* scratch);
    // Numbers of one head into the cache, and bytes of `count` numbers there.
    void (*cache)(CacheType type, const float* x, int64_t count, uint8_t* out);
    void (*softmax)(float* x, int64_t count);
    const PackedType* groups;  // types that no file has (packed/groups.h)
    size_t group_count;
    // `rounds` times as many products as one go has of codes 0 .. 15 (64 of them, in fours) and four numbers again and
    // again, all in registers; returns how many, and their sum.
    int64_t (*multiply_registers)(int64_t rounds, const uint8_t* codes, const int8_t* x, int64_t* total);
    // Tokens `begin` .. `end` - 1 of x as `how` says, into their rows of `out`, which has those of all tokens; `zeros` gets the
    // zero points (token8_zero): x ~ scale * (code - zero). Of what is not finite a scale is NaN.
    void (*round_inputs)(Inputs how, const float* x, int64_t stride, int64_t begin, int64_t end, const Rounded& out, float* zeros);
    // BF16 and F16 (engine/bfloats.h), and numbers rounded to bfloat16, to nearest even, with zeros up to whole thirty-twos.
    const PackedType* bfloats;
    void (*round_bfloats)(const float* x, int64_t count, uint16_t* out);
};

constexpr int64_t cached_bytes(CacheType type, int64_t count) {
    switch (type) {
        case CacheType::f32: return 4 * count;
        case CacheType::f16: return 2 * count;
        case CacheType::q8_0: return count / 32 * 34;
        default: return count / 32 * 18;
    }
}

// Floats that `attend` needs.
constexpr int64_t attention_scratch(int64_t queries, int64_t width, int64_t value_width) {
    return attention_tile * (width + value_width) + queries * (width + value_width + attention_tile + 3);
}

}  // namespace fewbits
