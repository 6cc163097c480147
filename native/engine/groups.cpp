#include "groups.h"

#include <cstring>

#include "../packed/decoding.h"

namespace fewbits {
namespace {

#define FEWBITS_DECODER(Type) {Type::name, Type::span, sizeof(Type::Span), nullptr, decode<Type>},
constexpr Codec codecs[] = {FEWBITS_GROUP_TYPES(FEWBITS_DECODER)};

}  // namespace

const Codec* group_codec_of(const char* name) {
    for (const Codec& codec : codecs)
        if (!std::strcmp(codec.name, name)) return &codec;
    return nullptr;
}

}  // namespace fewbits
