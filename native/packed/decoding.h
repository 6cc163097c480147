// What a type's codes and scales stand for, as floats.
#pragma once
#include "types.h"

namespace fewbits {
namespace {

template <typename Type>
float scale_of(const Parts& parts, int g) {
    if (Type::form == Form::bfloat) return bits_to_float(static_cast<uint32_t>(parts.d[g]) << 16);
    if (Type::form == Form::single || Type::form == Form::line) return parts.s[g];
    if (Type::form == Form::half || Type::form == Form::shifted || Type::form == Form::zeros) return half_to_float(parts.d[g]);
    const float d = Type::unit * half_to_float(parts.d[0]);
    return Type::form == Form::whole ? d : d * static_cast<float>(parts.scale[g]);
}

template <typename Type>
float minimum_of(const Parts& parts, int g) {
    if (Type::form == Form::line) return parts.low[g];
    if (Type::form == Form::shifted) return half_to_float(parts.m[g]);
    if (Type::form == Form::zeros) return half_to_float(parts.d[g]) * static_cast<float>(parts.minimum[g]);
    return Type::form == Form::affine ? Type::unit * half_to_float(parts.m[0]) * static_cast<float>(parts.minimum[g]) : 0.0f;
}

template <typename Type>
int number_of(uint8_t code) {
    return Type::tabled ? Type::table[code & 15] : code - Type::offset;
}

template <typename Type>
void decode(const uint8_t* stored, int64_t spans, float* w) {
    for (int64_t s = 0; s < spans; ++s, w += Type::span) {
        Parts parts;
        uint8_t codes[Type::span];
        typename Type::Span span;
        std::memcpy(&span, stored + s * static_cast<int64_t>(sizeof span), sizeof span);
        Type::read(span, codes, parts);
        for (int c = 0; c < Type::span; ++c) {
            const int g = c / Type::group;
            w[c] = scale_of<Type>(parts, g) * static_cast<float>(number_of<Type>(codes[c])) - minimum_of<Type>(parts, g);
        }
    }
}

}  // namespace
}  // namespace fewbits
