// The stranger's reader: decodes stored spans by looking each element up in the layout, and compares with the source.
// It shares nothing with the codecs but the byte layouts' documentation: offsets are written out here once more, so a
// mistake in the codecs' structs, packing or arithmetic shows as a disagreement. Compiled once per instruction set.
#include "floats.h"
#include "iq1.h"
#include "iq4.h"
#include "iq.h"
#include "kquant.h"
#include "legacy.h"
#include "micro.h"
#include "ternary.h"
#include "tiny.h"

#define FEWBITS_JOIN_(a, b) a##_##b
#define FEWBITS_JOIN(a, b) FEWBITS_JOIN_(a, b)

namespace fewbits {
namespace {

struct Readings {
    const Reading* readings;
    int count;
};

template <size_t n>
constexpr Readings all_of(const Reading (&readings)[n]) { return {readings, static_cast<int>(n)}; }

// One line per family.
constexpr Readings families[] = {
    all_of(float_readings),
    all_of(legacy_readings),
    all_of(kquant_readings),
    all_of(iq4_readings),
    all_of(iq1_readings),
    all_of(ternary_readings),
    all_of(tiny_readings),
    all_of(micro_readings),
    all_of(iq_readings),
};

// nullptr beyond the last.
const Reading* reading_at(int index) {
    for (const Readings& family : families) {
        if (index < family.count) return &family.readings[index];
        index -= family.count;
    }
    return nullptr;
}

const Reading& reading_of(Number kind) { return float_readings[kind == Number::f32 ? 0 : kind == Number::bf16 ? 1 : 2]; }

// The sums of a row as kernels.h defines them: sixteen lanes each, eight to a vector.
struct Totals {
    DoubleLanes errors[2] = {}, squares[2] = {};
    DoubleLanes worst = {};
};

DoubleLanes half_of(Lanes v, int half) { return widened(reinterpret_cast<const float*>(&v) + 8 * half); }

void add_in_single(const TileSums& sums, Totals* totals) {
    for (int half = 0; half < 2; ++half) {
        totals->errors[half] += half_of(sums.errors, half);
        totals->squares[half] += half_of(sums.squares, half);
    }
}

TileSums sums_of(const float* want, const float* got) {
    TileSums sums;
    for (int j = 0; j < tile; j += 16) {
        const Lanes x = load<Lanes>(want + j), r = x - load<Lanes>(got + j);
        sums.errors = plus_square(sums.errors, r);
        sums.squares = plus_square(sums.squares, x);
    }
    return sums;
}

void add_in_double(const float* want, const float* got, Totals* totals) {
    DoubleLanes errors[2] = {}, squares[2] = {};
    for (int j = 0; j < tile; j += 8) {
        const DoubleLanes x = widened(want + j), r = x - widened(got + j);
        errors[j / 8 % 2] += r * r;
        squares[j / 8 % 2] += x * x;
    }
    for (int half = 0; half < 2; ++half) {
        totals->errors[half] += errors[half];
        totals->squares[half] += squares[half];
    }
}

void compare_tile(const Reading& stored, const uint8_t* p, const Reading& source, const uint8_t* numbers, double floor,
                  Totals* totals) {
    const auto fit_single = [](float largest) { return largest > squares_from && largest <= squares_to; };
    const Reading::Measure measure = &source == float_readings       ? stored.of_f32
                                     : &source == float_readings + 1 ? stored.of_bf16
                                                                     : nullptr;
    TileSums sums;
    if (measure && fit_single(measure(p, numbers, floor, &sums, &totals->worst))) return add_in_single(sums, totals);
    float want[tile], got[tile];
    source.read(numbers, want);
    stored.read(p, got);
    if (fit_single(stored.extent(want, got, floor, &totals->worst))) return add_in_single(sums_of(want, got), totals);
    add_in_double(want, got, totals);
}

}  // namespace

Agreement FEWBITS_JOIN(compare, FEWBITS_ISA_NAME)(int format, const uint8_t* stored, Number kind, const void* numbers,
                                                   int64_t count, double floor) {
    const Reading &in_file = *reading_at(format), &in_source = reading_of(kind);
    const auto* source = static_cast<const uint8_t*>(numbers);
    Totals totals;
    const int64_t whole = count / tile, rest = count % tile;
    for (int64_t t = 0; t < whole; ++t)
        compare_tile(in_file, stored + t * in_file.tile_bytes, in_source, source + t * in_source.tile_bytes, floor, &totals);
    if (rest) {  // zero bytes mean zero in every format
        uint8_t p[8 * tile] = {}, n[4 * tile] = {};
        std::memcpy(p, stored + whole * in_file.tile_bytes, static_cast<size_t>(in_file.tile_bytes * rest / tile));
        std::memcpy(n, source + whole * in_source.tile_bytes, static_cast<size_t>(in_source.tile_bytes * rest / tile));
        compare_tile(in_file, p, in_source, n, floor, &totals);
    }
    Agreement sum{0.0, 0.0, 0.0};
    for (int lane = 0; lane < 8; ++lane) sum.worst = totals.worst[lane] > sum.worst ? totals.worst[lane] : sum.worst;
    for (int lane = 0; lane < 16; ++lane) {
        sum.squared_error += totals.errors[lane / 8][lane % 8];
        sum.squared += totals.squares[lane / 8][lane % 8];
    }
    return sum;
}

#ifdef FEWBITS_COMPARE_NAMES
int compare_format(const char* name) {
    for (int i = 0; reading_at(i); ++i)
        if (!std::strcmp(reading_at(i)->name, name)) return i;
    return -1;
}
#endif

}  // namespace fewbits
