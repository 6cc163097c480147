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

constexpr int longest_span = 256;

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

void read_f32(const uint8_t* p, float* w) {
    float x;
    std::memcpy(&x, p, 4);
    w[0] = x;
}
void read_f16(const uint8_t* p, float* w) { w[0] = binary16(p); }
void read_bf16(const uint8_t* p, float* w) {
    const uint32_t bits = static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 24;
    float x;
    std::memcpy(&x, &bits, 4);
    w[0] = x;
}
void read_q4_0(const uint8_t* p, float* w) {
    const float d = binary16(p);
    for (int j = 0; j < 16; ++j) {
        w[j] = d * (p[2 + j] % 16 - 8);
        w[16 + j] = d * (p[2 + j] / 16 - 8);
    }
}
void read_q5_0(const uint8_t* p, float* w) {
    const float d = binary16(p);
    for (int j = 0; j < 16; ++j) {
        w[j] = d * (p[6 + j] % 16 + 16 * (p[2 + j / 8] >> j % 8 & 1) - 16);
        w[16 + j] = d * (p[6 + j] / 16 + 16 * (p[4 + j / 8] >> j % 8 & 1) - 16);
    }
}
void read_q5_1(const uint8_t* p, float* w) {
    const float d = binary16(p), m = binary16(p + 2);
    for (int j = 0; j < 32; ++j) {
        const int nibble = j < 16 ? p[8 + j] % 16 : p[8 + j - 16] / 16;
        w[j] = m + d * (nibble + (p[4 + j / 8] & 1 << j % 8 ? 16 : 0));
    }
}
void read_q8_0(const uint8_t* p, float* w) {
    const float d = binary16(p);
    for (int j = 0; j < 32; ++j) w[j] = d * static_cast<int8_t>(p[2 + j]);
}
void read_q4_k(const uint8_t* p, float* w) {
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
void read_q5_k(const uint8_t* p, float* w) {
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
void read_q6_k(const uint8_t* p, float* w) {
    const float d = binary16(p + 208);
    for (int row = 0; row < 8; ++row) {  // rows of 32 columns: low nibbles of rows 0 1, then high nibbles of rows 2 3
        const int half = row / 4, r = row % 4;
        for (int j = 0; j < 32; ++j) {
            const int nibbles = p[64 * half + 32 * (r % 2) + j], pairs = p[128 + 32 * half + j];
            const int code = (r < 2 ? nibbles % 16 : nibbles / 16) + 16 * (pairs >> 2 * r & 3);
            w[32 * row + j] = d * static_cast<int8_t>(p[192 + 2 * row + j / 16]) * (code - 32);
        }
    }
}

struct Reading {
    const char* name;
    int columns, bytes;
    void (*read)(const uint8_t*, float*);
};
constexpr Reading readings[] = {
    {"F32", 1, 4, read_f32},       {"F16", 1, 2, read_f16},       {"BF16", 1, 2, read_bf16},
    {"Q4_0", 32, 18, read_q4_0},   {"Q5_0", 32, 22, read_q5_0},   {"Q8_0", 32, 34, read_q8_0},
    {"Q4_K", 256, 144, read_q4_k}, {"Q5_K", 256, 176, read_q5_k}, {"Q6_K", 256, 210, read_q6_k},
    {"Q5_1", 32, 24, read_q5_1},
};

void read_numbers(Number kind, const uint8_t* p, int64_t first, int count, float* w) {
    if (kind == Number::f32) {
        std::memcpy(w, p + 4 * first, static_cast<size_t>(count) * 4);
        return;
    }
    if (kind == Number::f16) {
        for (int j = 0; j < count; ++j) read_f16(p + 2 * (first + j), w + j);
        return;
    }
    uint16_t bits[longest_span];
    std::memcpy(bits, p + 2 * first, static_cast<size_t>(count) * 2);
    uint32_t whole[longest_span];
    for (int j = 0; j < count; ++j) whole[j] = static_cast<uint32_t>(bits[j]) << 16;
    std::memcpy(w, whole, static_cast<size_t>(count) * 4);
}

}  // namespace

Agreement FEWBITS_JOIN(compare_, FEWBITS_ISA_NAME)(int format, const uint8_t* stored, Number kind, const void* numbers,
                                                   int64_t rows, int64_t cols, double floor) {
    const Reading& reading = readings[format];
    const auto* source = static_cast<const uint8_t*>(numbers);
    float want[longest_span], got[longest_span];
    Agreement sum{0.0, 0.0, 0.0};
    const int64_t count = rows * cols;
    // Formats of single numbers are taken up to 256 at a time, so that one loop serves all.
    const int span = reading.columns > 1 ? reading.columns : longest_span;
    for (int64_t first = 0; first < count; first += span) {
        const int present = count - first < span ? static_cast<int>(count - first) : span;
        read_numbers(kind, source, first, present, want);
        if (reading.columns > 1)
            reading.read(stored + first / span * reading.bytes, got);
        else
            for (int j = 0; j < present; ++j) reading.read(stored + (first + j) * reading.bytes, got + j);
        const int padded = (present + 7) / 8 * 8;
        for (int j = present; j < padded; ++j) want[j] = got[j] = 0.0f;
        // Eight lanes, because a compiler may not reorder one long sum or maximum of floats.
        double errors[8] = {}, squares[8] = {};
        float sizes[8] = {}, distances[8] = {};
        for (int j = 0; j < padded; j += 8)
            for (int lane = 0; lane < 8; ++lane) {
                const double x = want[j + lane], r = x - static_cast<double>(got[j + lane]);
                errors[lane] += r * r;
                squares[lane] += x * x;
            }
        for (int j = 0; j < padded; j += 8)
            for (int lane = 0; lane < 8; ++lane) {
                const float far = std::fabs(want[j + lane] - got[j + lane]), size = std::fabs(want[j + lane]);
                distances[lane] = far > distances[lane] ? far : distances[lane];
                sizes[lane] = size > sizes[lane] ? size : sizes[lane];
            }
        double largest = 0.0, farthest = 0.0;
        for (int lane = 0; lane < 8; ++lane) {
            sum.squared_error += errors[lane];
            sum.squared += squares[lane];
            largest = std::fmax(largest, sizes[lane]);
            farthest = std::fmax(farthest, distances[lane]);
        }
        const double beyond = farthest - floor;
        const double ratio = beyond <= 0.0 ? 0.0 : largest > 0.0 ? beyond / largest : INFINITY;
        sum.worst = ratio > sum.worst ? ratio : sum.worst;
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
