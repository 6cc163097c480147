// Plain floating-point numbers of 32 and 16 bits.
#include "fewbits/families.h"
#include "numbers.h"

namespace fewbits {
namespace {

void encode_f32(const float* w, const float*, int64_t count, uint8_t* stored) { std::memcpy(stored, w, static_cast<size_t>(count) * 4); }

void encode_f16(const float* w, const float*, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) store_half(Vec::load(w + i), out + i);
    for (; i < count; ++i) out[i] = float_to_half(w[i]);
}

void encode_bf16(const float* w, const float*, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (int64_t i = 0; i < count; ++i) out[i] = float_to_bfloat(w[i]);
}

void decode_f32(const uint8_t* stored, int64_t count, float* w) { widen(Number::f32, stored, count, w); }
void decode_f16(const uint8_t* stored, int64_t count, float* w) { widen(Number::f16, stored, count, w); }
void decode_bf16(const uint8_t* stored, int64_t count, float* w) { widen(Number::bf16, stored, count, w); }

void encode_f64(const float* w, const float*, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<double*>(stored);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<double>(w[i]);
}

void decode_f64(const uint8_t* stored, int64_t count, float* w) {
    const auto* in = reinterpret_cast<const double*>(stored);
    for (int64_t i = 0; i < count; ++i) w[i] = static_cast<float>(in[i]);
}

constexpr Codec codecs[] = {
    {"F64", 1, 8, encode_f64, decode_f64},
    {"F32", 1, 4, encode_f32, decode_f32},
    {"F16", 1, 2, encode_f16, decode_f16},
    {"BF16", 1, 2, encode_bf16, decode_bf16},
};

}  // namespace

FEWBITS_FAMILY(floats, codecs)

}  // namespace fewbits
