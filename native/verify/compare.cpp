// The stranger's reader: decodes stored spans by looking each element up in the layout, and compares with the source.
// It shares nothing with the codecs but the byte layouts' documentation: offsets are written out here once more, so a
// mistake in the codecs' structs, packing or arithmetic shows as a disagreement. Compiled once per instruction set.
#include <cmath>
#include <cstring>

#include "fewbits/kernels.h"

#define FEWBITS_JOIN_(a, b) a##b
#define FEWBITS_JOIN(a, b) FEWBITS_JOIN_(a, b)

namespace fewbits {
namespace {

constexpr int tile = 256;  // columns compared together; every span divides it

// Exponent and fraction moved into place, then the difference of the two exponent biases multiplied away.
float binary16(const uint8_t* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0] | p[1] << 8);
    if ((bits & 0x7c00u) == 0x7c00u) return bits & 0x3ffu ? NAN : bits & 0x8000u ? -INFINITY : INFINITY;
    const uint32_t moved = (bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13;
    float small;
    std::memcpy(&small, &moved, 4);
    return small * 0x1p112f;
}

// Six-bit number `index` (0-7 scales, 8-15 minimums) of the twelve bytes of a K-quant span.
int six_bits(const uint8_t* p, int index) {
    const int j = index & 7, is_min = index >> 3;
    if (j < 4) return p[j + 4 * is_min] & 63;
    const int low = is_min ? p[j + 4] >> 4 : p[j + 4] & 15;
    return low + 16 * (p[j - 4 + 4 * is_min] >> 6);
}

void read_f16(const uint8_t* __restrict p, float* __restrict w) { w[0] = binary16(p); }
void read_q4_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 16; ++j) {
        w[j] = d * (p[2 + j] % 16 - 8);
        w[16 + j] = d * (p[2 + j] / 16 - 8);
    }
}
void read_q5_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 16; ++j) {
        w[j] = d * (p[6 + j] % 16 + 16 * (p[2 + j / 8] >> j % 8 & 1) - 16);
        w[16 + j] = d * (p[6 + j] / 16 + 16 * (p[4 + j / 8] >> j % 8 & 1) - 16);
    }
}
void read_q5_1(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), m = binary16(p + 2);
    for (int j = 0; j < 32; ++j) {
        const int nibble = j < 16 ? p[8 + j] % 16 : p[8 + j - 16] / 16;
        w[j] = m + d * (nibble + (p[4 + j / 8] & 1 << j % 8 ? 16 : 0));
    }
}
void read_q8_0(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p);
    for (int j = 0; j < 32; ++j) w[j] = d * static_cast<int8_t>(p[2 + j]);
}
void read_q4_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), dmin = binary16(p + 2);
    for (int pair = 0; pair < 4; ++pair) {
        const float s0 = d * six_bits(p + 4, 2 * pair), s1 = d * six_bits(p + 4, 2 * pair + 1);
        const float m0 = dmin * six_bits(p + 4, 8 + 2 * pair), m1 = dmin * six_bits(p + 4, 9 + 2 * pair);
        for (int j = 0; j < 32; ++j) {
            const int byte = p[16 + 32 * pair + j];
            w[64 * pair + j] = s0 * (byte % 16) - m0;
            w[64 * pair + 32 + j] = s1 * (byte / 16) - m1;
        }
    }
}
void read_q5_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p), dmin = binary16(p + 2);
    for (int pair = 0; pair < 4; ++pair) {
        const float s0 = d * six_bits(p + 4, 2 * pair), s1 = d * six_bits(p + 4, 2 * pair + 1);
        const float m0 = dmin * six_bits(p + 4, 8 + 2 * pair), m1 = dmin * six_bits(p + 4, 9 + 2 * pair);
        for (int j = 0; j < 32; ++j) {
            const int byte = p[48 + 32 * pair + j], fifth = p[16 + j] >> (2 * pair);
            w[64 * pair + j] = s0 * (byte % 16 + 16 * (fifth & 1)) - m0;
            w[64 * pair + 32 + j] = s1 * (byte / 16 + 16 * (fifth >> 1 & 1)) - m1;
        }
    }
}
void read_q6_k(const uint8_t* __restrict p, float* __restrict w) {
    const float d = binary16(p + 208);
    // Each half has four rows of 32 columns: rows 0 and 1 in low nibbles, 2 and 3 in high ones; a scale serves 16.
    for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 2; ++part) {
            float step[4];
            for (int r = 0; r < 4; ++r) step[r] = d * static_cast<int8_t>(p[192 + 8 * half + 2 * r + part]);
            const uint8_t *first = p + 64 * half + 16 * part, *second = first + 32;
            const uint8_t* upper = p + 128 + 32 * half + 16 * part;
            float* out = w + 128 * half + 16 * part;
            for (int j = 0; j < 16; ++j) {
                out[j] = step[0] * (first[j] % 16 + 16 * (upper[j] % 4) - 32);
                out[32 + j] = step[1] * (second[j] % 16 + 16 * (upper[j] / 4 % 4) - 32);
                out[64 + j] = step[2] * (first[j] / 16 + 16 * (upper[j] / 16 % 4) - 32);
                out[96 + j] = step[3] * (second[j] / 16 + 16 * (upper[j] / 64) - 32);
            }
        }
}

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
void read_tile(const uint8_t* __restrict p, float* __restrict w) {
    for (int s = 0; s < tile / columns; ++s) read(p + bytes * s, w + columns * s);
}

void read_bf16_tile(const uint8_t* __restrict p, float* __restrict w) {
    uint16_t upper[tile];
    uint32_t whole[tile];
    std::memcpy(upper, p, sizeof upper);
    for (int j = 0; j < tile; ++j) whole[j] = static_cast<uint32_t>(upper[j]) << 16;
    std::memcpy(w, whole, sizeof whole);
}

void read_f32_tile(const uint8_t* __restrict p, float* __restrict w) { std::memcpy(w, p, tile * sizeof(float)); }

int32_t magnitude_bits(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & 0x7fffffff;
}

// The largest (|want - got| - floor) / max |want| over the tile's spans. Magnitudes are compared as whole numbers, which
// order alike and, unlike floats, may be compared in any order.
template <int columns>
double worst_of(const float* want, const float* got, double floor) {
    double worst = 0.0;
    for (int s = 0; s < tile; s += columns) {
        int32_t far = 0, size = 0;
        for (int j = s; j < s + columns; ++j) {
            const int32_t distance = magnitude_bits(want[j] - got[j]), own = magnitude_bits(want[j]);
            far = distance > far ? distance : far;
            size = own > size ? own : size;
        }
        float farthest, largest;
        std::memcpy(&farthest, &far, 4);
        std::memcpy(&largest, &size, 4);
        const double beyond = farthest - floor;
        if (beyond > worst * largest) worst = largest > 0.0f ? beyond / largest : INFINITY;
    }
    return worst;
}

struct Reading {
    const char* name;
    int tile_bytes;
    void (*read)(const uint8_t*, float*);
    double (*worst)(const float*, const float*, double);
};

template <int columns, int bytes, void (*read)(const uint8_t*, float*)>
constexpr Reading reading(const char* name) {
    return {name, tile / columns * bytes, read_tile<columns, bytes, read>, worst_of<columns>};
}

constexpr Reading readings[] = {
    {"F32", 4 * tile, read_f32_tile, worst_of<tile>},
    {"BF16", 2 * tile, read_bf16_tile, worst_of<tile>},
    {"F16", 2 * tile, read_tile<1, 2, read_f16>, worst_of<tile>},
    reading<32, 18, read_q4_0>("Q4_0"),
    reading<32, 22, read_q5_0>("Q5_0"),
    reading<32, 24, read_q5_1>("Q5_1"),
    reading<32, 34, read_q8_0>("Q8_0"),
    reading<256, 144, read_q4_k>("Q4_K"),
    reading<256, 176, read_q5_k>("Q5_K"),
    reading<256, 210, read_q6_k>("Q6_K"),
};

const Reading& reading_of(Number kind) { return readings[kind == Number::f32 ? 0 : kind == Number::bf16 ? 1 : 2]; }

// Eight lanes, because a compiler may not reorder one long sum of floats.
void add_squares(const float* want, const float* got, Agreement* sum) {
    double errors[8] = {}, squares[8] = {};
    for (int j = 0; j < tile; j += 8)
        for (int lane = 0; lane < 8; ++lane) {
            const double x = want[j + lane], r = x - static_cast<double>(got[j + lane]);
            errors[lane] += r * r;
            squares[lane] += x * x;
        }
    for (int lane = 0; lane < 8; ++lane) {
        sum->squared_error += errors[lane];
        sum->squared += squares[lane];
    }
}

void compare_tile(const Reading& stored, const uint8_t* p, const Reading& source, const uint8_t* numbers, double floor,
                  Agreement* sum) {
    float want[tile], got[tile];
    source.read(numbers, want);
    stored.read(p, got);
    add_squares(want, got, sum);
    const double worst = stored.worst(want, got, floor);
    sum->worst = worst > sum->worst ? worst : sum->worst;
}

}  // namespace

Agreement FEWBITS_JOIN(compare_, FEWBITS_ISA_NAME)(int format, const uint8_t* stored, Number kind, const void* numbers,
                                                   int64_t count, double floor) {
    const Reading &in_file = readings[format], &in_source = reading_of(kind);
    const auto* source = static_cast<const uint8_t*>(numbers);
    Agreement sum{0.0, 0.0, 0.0};
    const int64_t whole = count / tile, rest = count % tile;
    for (int64_t t = 0; t < whole; ++t)
        compare_tile(in_file, stored + t * in_file.tile_bytes, in_source, source + t * in_source.tile_bytes, floor, &sum);
    if (rest) {  // zero bytes mean zero in every format
        uint8_t p[4 * tile] = {}, n[4 * tile] = {};
        std::memcpy(p, stored + whole * in_file.tile_bytes, static_cast<size_t>(in_file.tile_bytes * rest / tile));
        std::memcpy(n, source + whole * in_source.tile_bytes, static_cast<size_t>(in_source.tile_bytes * rest / tile));
        compare_tile(in_file, p, in_source, n, floor, &sum);
    }
    return sum;
}

#ifdef FEWBITS_COMPARE_NAMES
int compare_format(const char* name) {
    for (int i = 0; i < static_cast<int>(sizeof(readings) / sizeof(Reading)); ++i)
        if (!std::strcmp(readings[i].name, name)) return i;
    return -1;
}
#endif

}  // namespace fewbits
