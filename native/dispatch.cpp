// Chooses a kernel table once. FEWBITS_ISA=scalar|avx2|avx512|neon forces one, and fails loudly where it cannot run.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fewbits/engine.h"
#include "fewbits/kernels.h"

namespace fewbits {

extern const KernelTable table_scalar;
Agreement compare_scalar(int, const uint8_t*, Number, const void*, int64_t, double);
#ifdef FEWBITS_HAVE_AVX2
extern const KernelTable table_avx2;
Agreement compare_avx2(int, const uint8_t*, Number, const void*, int64_t, double);
#endif
#ifdef FEWBITS_HAVE_AVX512
extern const KernelTable table_avx512;
Agreement compare_avx512(int, const uint8_t*, Number, const void*, int64_t, double);
#endif
#ifdef FEWBITS_HAVE_NEON
extern const KernelTable table_neon;
Agreement compare_neon(int, const uint8_t*, Number, const void*, int64_t, double);
#endif

namespace {

struct Choice {
    const KernelTable* table;
    CompareFunction compare;
};

Choice choice_of(const char* isa) {
    const CpuFeatures cpu = cpu_features();
    (void)cpu;
#ifdef FEWBITS_HAVE_AVX512
    if (cpu.avx512 && !std::strcmp(isa, "avx512")) return {&table_avx512, compare_avx512};
#endif
#ifdef FEWBITS_HAVE_AVX2
    if (cpu.avx2 && !std::strcmp(isa, "avx2")) return {&table_avx2, compare_avx2};
#endif
#ifdef FEWBITS_HAVE_NEON
    if (cpu.neon && !std::strcmp(isa, "neon")) return {&table_neon, compare_neon};
#endif
    if (!std::strcmp(isa, "scalar")) return {&table_scalar, compare_scalar};
    return {nullptr, nullptr};
}

Choice choose() {
    if (const char* forced = std::getenv("FEWBITS_ISA"); forced && *forced) {
        const Choice choice = choice_of(forced);
        if (!choice.table)
            throw std::runtime_error(std::string("FEWBITS_ISA=") + forced +
                                     " names no instruction set that this build and this processor have; use scalar, "
                                     "avx2, avx512 or neon, or leave it unset");
        return choice;
    }
    for (const char* isa : {"avx512", "avx2", "neon", "scalar"})
        if (const Choice choice = choice_of(isa); choice.table) return choice;
    return choice_of("scalar");
}

const Choice& chosen() {
    static const Choice choice = choose();
    return choice;
}

}  // namespace

const KernelTable& kernels() { return *chosen().table; }
const KernelTable* kernels_of(const char* isa) { return choice_of(isa).table; }
const Codec* codec_of(const KernelTable& table, const char* format) {
    for (size_t f = 0; f < table.family_count; ++f) {
        const CodecFamily& family = *table.families[f];
        for (size_t i = 0; i < family.count; ++i)
            if (!std::strcmp(format, family.codecs[i].name)) return &family.codecs[i];
    }
    return nullptr;
}

const FieldCodec* field_codec_of(const KernelTable& table, const char* kind) {
    for (size_t f = 0; f < table.family_count; ++f) {
        const CodecFamily& family = *table.families[f];
        for (size_t i = 0; i < family.field_count; ++i)
            if (!std::strcmp(kind, family.field_codecs[i].kind)) return &family.field_codecs[i];
    }
    return nullptr;
}

const EngineKernels& engine_kernels_of(const KernelTable& table) {
    for (size_t f = 0; f < table.family_count; ++f)
        if (const EngineKernels* kernels = table.families[f]->engine) return *kernels;
    throw std::logic_error("a table without the engine's kernels");
}

const WholeKernels& whole_kernels_of(const KernelTable& table) {
    for (size_t f = 0; f < table.family_count; ++f)
        if (const WholeKernels* kernels = table.families[f]->whole) return *kernels;
    throw std::logic_error("a table without products of whole numbers");
}

const PackedType* packed_type_of(const EngineKernels& kernels, const char* format) {
    for (size_t i = 0; i < kernels.type_count; ++i)
        if (!std::strcmp(format, kernels.types[i].name)) return &kernels.types[i];
    for (size_t i = 0; i < kernels.group_count; ++i)
        if (!std::strcmp(format, kernels.groups[i].name)) return &kernels.groups[i];
    return nullptr;
}

CompareFunction comparing() { return chosen().compare; }

}  // namespace fewbits
