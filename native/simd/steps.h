// Codes of a span of 32, from the whole steps that its numbers are away from the middle of the grid to bytes.
#pragma once
#include "batch.h"

namespace fewbits {
namespace {

// Rounding to whole numbers from lowest to highest. Added to 1.5 * 2^23 a number is rounded by the addition, and its
// lowest bits are those of the whole number; as it is positive, bits order as numbers do.
class Rounding {
  public:
    Rounding(float lowest, float highest) : low_(Vec::all(at + lowest)), high_(Vec::all(at + highest)) {}
    Vec raised(Vec x) const { return clamp_positive(x + Vec::all(at), low_, high_); }
    static Vec lowered(Vec raised) { return raised - Vec::all(at); }

  private:
    static constexpr float at = 0x1.8p23f;
    Vec low_, high_;
};

// Sixteen bytes of two codes each (step + middle), from raised steps: e in the low half of byte e, e + 16 in the high half; the fifth bits,
// where codes have them, into four more bytes.
template <int middle, bool fifth>
void store_codes(const Vec* steps, uint8_t* q, uint8_t* high) {
#if defined(__AVX512F__)
    const __m512i first = _mm512_castps_si512(steps[0].v), second = _mm512_castps_si512(steps[1].v);
    const __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi32(15), first, _mm512_slli_epi32(second, 4), 0xCA);
    __m128i bytes = _mm512_cvtepi32_epi8(both);
    if (middle & 8) bytes = _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(0x88)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
    if (!fifth) return;
    const __m512i sixteen = _mm512_set1_epi32(16);
    const uint32_t bits = static_cast<uint32_t>(_mm512_test_epi32_mask(first, sixteen)) |
                          static_cast<uint32_t>(_mm512_test_epi32_mask(second, sixteen)) << 16;
    const uint32_t stored = middle & 16 ? ~bits : bits;
    std::memcpy(high, &stored, 4);
#else
    uint8_t codes[32];
    for (int v = 0; v < 32 / Vec::lanes; ++v) (Rounding::lowered(steps[v]) + Vec::all(middle)).store_codes(codes + Vec::lanes * v);
    pack_halves<16>(codes, codes + 16, q);
    if (fifth) pack_fifth_bits(codes, high);
#endif
}

// The same with a byte to a code, with its sign.
inline void store_signed(const Vec* steps, int8_t* q) {
#if defined(__AVX512F__)
    for (int v = 0; v < 2; ++v)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * v), _mm512_cvtepi32_epi8(_mm512_castps_si512(steps[v].v)));
#else
    uint8_t codes[32];  // shifted by 128
    for (int v = 0; v < 32 / Vec::lanes; ++v) (Rounding::lowered(steps[v]) + Vec::all(128.0f)).store_codes(codes + Vec::lanes * v);
    for (int e = 0; e < 32; ++e) q[e] = static_cast<int8_t>(codes[e] ^ 128);
#endif
}

}  // namespace
}  // namespace fewbits
