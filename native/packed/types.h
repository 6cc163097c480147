// Every type that the engine repacks, and what follows from its reader.
#pragma once
#include "groups.h"
#include "iq1.h"
#include "iq4.h"
#include "kquant.h"
#include "lattices.h"
#include "legacy.h"
#include "micro.h"
#include "ternary.h"

#define FEWBITS_PACKED_TYPES(DO)                                                                                              \
    DO(PackQ4_0) DO(PackQ4_1) DO(PackQ5_0) DO(PackQ5_1) DO(PackQ8_0) DO(PackQ2_K) DO(PackQ3_K) DO(PackQ4_K) DO(PackQ5_K)      \
    DO(PackQ6_K) DO(PackIQ4_NL) DO(PackIQ4_XS) DO(PackMXFP4) DO(PackNVFP4) DO(PackTQ1_0) DO(PackTQ2_0) DO(PackQ1_0)           \
    DO(PackQ2_0) DO(PackIQ2_XXS) DO(PackIQ2_XS) DO(PackIQ2_S) DO(PackIQ3_XXS) DO(PackIQ3_S) DO(PackIQ1_S) DO(PackIQ1_M)

// Types that no file has, made while a model is loaded.
#define FEWBITS_GROUP_TYPES(DO)                                                                                               \
    DO(PackEven<4>) DO(PackEven<8>) DO(PackLine<2>) DO(PackLine<3>) DO(PackLine<4>) DO(PackLine<8>) DO(PackZero4)             \
    DO(PackE2M1) DO(PackNF4) DO(PackFP4) DO(PackNF4Rest) DO(PackFP4Rest)

namespace fewbits {
namespace {

// Bits of what products are made of: codes, or numbers with the offset added.
template <typename Type>
constexpr int number_bits() {
    if (!Type::tabled) return Type::bits;
    int largest = 0, bits = 1;
    for (const int8_t number : Type::table) largest = number + Type::offset > largest ? number + Type::offset : largest;
    while (largest >> bits) ++bits;
    return bits;
}

template <typename Type>
constexpr bool has_minimums() {
    return Type::form == Form::shifted || Type::form == Form::affine || Type::form == Form::line || Type::form == Form::zeros;
}

}  // namespace
}  // namespace fewbits
