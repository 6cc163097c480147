// The stranger's reader: decodes stored spans by looking each element up in the layout, and compares with the source.
// It shares nothing with the codecs but the byte layouts' documentation: offsets are written out here once more, so a
// mistake in the codecs' structs, packing or arithmetic shows as a disagreement. Compiled once per instruction set.
#include "floats.h"
#include "kquant.h"
#include "legacy.h"

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

Agreement FEWBITS_JOIN(compare, FEWBITS_ISA_NAME)(int format, const uint8_t* stored, Number kind, const void* numbers,
                                                   int64_t count, double floor) {
    const Reading &in_file = *reading_at(format), &in_source = reading_of(kind);
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
    for (int i = 0; reading_at(i); ++i)
        if (!std::strcmp(reading_at(i)->name, name)) return i;
    return -1;
}
#endif

}  // namespace fewbits
