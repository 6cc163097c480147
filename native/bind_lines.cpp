// Python's door to codes with an offset of their own: checks sizes, releases the interpreter lock, calls the kernels.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "fewbits/lines.h"

namespace fewbits {
namespace {

// A member of the family, with the levels that `format` points to.
struct Member {
    Lines format;
    std::vector<float> levels;
};

// (kind, type of scales, columns of a group, largest code, least step), the levels of the search and how often each is refitted.
std::unique_ptr<Member> member_of(const std::tuple<int, std::string, int64_t, int, float>& facts, std::vector<float> levels, int refits) {
    const auto& [kind, type, group, top, least] = facts;
    require((kind == 0 || kind == 1) && group >= 1 && top >= 1 && top <= 255 && refits >= 0, "there are no such lines");
    require(type == "f32" || type == "f16" || type == "bf16", "scales are f32, f16 or bf16");
    auto made = std::make_unique<Member>();
    made->levels = std::move(levels);
    const ScaleType scale = type == "f16" ? ScaleType::f16 : type == "bf16" ? ScaleType::bf16 : ScaleType::f32;
    made->format = {static_cast<LineKind>(kind), scale, group, top, least, made->levels.data(), static_cast<int>(made->levels.size()), refits};
    return made;
}

const LineKernels& lines_of(const KernelTable& table) {
    for (size_t f = 0; f < table.family_count; ++f)
        if (table.families[f]->lines) return *table.families[f]->lines;
    throw std::invalid_argument("this build has no kernels for lines");
}

int64_t groups_per_row(const Member& member, int64_t cols) {
    require(cols > 0 && cols % member.format.group == 0, "columns are not a multiple of the group");
    return cols / member.format.group;
}

template <typename Array>
void require_shape(const Array& array, int64_t rows, int64_t cols, const char* what) {
    require(static_cast<int64_t>(array.shape(0)) == rows && static_cast<int64_t>(array.shape(1)) == cols, what);
}

// The scale and the offset of every group; `steps` and `zeros` are the best line with a whole zero point.
void fit(const Member& member, const Bytes& source, const std::string& numbers, const std::optional<Floats>& importance,
         const FloatsIn& steps, const Bytes& zeros, const FloatsOut& scales, const FloatsOut& offsets, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const LineKernels& lines = lines_of(table);
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0)), row_bytes = static_cast<int64_t>(source.shape(1));
    const int64_t cols = row_bytes / width_of(kind), count = groups_per_row(member, cols);
    require_shape(steps, rows, count, "one step per group is wanted");
    require_shape(zeros, rows, count, "one zero point per group is wanted");
    require_shape(scales, rows, count, "one scale per group is wanted");
    require_shape(offsets, rows, count, "one offset per group is wanted");
    require(!importance || static_cast<int64_t>(importance->shape(0)) == cols, "one importance per column is wanted");
    nb::gil_scoped_release unlocked;
    std::vector<float> w(static_cast<size_t>(cols));
    for (int64_t row = 0; row < rows; ++row) {
        table.widen(kind, source.data() + row * row_bytes, cols, w.data());
        const int64_t at = row * count;
        lines.fit(member.format, w.data(), importance ? importance->data() : nullptr, count, steps.data() + at, zeros.data() + at,
                  scales.data() + at, offsets.data() + at);
    }
}

// Codes, one in a byte, under given scales and offsets, and how far they are from the source, per row.
void encode(const Member& member, const Bytes& source, const std::string& numbers, const FloatsIn& scales, const FloatsIn& offsets,
            const BytesOut& codes, const Doubles& squared_error, const Doubles& squared, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const LineKernels& lines = lines_of(table);
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0)), row_bytes = static_cast<int64_t>(source.shape(1));
    const int64_t cols = row_bytes / width_of(kind), count = groups_per_row(member, cols);
    require_shape(scales, rows, count, "one scale per group is wanted");
    require_shape(offsets, rows, count, "one offset per group is wanted");
    require_shape(codes, rows, cols, "one code per number is wanted");
    require(static_cast<int64_t>(squared_error.shape(0)) == rows && static_cast<int64_t>(squared.shape(0)) == rows,
            "one error per row is wanted");
    nb::gil_scoped_release unlocked;
    std::vector<float> w(static_cast<size_t>(cols)), back(w.size());
    for (int64_t row = 0; row < rows; ++row) {
        const uint8_t* in = source.data() + row * row_bytes;
        const float *scale = scales.data() + row * count, *offset = offsets.data() + row * count;
        table.widen(kind, in, cols, w.data());
        lines.encode(member.format, w.data(), scale, offset, count, codes.data() + row * cols);
        lines.decode(member.format, codes.data() + row * cols, scale, offset, count, back.data());
        const Deviation d = table.deviation(kind, in, back.data(), cols);
        squared_error.data()[row] = d.squared_error;
        squared.data()[row] = d.squared;
    }
}

// Numbers of codes, one in a byte.
void decode(const Member& member, const Bytes& codes, const FloatsIn& scales, const FloatsIn& offsets, const FloatsOut& w,
            const std::string& isa) {
    const LineKernels& lines = lines_of(table_of(isa));
    const int64_t rows = static_cast<int64_t>(w.shape(0)), cols = static_cast<int64_t>(w.shape(1)), count = groups_per_row(member, cols);
    require_shape(codes, rows, cols, "one code per number is wanted");
    require_shape(scales, rows, count, "one scale per group is wanted");
    require_shape(offsets, rows, count, "one offset per group is wanted");
    nb::gil_scoped_release unlocked;
    for (int64_t row = 0; row < rows; ++row)
        lines.decode(member.format, codes.data() + row * cols, scales.data() + row * count, offsets.data() + row * count, count, w.data() + row * cols);
}

}  // namespace

void bind_lines(nb::module_& m) {
    nb::class_<Member>(m, "Lines");
    m.def("lines", &member_of, nb::arg("facts"), nb::arg("levels"), nb::arg("refits"));
    m.def("fit_lines", &fit, nb::arg("lines"), nb::arg("source"), nb::arg("numbers"), nb::arg("importance").none(), nb::arg("steps"),
          nb::arg("zeros"), nb::arg("scales"), nb::arg("offsets"), nb::arg("isa") = "");
    m.def("encode_lines", &encode, nb::arg("lines"), nb::arg("source"), nb::arg("numbers"), nb::arg("scales"), nb::arg("offsets"),
          nb::arg("codes"), nb::arg("squared_error"), nb::arg("squared"), nb::arg("isa") = "");
    m.def("decode_lines", &decode, nb::arg("lines"), nb::arg("codes"), nb::arg("scales"), nb::arg("offsets"), nb::arg("w"),
          nb::arg("isa") = "");
}

}  // namespace fewbits
