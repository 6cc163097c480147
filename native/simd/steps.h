// Codes of a span of 32, from the whole steps that its numbers are away from the middle of the grid to bytes.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

constexpr float raising = 0x1.8p23f;

// Rounding to whole numbers from lowest to highest. Added to 1.5 * 2^23 a number is rounded by the addition, and its
// lowest bits are those of the whole number; as it is positive, bits order as numbers do. With `middle`, an even number,
// added as well, the lowest bits are the code itself.
template <int middle>
class Rounding {
    static_assert(middle % 2 == 0, "halves are rounded to even numbers of steps");

  public:
    Rounding(float lowest, float highest) : low_(Vec::all(at + lowest)), high_(Vec::all(at + highest)) {}
    Vec raised(Vec x) const { return clamp_positive(x + Vec::all(at), low_, high_); }
    static Vec lowered(Vec raised) { return raised - Vec::all(at); }

  private:
    static constexpr float at = raising + middle;
    Vec low_, high_;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// The lowest bytes of 32 raised numbers, in their order.
inline __m256i lowest_bytes(const Vec* raised) {
    __m256i whole[4];
    for (int v = 0; v < 4; ++v) whole[v] = _mm256_sub_epi32(_mm256_castps_si256(raised[v].v), _mm256_castps_si256(Vec::all(raising).v));
    const __m256i words = _mm256_packs_epi32(whole[0], whole[1]), more = _mm256_packs_epi32(whole[2], whole[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words, more), order);
}
#endif

// Sixteen bytes of two codes each, from raised steps: e in the low half of byte e, e + 16 in the high half; the fifth
// bits, where codes have them, into four more bytes.
template <bool fifth>
void store_codes(const Vec* raised, uint8_t* q, uint8_t* high) {
#if defined(__AVX512F__)
    const __m512i first = _mm512_castps_si512(raised[0].v), second = _mm512_castps_si512(raised[1].v);
    const __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi32(15), first, _mm512_slli_epi32(second, 4), 0xCA);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(both));
    if (!fifth) return;
    const __m512i sixteen = _mm512_set1_epi32(16);
    const uint32_t bits = static_cast<uint32_t>(_mm512_test_epi32_mask(first, sixteen)) |
                          static_cast<uint32_t>(_mm512_test_epi32_mask(second, sixteen)) << 16;
    std::memcpy(high, &bits, 4);
#elif defined(__AVX2__)
    if (fifth) {
        const __m256i codes = lowest_bytes(raised), halves = _mm256_and_si256(codes, _mm256_set1_epi8(15));
        const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(codes, 3));  // bit 4 of a byte becomes its sign
        std::memcpy(high, &bits, 4);
        const __m128i second = _mm_slli_epi16(_mm256_extracti128_si256(halves, 1), 4);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm_or_si128(_mm256_castsi256_si128(halves), second));
        return;
    }
    const auto both = [&](int v) {  // in the lowest bytes
        return _mm256_or_si256(_mm256_castps_si256(raised[v].v), _mm256_slli_epi32(_mm256_castps_si256(raised[v + 2].v), 4));
    };
    const __m256i lowest = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i first = _mm256_shuffle_epi8(both(0), lowest), second = _mm256_shuffle_epi8(both(1), lowest);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi32(first, second), _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm256_castsi256_si128(bytes));
#else
    uint8_t codes[32];
    for (int v = 0; v < 32 / Vec::lanes; ++v) (raised[v] - Vec::all(raising)).store_codes(codes + Vec::lanes * v);
    pack_halves<16>(codes, codes + 16, q);
    if (fifth) pack_fifth_bits(codes, high);
#endif
}

// The same with a byte to a code, with its sign.
inline void store_signed(const Vec* raised, int8_t* q) {
#if defined(__AVX512F__)
    for (int v = 0; v < 2; ++v)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * v), _mm512_cvtepi32_epi8(_mm512_castps_si512(raised[v].v)));
#elif defined(__AVX2__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), lowest_bytes(raised));
#else
    uint8_t codes[32];  // shifted by 128
    for (int v = 0; v < 32 / Vec::lanes; ++v) (raised[v] - Vec::all(raising - 128.0f)).store_codes(codes + Vec::lanes * v);
    for (int e = 0; e < 32; ++e) q[e] = static_cast<int8_t>(codes[e] ^ 128);
#endif
}

}  // namespace
}  // namespace fewbits
