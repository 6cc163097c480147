// Families of codecs: one source file each in native/ref and native/simd, listed here and nowhere else.
#pragma once
#include "fewbits/kernels.h"

// sources.cmake reads this line too.
#define FEWBITS_FAMILIES(DO) DO(floats) DO(legacy) DO(kquant) DO(iq4) DO(iq1) DO(ternary) DO(tiny) DO(micro) DO(fp8) DO(mx) DO(iq2) DO(iq3) DO(grouped) DO(lines) DO(feedback) DO(whole) DO(engine)

#define FEWBITS_JOIN_(a, b) a##_##b
#define FEWBITS_JOIN(a, b) FEWBITS_JOIN_(a, b)
#define FEWBITS_TEXT_(a) #a
#define FEWBITS_TEXT(a) FEWBITS_TEXT_(a)

// At the end of a family's file: its array of codecs, under a name that every instruction set has for itself.
#define FEWBITS_FAMILY(family, codecs)                                    \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME);      \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {codecs, sizeof(codecs) / sizeof(Codec)};

// The same for codecs of formats with several fields on disk.
#define FEWBITS_FIELD_FAMILY(family, codecs)                              \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME);      \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, codecs, sizeof(codecs) / sizeof(FieldCodec)};

// The same for kernels of groups, of which there is one set.
#define FEWBITS_GROUPED(family, kernels)                             \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME); \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, nullptr, 0, &kernels};

// The same for error feedback.
#define FEWBITS_FEEDBACK(family, kernels)                            \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME); \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, nullptr, 0, nullptr, &kernels};

// The same for codes with an offset of their own.
#define FEWBITS_LINES(family, kernels)                               \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME); \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, nullptr, 0, nullptr, nullptr, &kernels};

// The same for the engine.
#define FEWBITS_ENGINE(family, kernels)                              \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME); \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, &kernels};

// The same for whole numbers.
#define FEWBITS_WHOLE(family, kernels)                               \
    extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME); \
    const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME) = {nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, nullptr, &kernels};

// In table.cpp: all families of one instruction set, and what they share.
#define FEWBITS_DECLARE_FAMILY(family) extern const CodecFamily FEWBITS_JOIN(family, FEWBITS_ISA_NAME);
#define FEWBITS_POINT_TO_FAMILY(family) &FEWBITS_JOIN(family, FEWBITS_ISA_NAME),
#define FEWBITS_TABLE(widen, extent, deviation)                                                                \
    FEWBITS_FAMILIES(FEWBITS_DECLARE_FAMILY)                                                                   \
    static const CodecFamily* const families[] = {FEWBITS_FAMILIES(FEWBITS_POINT_TO_FAMILY)};                  \
    extern const KernelTable FEWBITS_JOIN(table, FEWBITS_ISA_NAME);                                            \
    const KernelTable FEWBITS_JOIN(table, FEWBITS_ISA_NAME) = {                                                \
        FEWBITS_TEXT(FEWBITS_ISA_NAME), families, sizeof(families) / sizeof(*families), widen, extent, deviation};
