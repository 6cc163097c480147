// What the files that see Python share: the arrays that functions take, and checks of what they are given.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "fewbits/kernels.h"

namespace fewbits {
namespace {

namespace nb = nanobind;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsIn = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline const KernelTable& table_of(const std::string& isa) {
    if (isa.empty()) return kernels();
    const KernelTable* table = kernels_of(isa.c_str());
    if (!table) throw std::invalid_argument("no kernels for instruction set '" + isa + "' on this machine");
    return *table;
}

inline Number number_of(const std::string& name) {
    if (name == "F32") return Number::f32;
    if (name == "F16") return Number::f16;
    if (name == "BF16") return Number::bf16;
    throw std::invalid_argument("numbers are F32, F16 or BF16, not '" + name + "'");
}

inline int64_t width_of(Number kind) { return kind == Number::f32 ? 4 : 2; }

inline void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

}  // namespace
}  // namespace fewbits
