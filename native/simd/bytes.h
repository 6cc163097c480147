// Sixteen bytes at a time: codes of fewer than eight bits, taken out of the bytes that they share.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__SSE2__)
struct Bytes { __m128i v; };
inline Bytes load_bytes(const uint8_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
inline Bytes operator|(Bytes a, Bytes b) { return {_mm_or_si128(a.v, b.v)}; }
// (a >> shift) & mask.
template <int shift, int mask>
Bytes field(Bytes a) { return {_mm_and_si128(_mm_srli_epi16(a.v, shift), _mm_set1_epi8(static_cast<char>(mask)))}; }
// a << shift, of bytes whose upper bits are free.
template <int shift>
Bytes raised(Bytes a) { return {_mm_slli_epi16(a.v, shift)}; }
// `value` where a has the bit, else 0.
inline Bytes where_bit(Bytes a, int bit, int value) {
    const __m128i one = _mm_set1_epi8(static_cast<char>(1 << bit));
    return {_mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(a.v, one), one), _mm_set1_epi8(static_cast<char>(value)))};
}
// `value` in byte e where bit e of the two bytes at p is set.
inline Bytes where_bits(const uint8_t* p, int value) {
    const __m128i order = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128i each = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
    const __m128i both = _mm_shuffle_epi8(_mm_set1_epi16(static_cast<int16_t>(p[0] | p[1] << 8)), order);
    return {_mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(both, each), each), _mm_set1_epi8(static_cast<char>(value)))};
}
#else
struct Bytes { uint8x16_t v; };
inline Bytes load_bytes(const uint8_t* p) { return {vld1q_u8(p)}; }
inline Bytes operator|(Bytes a, Bytes b) { return {vorrq_u8(a.v, b.v)}; }
template <int shift, int mask>
Bytes field(Bytes a) { return {vandq_u8(vshlq_u8(a.v, vdupq_n_s8(-shift)), vdupq_n_u8(mask))}; }
template <int shift>
Bytes raised(Bytes a) { return {vshlq_n_u8(a.v, shift)}; }
inline Bytes where_bit(Bytes a, int bit, int value) {
    return {vandq_u8(vtstq_u8(a.v, vdupq_n_u8(static_cast<uint8_t>(1 << bit))), vdupq_n_u8(static_cast<uint8_t>(value)))};
}
inline Bytes where_bits(const uint8_t* p, int value) {
    const uint8x8_t each = vcreate_u8(0x8040201008040201ull);
    const uint8x16_t both = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return {vandq_u8(vtstq_u8(both, vcombine_u8(each, each)), vdupq_n_u8(static_cast<uint8_t>(value)))};
}
#endif

// w[e] = number(code e) for sixteen codes.
template <typename Number>
void decode_codes(Bytes codes, float* w, Number number) {
    Vec x[16 / Vec::lanes];
    widen_bytes(codes.v, x);
    for (int p = 0; p < 16 / Vec::lanes; ++p) number(x[p]).store(w + Vec::lanes * p);
}

}  // namespace
}  // namespace fewbits
