// Codes of a row, one in a byte, into the bits that store them and out of these.
#pragma once
#include "fewbits/grouped.h"
#include "vec.h"

namespace fewbits {
namespace {

// Eight codes make `bits` whole bytes.
template <int bits>
void pack_eights(const uint8_t* codes, int64_t count, uint8_t flip, uint8_t* stored) {
    for (int64_t c = 0; c < count; c += 8) {
        uint64_t packed = 0;
        for (int j = 0; j < 8; ++j)
            if (c + j < count) packed |= static_cast<uint64_t>(codes[c + j] ^ flip) << (bits * j);
        const int64_t left = (count - c) * bits + 7;
        std::memcpy(stored + c / 8 * bits, &packed, static_cast<size_t>(left / 8 < bits ? left / 8 : bits));
    }
}

// Eight codes of `bits` bits in a row, each moved into its own byte: halves of the row apart, then halves of these.
template <int bits>
uint64_t spread(uint64_t row) {
    constexpr uint64_t one = (uint64_t{1} << bits) - 1, two = (uint64_t{1} << 2 * bits) - 1, four = (uint64_t{1} << 4 * bits) - 1;
    row = (row & four) | (row << (32 - 4 * bits) & four << 32);
    row = (row & (two | two << 32)) | (row << (16 - 2 * bits) & (two << 16 | two << 48));
    return (row & (one | one << 16 | one << 32 | one << 48)) |
           (row << (8 - bits) & (one << 8 | one << 24 | one << 40 | one << 56));
}

// As many codes as sixteen at a time can be unpacked where sixteen bytes can be read; returns how many.
template <int bits>
int64_t unpack_sixteens(const uint8_t* stored, int64_t count, uint8_t flip, uint8_t* codes) {
    int64_t c = 0;
#if defined(__AVX2__) || defined(__AVX512F__)
    // Each code lies in two bytes: they become a word, the bits above the code are multiplied out of it, and those below
    // are shifted out.
    alignas(32) uint8_t places[32];
    alignas(32) uint16_t factors[16];
    for (int j = 0; j < 16; ++j) {
        places[2 * j] = static_cast<uint8_t>(bits * j / 8);
        places[2 * j + 1] = static_cast<uint8_t>(bits * j / 8 + 1);
        factors[j] = static_cast<uint16_t>(1u << (16 - bits - bits * j % 8));
    }
    const __m256i place = _mm256_load_si256(reinterpret_cast<const __m256i*>(places));
    const __m256i factor = _mm256_load_si256(reinterpret_cast<const __m256i*>(factors));
    const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
    const int64_t bytes = (count * bits + 7) / 8;
    for (; c + 16 <= count && c / 8 * bits + 16 <= bytes; c += 16) {
        const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored + c / 8 * bits));
        const __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(some), place);
        const __m256i found = _mm256_srli_epi16(_mm256_mullo_epi16(words, factor), 16 - bits);
        const __m128i narrow = _mm_packus_epi16(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + c), _mm_xor_si128(narrow, flips));
    }
#else
    (void)stored, (void)count, (void)flip, (void)codes;
#endif
    return c;
}

template <int bits>
void unpack_eights(const uint8_t* stored, int64_t count, uint8_t flip, uint8_t* codes) {
    const uint64_t flips = 0x0101010101010101u * flip;
    const int64_t bytes = (count * bits + 7) / 8;
    for (int64_t c = unpack_sixteens<bits>(stored, count, flip, codes); c < count; c += 8) {
        const int64_t at = c / 8 * bits, left = bytes - at, present = count - c < 8 ? count - c : 8;
        uint64_t row = 0;
        if (left >= 8) std::memcpy(&row, stored + at, 8);
        else std::memcpy(&row, stored + at, static_cast<size_t>(left));
        const uint64_t eight = spread<bits>(row) ^ flips;
        if (present == 8) std::memcpy(codes + c, &eight, 8);
        else std::memcpy(codes + c, &eight, static_cast<size_t>(present));
    }
}

void pack_halves_of_bytes(const uint8_t* codes, int64_t count, uint8_t flip, uint8_t* stored) {
    for (int64_t i = 0; i < count / 2; ++i)
        stored[i] = static_cast<uint8_t>((codes[2 * i] ^ flip) | (codes[2 * i + 1] ^ flip) << 4);
    if (count % 2) stored[count / 2] = codes[count - 1] ^ flip;
}

void unpack_halves_of_bytes(const uint8_t* stored, int64_t count, uint8_t flip, uint8_t* codes) {
    int64_t i = 0;
#if defined(__AVX2__) || defined(__AVX512F__)
    const __m128i mask = _mm_set1_epi8(15), flips = _mm_set1_epi8(static_cast<char>(flip));
    for (; i + 16 <= count / 2; i += 16) {
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored + i));
        const __m128i low = _mm_xor_si128(_mm_and_si128(both, mask), flips);
        const __m128i high = _mm_xor_si128(_mm_and_si128(_mm_srli_epi16(both, 4), mask), flips);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 2 * i), _mm_unpacklo_epi8(low, high));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 2 * i + 16), _mm_unpackhi_epi8(low, high));
    }
#endif
    for (; i < count / 2; ++i) {
        codes[2 * i] = (stored[i] & 15) ^ flip;
        codes[2 * i + 1] = static_cast<uint8_t>(stored[i] >> 4) ^ flip;
    }
    if (count % 2) codes[count - 1] = (stored[count / 2] & 15) ^ flip;
}

void copy_bytes(const uint8_t* from, int64_t count, uint8_t flip, uint8_t* to) {
    const uint64_t flips = 0x0101010101010101u * flip;
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        uint64_t some[4];
        std::memcpy(some, from + i, sizeof some);
        for (uint64_t& eight : some) eight ^= flips;
        std::memcpy(to + i, some, sizeof some);
    }
    for (; i < count; ++i) to[i] = from[i] ^ flip;
}

// Byte b means the codes b % 3, b / 3 % 3, ...: five bytes of eight, the others 0.
struct Fives {
    uint64_t codes[256];
    constexpr Fives() : codes() {
        for (uint64_t b = 0; b < 256; ++b)
            codes[b] = b % 3 | b / 3 % 3 << 8 | b / 9 % 3 << 16 | b / 27 % 3 << 24 | b / 81 % 3 << 32;
    }
};
constexpr Fives fives;

void pack_fives(const uint8_t* codes, int64_t count, uint8_t* stored) {
    int64_t c = 0;
    for (; c + 5 <= count; c += 5, codes += 5)
        *stored++ = static_cast<uint8_t>(codes[0] + 3 * codes[1] + 9 * codes[2] + 27 * codes[3] + 81 * codes[4]);
    int sum = 0;
    for (int64_t last = count - c; last-- > 0;) sum = 3 * sum + codes[last];
    if (c < count) *stored = static_cast<uint8_t>(sum);
}

// Eight bytes are written for five codes as long as there is room.
void unpack_fives(const uint8_t* stored, int64_t count, uint8_t* codes) {
    int64_t c = 0;
    for (; c + 8 <= count; c += 5) std::memcpy(codes + c, &fives.codes[*stored++], 8);
    for (; c < count; c += 5) std::memcpy(codes + c, &fives.codes[*stored++], static_cast<size_t>(count - c < 5 ? count - c : 5));
}

using Move = void (*)(const uint8_t*, int64_t, uint8_t, uint8_t*);
constexpr Move packing[8] = {pack_eights<1>, pack_eights<2>, pack_eights<3>, pack_halves_of_bytes,
                             pack_eights<5>, pack_eights<6>, pack_eights<7>, copy_bytes};
constexpr Move unpacking[8] = {unpack_eights<1>, unpack_eights<2>, unpack_eights<3>, unpack_halves_of_bytes,
                               unpack_eights<5>, unpack_eights<6>, unpack_eights<7>, copy_bytes};

void pack(const Grouped& f, const uint8_t* codes, int64_t count, uint8_t* stored) {
    if (f.fives) return pack_fives(codes, count, stored);
    packing[f.bits - 1](codes, count, static_cast<uint8_t>(f.flip), stored);
}
void unpack(const Grouped& f, const uint8_t* stored, int64_t count, uint8_t* codes) {
    if (f.fives) return unpack_fives(stored, count, codes);
    unpacking[f.bits - 1](stored, count, static_cast<uint8_t>(f.flip), codes);
}

}  // namespace
}  // namespace fewbits
