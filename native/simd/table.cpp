// What every format shares, and the table of one instruction set; this folder is compiled once per set.
#include <cstring>

#include "fewbits/families.h"
#include "deviation.h"
#include "numbers.h"

namespace fewbits {
namespace {

// The largest magnitude as bits, NaN and infinity above all numbers.
template <typename Bits>
Bits largest_bits(const Bits* numbers, int64_t count) {
    constexpr int lanes = 128 / sizeof(Bits);
    constexpr Bits unsign = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
    Bits most[lanes] = {}, largest = 0;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        for (int lane = 0; lane < lanes; ++lane) {
            const Bits magnitude = static_cast<Bits>(numbers[i + lane] & unsign);
            most[lane] = magnitude > most[lane] ? magnitude : most[lane];
        }
    for (; i < count; ++i) {
        const Bits magnitude = static_cast<Bits>(numbers[i] & unsign);
        largest = magnitude > largest ? magnitude : largest;
    }
    for (Bits lane : most) largest = lane > largest ? lane : largest;
    return largest;
}

// Magnitudes order like their bits, so the largest is found on the stored numbers, as many to a vector as fit. Lanes are
// spelled out, or compilers fall back to single steps.
template <typename Bits, int lanes>
void extent_of(const Bits* numbers, int64_t count, Bits infinity, Bits* largest, int64_t* not_finite) {
    *not_finite = 0;
    *largest = largest_bits(numbers, count);
    if (*largest < infinity) return;  // as almost always: nothing to count
    constexpr Bits every = static_cast<Bits>(~Bits{0}), unsign = static_cast<Bits>(every >> 1);
    Bits most[lanes] = {};
    for (int64_t first = 0; first < count; first += 4096) {
        const int present = static_cast<int>(count - first < 4096 ? count - first : 4096);
        Bits bad[lanes] = {};
        const auto look = [&](Bits bits, int lane) {
            const Bits magnitude = static_cast<Bits>(bits & unsign);
            const Bits finite = magnitude < infinity ? every : Bits{0};
            const Bits counted = static_cast<Bits>(magnitude & finite);
            bad[lane] = static_cast<Bits>(bad[lane] + static_cast<Bits>(~finite & 1));
            most[lane] = counted > most[lane] ? counted : most[lane];
        };
        int i = 0;
        for (; i + lanes <= present; i += lanes)
            for (int lane = 0; lane < lanes; ++lane) look(numbers[first + i + lane], lane);
        for (; i < present; ++i) look(numbers[first + i], 0);
        for (int lane = 0; lane < lanes; ++lane) *not_finite += bad[lane];
    }
    *largest = 0;
    for (Bits lane : most) *largest = lane > *largest ? lane : *largest;
}

void extent(Number kind, const void* numbers, int64_t count, float* absmax, int64_t* not_finite) {
    if (kind == Number::f32) {
        uint32_t largest;
        extent_of<uint32_t, 16>(static_cast<const uint32_t*>(numbers), count, 0x7f800000u, &largest, not_finite);
        *absmax = bits_to_float(largest);
        return;
    }
    const uint16_t infinity = kind == Number::bf16 ? 0x7f80u : 0x7c00u;
    uint16_t largest;
    extent_of<uint16_t, 32>(static_cast<const uint16_t*>(numbers), count, infinity, &largest, not_finite);
    *absmax = kind == Number::bf16 ? bits_to_float(static_cast<uint32_t>(largest) << 16) : half_to_float(largest);
}

}  // namespace

FEWBITS_TABLE(widen, extent, deviation)

}  // namespace fewbits
