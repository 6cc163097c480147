// The kernel table: what one instruction set offers. Tables are chosen once, at run time (dispatch.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

#include "fewbits/feedback.h"
#include "fewbits/fields.h"
#include "fewbits/grouped.h"
#include "fewbits/lines.h"

namespace fewbits {

struct EngineKernels;  // fewbits/engine.h
struct WholeKernels;   // fewbits/whole.h
struct PackedType;

enum class Number : int { f32 = 0, f16 = 1, bf16 = 2 };

// How far a row is from what was stored of it. Both sums run over sixteen lanes, lane j taking columns j, j + 16, ...
// A tile of 256 columns is summed in single precision, differences included, a square and its addition rounded once
// (fused), where its largest magnitude lies in
// (squares_from, squares_to], so that squares neither vanish nor overflow, and in double precision otherwise. Lanes of
// tiles, and at last the lanes themselves, are added up in double precision, in their order.
struct Deviation {
    double squared_error;  // sum (w - stored)^2
    double squared;        // sum w^2; NaN or infinite where a number is: binary64 holds squares of all others
    float largest;         // magnitude, where all numbers are finite
};
constexpr int64_t deviation_tile = 256;
constexpr float squares_from = 0x1p-40f, squares_to = 0x1p60f;

struct Codec {
    const char* name;
    int columns;  // of one span
    int bytes;    // of one span
    // Fits parameters and chooses codes for `spans` consecutive spans of `w`. `weights`, one per number, weigh squared
    // errors; nullptr means the format's own weighting.
    void (*encode)(const float* w, const float* weights, int64_t spans, uint8_t* stored);
    void (*decode)(const uint8_t* stored, int64_t spans, float* w);
    // Weights (rows, cols) of squared errors where column c matters `importance[c]` (the mean square of what it is
    // multiplied with); nullptr: the importance itself.
    void (*weigh)(const float* w, const float* importance, int64_t rows, int64_t cols, float* weights) = nullptr;
    bool weighted = false;  // whether `encode` looks at weights
    const char* lattice = nullptr;  // the table of points that must be given first (fewbits/lattices.h)
    // Encodes rows of a checkpoint's numbers, f32 or bf16, as they lie, with the format's own weighting, and measures each
    // row in the same pass, all but its largest magnitude. Returns the largest of all rows, where all numbers are finite.
    // nullptr: what comes back is measured after `encode`.
    float (*encode_measured)(Number kind, const void* numbers, int64_t rows, int64_t cols, uint8_t* stored,
                             Deviation* deviations) = nullptr;
    // The same in given weights.
    float (*encode_weighted_measured)(const float* w, const float* weights, int64_t rows, int64_t cols, uint8_t* stored,
                                      Deviation* deviations) = nullptr;
};

struct CodecFamily {
    const Codec* codecs;
    size_t count;
    const FieldCodec* field_codecs = nullptr;  // of formats with several fields on disk
    size_t field_count = 0;
    const GroupedKernels* grouped = nullptr;    // in one family alone
    const FeedbackKernels* feedback = nullptr;  // in one family alone
    const LineKernels* lines = nullptr;         // in one family alone
    const EngineKernels* engine = nullptr;      // in one family alone
    const WholeKernels* whole = nullptr;        // in one family alone
};

struct KernelTable {
    const char* isa;
    const CodecFamily* const* families;
    size_t family_count;
    void (*widen)(Number kind, const void* numbers, int64_t count, float* w);
    // Largest magnitude, and how many numbers are NaN or infinite (those do not count towards the magnitude).
    void (*extent)(Number kind, const void* numbers, int64_t count, float* absmax, int64_t* not_finite);
    Deviation (*deviation)(Number kind, const void* numbers, const float* stored, int64_t count);
};

struct Agreement {
    double squared_error;
    double squared;
    double worst;  // largest (|w - stored| - floor) within a span over the largest |w| of that span
};

// The stranger's reading of `stored` against the source's numbers; shares no code with the codecs (verify/compare.cpp).
using CompareFunction = Agreement (*)(int format, const uint8_t* stored, Number kind, const void* numbers, int64_t count,
                                      double floor);

const KernelTable& kernels();                  // the best table of this machine, or the one FEWBITS_ISA names
const KernelTable* kernels_of(const char* isa);  // nullptr when this machine or this build lacks it
const Codec* codec_of(const KernelTable& table, const char* format);  // nullptr when it has none
const FieldCodec* field_codec_of(const KernelTable& table, const char* kind);
const EngineKernels& engine_kernels_of(const KernelTable& table);
const WholeKernels& whole_kernels_of(const KernelTable& table);
const PackedType* packed_type_of(const EngineKernels& kernels, const char* format);  // nullptr when it has none
CompareFunction comparing();
int compare_format(const char* name);          // -1 when unknown

struct CpuFeatures {
    bool avx2, avx512, neon;
};
CpuFeatures cpu_features();

}  // namespace fewbits
