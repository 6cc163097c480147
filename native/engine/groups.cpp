#include "groups.h"

#include <cstring>

#include "../packed/decoding.h"

namespace fewbits {
namespace {

// Tables whose numbers products round to eight bits: a span's second scale is that of the numbers themselves.
constexpr float nf4_numbers[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                                   -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                   0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                                   0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
constexpr float fp4_numbers[16] = {0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12,
                                   0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

template <const float (&numbers)[16]>
void decode_table(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t s = 0; s < spans; ++s, w += 32) {
        SpanTable span;
        uint8_t codes[32];
        std::memcpy(&span, stored + s * static_cast<int64_t>(sizeof span), sizeof span);
        read_bits<4>(span.q, codes);
        for (int c = 0; c < 32; ++c) w[c] = span.scale[1] * numbers[codes[c]];
    }
}
template <> void decode<PackNF4>(const uint8_t* stored, int64_t spans, float* w) { decode_table<nf4_numbers>(stored, spans, w); }
template <> void decode<PackFP4>(const uint8_t* stored, int64_t spans, float* w) { decode_table<fp4_numbers>(stored, spans, w); }

#define FEWBITS_DECODER(Type) {Type::name, Type::span, sizeof(Type::Span), nullptr, decode<Type>},
constexpr Codec codecs[] = {FEWBITS_GROUP_TYPES(FEWBITS_DECODER)};

}  // namespace

const Codec* group_codec_of(const char* name) {
    for (const Codec& codec : codecs)
        if (!std::strcmp(codec.name, name)) return &codec;
    return nullptr;
}

}  // namespace fewbits
